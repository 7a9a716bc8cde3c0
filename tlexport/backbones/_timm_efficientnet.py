"""Stages of the networks that timm builds from blocks like EfficientNet's: EfficientNet-Lite, MobileNetV3 and MobileNetV4."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def stages(net: Any) -> dict[str, nn.Module]:
    """The stem, timm's stages of blocks, the last 1x1 convolution with the pooling, the classifier.

    The last convolution precedes the pooling in EfficientNet and follows it in MobileNetV3 and MobileNetV4.
    """
    from torch import nn

    named: dict[str, nn.Module] = {"stem": nn.Sequential(net.conv_stem, net.bn1)}
    for number, blocks in enumerate(net.blocks, 1):
        named[f"stage{number}"] = blocks
    if hasattr(net, "norm_head"):
        named["top"] = nn.Sequential(net.global_pool, net.conv_head, net.norm_head, net.act2, nn.Flatten(1))
    else:
        named["top"] = nn.Sequential(net.conv_head, net.bn2, net.global_pool)
    named["head"] = net.classifier
    return named


def replace_classifier(net: Any, num_classes: int) -> None:
    """A new last layer."""
    from torch import nn

    net.classifier = nn.Linear(net.classifier.in_features, num_classes)

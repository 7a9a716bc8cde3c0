"""ConvNeXt (Liu et al. 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tlexport.backbones._stages import numbered

if TYPE_CHECKING:
    from torch import nn

VARIANTS = {"convnext_tiny": numbered(4)}


def stages(net: Any) -> dict[str, nn.Module]:
    """The stem, the four stages of the paper, each with the downsampling before it, the classifier's linear layer.

    The last stage ends in the pooling and the normalisation that torchvision counts to the classifier.
    """
    from torch import nn

    from tlexport.network import PlaneMean

    stem, blocks1, *rest = net.features
    named: dict[str, nn.Module] = {"stem": stem, "stage1": blocks1}
    for number, (downsampling, blocks) in enumerate(zip(rest[::2], rest[1::2], strict=True), 2):
        named[f"stage{number}"] = nn.Sequential(downsampling, blocks)
    norm, flatten, linear = net.classifier
    named["stage4"] = nn.Sequential(named["stage4"], PlaneMean(), norm, flatten)
    named["head"] = linear
    return named


def replace_classifier(net: Any, num_classes: int) -> None:
    """A new last layer."""
    from torch import nn

    net.classifier[-1] = nn.Linear(net.classifier[-1].in_features, num_classes)

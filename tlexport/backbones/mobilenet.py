"""MobileNetV2 (Sandler et al. 2018) and MobileNetV3 (Howard et al. 2019)."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from tlexport.backbones._stages import numbered

if TYPE_CHECKING:
    from torch import nn

VARIANTS = {
    "mobilenet_v2": numbered(7, "top"),
    "mobilenet_v3_small": numbered(5, "top"),
    "mobilenet_v3_large": numbered(6, "top"),
}


def stages(net: Any) -> dict[str, nn.Module]:
    """The stem, a stage for each run of blocks of equal width, the last 1x1 convolution with the pooling, the classifier."""
    from torch import nn

    stem, *blocks, top = net.features
    named: dict[str, nn.Module] = {"stem": stem}
    for _, group in groupby(blocks, key=lambda block: block.out_channels):
        named[f"stage{len(named)}"] = nn.Sequential(*group)
    named["top"] = nn.Sequential(top, nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
    named["head"] = net.classifier
    return named


def replace_classifier(net: Any, num_classes: int) -> None:
    """A new last layer; MobileNetV3's hidden layer before it is kept."""
    from torch import nn

    net.classifier[-1] = nn.Linear(net.classifier[-1].in_features, num_classes)

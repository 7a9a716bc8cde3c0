"""EfficientNet (Tan and Le 2019) and EfficientNetV2 (Tan and Le 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tlexport.backbones._stages import numbered

if TYPE_CHECKING:
    from torch import nn

VARIANTS = {
    **{f"efficientnet_b{number}": numbered(7, "top") for number in range(8)},
    "efficientnet_v2_s": numbered(6, "top"),
    "efficientnet_v2_m": numbered(7, "top"),
    "efficientnet_v2_l": numbered(7, "top"),
}


def stages(net: Any) -> dict[str, nn.Module]:
    """The stem, the stages of the paper, the last 1x1 convolution with the pooling, the classifier."""
    from torch import nn

    stem, *middle, top = net.features
    named: dict[str, nn.Module] = {"stem": stem, **{f"stage{number}": stage for number, stage in enumerate(middle, 1)}}
    named["top"] = nn.Sequential(top, net.avgpool, nn.Flatten(1))
    named["head"] = net.classifier
    return named


def replace_classifier(net: Any, num_classes: int) -> None:
    """A new last layer."""
    from torch import nn

    net.classifier[-1] = nn.Linear(net.classifier[-1].in_features, num_classes)

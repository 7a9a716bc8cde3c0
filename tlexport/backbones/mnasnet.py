"""MnasNet-B1 (Tan et al. 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tlexport.backbones._stages import numbered

if TYPE_CHECKING:
    from torch import nn

VARIANTS = dict.fromkeys(("mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3"), numbered(7, "top"))


def stages(net: Any) -> dict[str, nn.Module]:
    """The stem, the separable convolution and the stacks of blocks, the last 1x1 convolution with the pooling, the classifier."""
    from torch import nn

    stem, separable, stacks, top = net.layers[:3], net.layers[3:8], net.layers[8:-3], net.layers[-3:]
    named: dict[str, nn.Module] = {"stem": stem, **{f"stage{number}": stage for number, stage in enumerate((separable, *stacks), 1)}}
    named["top"] = nn.Sequential(*top, nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
    named["head"] = net.classifier
    return named


def replace_classifier(net: Any, num_classes: int) -> None:
    """A new last layer."""
    from torch import nn

    net.classifier[-1] = nn.Linear(net.classifier[-1].in_features, num_classes)

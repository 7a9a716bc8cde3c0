"""RegNetX and RegNetY (Radosavovic et al. 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tlexport.backbones._stages import numbered

if TYPE_CHECKING:
    from torch import nn

VARIANTS = dict.fromkeys(
    ("regnet_y_400mf", "regnet_y_800mf", "regnet_y_1_6gf", "regnet_x_400mf", "regnet_x_800mf", "regnet_x_1_6gf"), numbered(4)
)


def stages(net: Any) -> dict[str, nn.Module]:
    """The stem, the four stages of the paper (the last with the global pooling), the classifier."""
    from torch import nn

    return {
        "stem": net.stem,
        "stage1": net.trunk_output.block1,
        "stage2": net.trunk_output.block2,
        "stage3": net.trunk_output.block3,
        "stage4": nn.Sequential(net.trunk_output.block4, net.avgpool, nn.Flatten(1)),
        "head": net.fc,
    }


def replace_classifier(net: Any, num_classes: int) -> None:
    """A new last layer."""
    from torch import nn

    net.fc = nn.Linear(net.fc.in_features, num_classes)

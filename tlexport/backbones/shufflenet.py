"""ShuffleNetV2 (Ma et al. 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tlexport.backbones._stages import numbered

if TYPE_CHECKING:
    from torch import nn

VARIANTS = dict.fromkeys(("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0"), numbered(3, "top"))


def stages(net: Any) -> dict[str, nn.Module]:
    """The stem with its max-pooling, the three stages of the paper, the last 1x1 convolution with the pooling, the classifier."""
    from torch import nn

    return {
        "stem": nn.Sequential(net.conv1, net.maxpool),
        "stage1": net.stage2,
        "stage2": net.stage3,
        "stage3": net.stage4,
        "top": nn.Sequential(net.conv5, nn.AdaptiveAvgPool2d(1), nn.Flatten(1)),
        "head": net.fc,
    }


def replace_classifier(net: Any, num_classes: int) -> None:
    """A new last layer."""
    from torch import nn

    net.fc = nn.Linear(net.fc.in_features, num_classes)

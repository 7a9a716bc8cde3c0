"""ResNet (He et al. 2015), in torchvision's v1.5 form (stride in the 3x3 convolution)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tlexport.backbones._stages import numbered

if TYPE_CHECKING:
    from torch import nn

VARIANTS = dict.fromkeys(("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"), numbered(4))


def stages(net: Any) -> dict[str, nn.Module]:
    """The stem with its max-pooling, the four stages of the paper (the last with the global pooling), the classifier."""
    from torch import nn

    return {
        "stem": nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool),
        "stage1": net.layer1,
        "stage2": net.layer2,
        "stage3": net.layer3,
        "stage4": nn.Sequential(net.layer4, net.avgpool, nn.Flatten(1)),
        "head": net.fc,
    }


def replace_classifier(net: Any, num_classes: int) -> None:
    """A new last layer."""
    from torch import nn

    net.fc = nn.Linear(net.fc.in_features, num_classes)

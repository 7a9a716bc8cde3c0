"""Inception v3 (Szegedy et al. 2015), without its auxiliary classifier, which only serves training from scratch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tlexport.backbones._stages import numbered
from tlexport.ports import Traits

if TYPE_CHECKING:
    from torch import nn

VARIANTS = {"inception_v3": numbered(4)}
TRAITS = Traits(
    builder={"aux_logits": False, "init_weights": False},  # with BatchNorm, torch's own initialisation is as good, and faster
    left_out=("AuxLogits.",),
    normalisation=((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),  # equivalent to torchvision's transform_input
    smallest=75,  # min_size of torchvision's weights; with smaller images a pooling has no output
)


def stages(net: Any) -> dict[str, nn.Module]:
    """A stage for each size of the planes: 73, 35 (twice: convolutions, then blocks), 17, 8; the last with the pooling; the classifier."""
    from torch import nn

    return {
        "stem": nn.Sequential(net.Conv2d_1a_3x3, net.Conv2d_2a_3x3, net.Conv2d_2b_3x3, net.maxpool1),
        "stage1": nn.Sequential(net.Conv2d_3b_1x1, net.Conv2d_4a_3x3, net.maxpool2),
        "stage2": nn.Sequential(net.Mixed_5b, net.Mixed_5c, net.Mixed_5d),
        "stage3": nn.Sequential(net.Mixed_6a, net.Mixed_6b, net.Mixed_6c, net.Mixed_6d, net.Mixed_6e),
        "stage4": nn.Sequential(net.Mixed_7a, net.Mixed_7b, net.Mixed_7c, net.avgpool, nn.Flatten(1)),
        "head": nn.Sequential(net.dropout, net.fc),
    }


def replace_classifier(net: Any, num_classes: int) -> None:
    """A new last layer."""
    from torch import nn

    net.fc = nn.Linear(net.fc.in_features, num_classes)

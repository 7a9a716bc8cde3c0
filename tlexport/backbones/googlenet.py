"""GoogLeNet (Szegedy et al. 2014), without its auxiliary classifiers, which only serve training from scratch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tlexport.backbones._stages import numbered
from tlexport.ports import Traits

if TYPE_CHECKING:
    from torch import nn

VARIANTS = {"googlenet": numbered(4)}
TRAITS = Traits(
    builder={"aux_logits": False, "init_weights": False},  # with BatchNorm, torch's own initialisation is as good, and faster
    left_out=("aux1.", "aux2."),
    normalisation=((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),  # equivalent to torchvision's transform_input
)


def stages(net: Any) -> dict[str, nn.Module]:
    """A stage up to each max-pooling, the last blocks with the global pooling, the classifier."""
    from torch import nn

    return {
        "stem": nn.Sequential(net.conv1, net.maxpool1),
        "stage1": nn.Sequential(net.conv2, net.conv3, net.maxpool2),
        "stage2": nn.Sequential(net.inception3a, net.inception3b, net.maxpool3),
        "stage3": nn.Sequential(net.inception4a, net.inception4b, net.inception4c, net.inception4d, net.inception4e, net.maxpool4),
        "stage4": nn.Sequential(net.inception5a, net.inception5b, net.avgpool, nn.Flatten(1)),
        "head": nn.Sequential(net.dropout, net.fc),
    }


def replace_classifier(net: Any, num_classes: int) -> None:
    """A new last layer."""
    from torch import nn

    net.fc = nn.Linear(net.fc.in_features, num_classes)

"""VGG with BatchNorm (Simonyan and Zisserman 2014; Ioffe and Szegedy 2015)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tlexport.backbones._pools import up_to_each_pool
from tlexport.backbones._stages import numbered

if TYPE_CHECKING:
    from torch import nn

VARIANTS = dict.fromkeys(("vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"), numbered(4, "hidden"))


def stages(net: Any) -> dict[str, nn.Module]:
    """A stage up to each max-pooling, the classifier's two hidden layers, which hold most of the weights, its last layer."""
    from torch import nn

    named: dict[str, nn.Module] = {**up_to_each_pool(net.features)}
    top = list(named)[-1]
    named[top] = nn.Sequential(*named[top].children(), net.avgpool, nn.Flatten(1))
    named["hidden"] = net.classifier[:-2]
    named["head"] = net.classifier[-2:]
    return named


def replace_classifier(net: Any, num_classes: int) -> None:
    """A new last layer; the hidden layers before it are kept."""
    from torch import nn

    net.classifier[-1] = nn.Linear(net.classifier[-1].in_features, num_classes)

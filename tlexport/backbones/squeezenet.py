"""SqueezeNet (Iandola et al. 2016)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tlexport.backbones._pools import up_to_each_pool
from tlexport.backbones._stages import numbered

if TYPE_CHECKING:
    from torch import nn

VARIANTS = dict.fromkeys(("squeezenet1_0", "squeezenet1_1"), numbered(3))


def stages(net: Any) -> dict[str, nn.Module]:
    """A stage up to each max-pooling, the blocks after the last one, the classifier: a convolution, and only then the pooling."""
    from torch import nn

    return {**up_to_each_pool(net.features), "head": nn.Sequential(*net.classifier, nn.Flatten(1))}


def replace_classifier(net: Any, num_classes: int) -> None:
    """A new convolution with a plane for each class, initialised as torchvision does."""
    from torch import nn

    convolution = nn.Conv2d(net.classifier[1].in_channels, num_classes, kernel_size=1)
    nn.init.normal_(convolution.weight, std=0.01)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    net.classifier[1] = convolution
    net.num_classes = num_classes

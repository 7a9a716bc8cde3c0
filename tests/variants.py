"""The backbones that the tests train, a small one of each family; and a random start that preserves activations."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torchvision import models

from tlexport import plugins
from tlexport.network import Network

LIGHT = 12_000_000  # parameters; what is trained is the same code for all, and a VGG has 130 million


def of_source(source: str) -> tuple[str, ...]:
    """The variants of all families of a source."""
    return tuple(variant for variant in plugins.backbone_names() if source == plugins.family_of(variant).SOURCE)


@cache
def parameters(backbone: str) -> int:
    """With 1000 classes: as torchvision publishes it, or counted."""
    if plugins.family_of(backbone).SOURCE == "torchvision":
        return int(models.get_model_weights(backbone).DEFAULT.meta["num_params"])
    with torch.device("meta"):
        return sum(p.numel() for p in plugins.source_of(backbone).build(backbone, plugins.traits_of(backbone)).parameters())


def light_variants() -> tuple[str, ...]:
    """The smallest variant of each family that has one of less than :data:`LIGHT` parameters."""
    smallest = (min(plugins.backbone(family).VARIANTS, key=parameters) for family in plugins.names("backbones"))
    return tuple(variant for variant in smallest if parameters(variant) < LIGHT)


def settle(network: Network, images: Tensor) -> None:
    """Set BatchNorm's statistics from normalised images (batch, 3, height, width).

    With the initial ones, what distinguishes two images fades away on the way through a random network.
    """
    momenta = {module: module.momentum for module in network.modules() if isinstance(module, nn.BatchNorm2d)}
    for module in momenta:
        module.momentum = 1.0
    with torch.no_grad():
        network.net.train()(images)
    network.eval()
    for module, momentum in momenta.items():
        module.momentum = momentum

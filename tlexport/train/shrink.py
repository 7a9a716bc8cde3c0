"""A smaller network of the same kind: a narrower hidden layer in the classifier, then fewer channels everywhere.

Which layers lose a channel together is found by Torch-Pruning's dependency graph (Fang et al. 2023, "DepGraph: Towards Any
Structural Pruning", arXiv 2301.12900); which channels go, and how many of each layer, is decided here. No data is looked at: what
is lost is to be won back by training the result for some epochs.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torchvision.models.shufflenetv2 import InvertedResidual, ShuffleNetV2

from tlexport.errors import OverBudget, UsageError
from tlexport.network import Network

MULTIPLE = 8  # channels; most of these architectures use multiples of 8, and INT8 kernels process 8 or 16 at once
LEAST_CHANNELS = 0.25  # share of a layer; accuracy is hard to recover with fewer
LEAST_HIDDEN = 128  # channels of a hidden layer in the classifier: with 64, MobileNetV3 loses more than channels elsewhere would cost
HIDDEN_STEP = 16  # channels


def parameters(network: Network) -> int:
    """Number of trained values; BatchNorm's statistics, which an exported graph has folded into its weights, are not counted."""
    return sum(parameter.numel() for parameter in network.net.parameters())


def to_fit(network: Network, image_size: int, most: int, *, multiple: int = MULTIPLE) -> Network:
    """A copy with at most ``most`` parameters, in evaluation mode: the classifier's hidden layer shrinks first, then all layers.

    Args:
        network: on the CPU; not changed.
        image_size: pixels a side.
        most: largest number of parameters.
        multiple: see :func:`prune`.

    Raises:
        OverBudget: not even the least that is left of each layer fits.
    """
    layers = _classifier(network.net)
    if len(layers) > 1:
        widest = max(layer.out_features for layer in layers[:-1])
        widths = range(widest, min(widest, LEAST_HIDDEN) - 1, -HIDDEN_STEP)
        network = slim_head(network, next((width for width in widths if _slimmed(network, width) <= most), widths[-1]))
    return prune(network, image_size, most, multiple=multiple)


def slim_head(network: Network, width: int) -> Network:
    """A copy, in evaluation mode, whose classifier has at most ``width`` channels in each hidden layer; all else is the same.

    A channel's importance is the product of the norms of the weights that make it and of those that read it, which bounds what
    it can change in the next layer. MobileNetV3 and VGG have hidden layers.

    Raises:
        UsageError: the classifier has no hidden layer, or not so wide a one, or ``width`` is not positive.
    """
    layers = _classifier(network.net)
    if len(layers) < 2:
        raise UsageError(f"the classifier of {network.backbone} has no hidden layer to slim", "its channels can be pruned")
    widest = max(layer.out_features for layer in layers[:-1])
    if not 0 < width <= widest:
        raise UsageError(f"a hidden layer of {width} channels was asked for; {network.backbone} has {widest}", f"give 1 to {widest}")
    smaller = copy.deepcopy(network).eval()
    for hidden, reader in pairwise(_classifier(smaller.net)):
        importance = hidden.weight.detach().norm(dim=1) * reader.weight.detach().norm(dim=0)  # (channel,)
        kept = importance.topk(min(width, len(importance))).indices.sort().values
        hidden.weight, hidden.bias = nn.Parameter(hidden.weight.detach()[kept]), nn.Parameter(hidden.bias.detach()[kept])
        reader.weight = nn.Parameter(reader.weight.detach()[:, kept])
        hidden.out_features = reader.in_features = len(kept)
    return smaller


def prune(network: Network, image_size: int, most: int, *, multiple: int = MULTIPLE) -> Network:
    """A copy with at most ``most`` parameters, in evaluation mode and unfrozen, without the least important channels of all layers.

    Importance of a channel: the squares of all weights that go with it, group by group, as in DepGraph; made comparable across
    groups by what would be left of the group's sum (LAMP: Lee et al. 2021, "Layer-Adaptive Sparsity for the Magnitude-based
    Pruning", arXiv 2010.07611). The classes stay, and so do channels that a grouped convolution reads or makes (RegNet), and those
    that ShuffleNet shuffles.

    Args:
        network: on the CPU; not changed.
        image_size: pixels a side.
        most: largest number of parameters.
        multiple: each layer that loses channels keeps a multiple of this; at least one, and at least a quarter of its own.

    Raises:
        OverBudget: not even the least that is left of each layer fits.
    """
    smaller = copy.deepcopy(network).requires_grad_(True).eval()  # channels are traced along gradients, also in frozen layers
    with torch.enable_grad():
        lots = [lot for group in _groups(smaller.net, image_size) for lot in group.lots(multiple)]
    lots.sort(key=lambda lot: lot.importance)
    lots.reverse()  # the next is the last; of equals in a group, the one that leaves a multiple comes first
    while parameters(smaller) > most:
        if not lots:
            raise OverBudget(
                f"{network.backbone} cannot be pruned to {most:,} parameters: {parameters(smaller):,} are the least",
                "allow a larger size, or choose a smaller backbone (tlx backbones lists them)",
            )
        going: dict[int, list[_Lot]] = {}
        saved = 0.0  # upper bound: counts each lot as if removed alone, so that a round does not remove too many
        while lots and parameters(smaller) - saved > most:
            lot = lots.pop()
            saved += lot.saves
            going.setdefault(id(lot.group), []).append(lot)
        for together in going.values():
            together[0].group.remove([channel for lot in together for channel in lot.channels])
    return smaller


@dataclass
class _Group:
    """Channels that are removed from several layers together: the layer that makes them, and all that scale, add or read them."""

    graph: torch_pruning.DependencyGraph
    layer: nn.Module  # which makes the channels
    importance: Tensor  # float32 (channel,)
    saves: float  # parameters that go with one channel
    left: list[int]  # remaining channels

    def lots(self, multiple: int) -> Iterator[_Lot]:
        """All channels but the least number that stays, the least important first; after each lot a multiple is left."""
        count = len(self.left)
        least = max(1, -(-count * LEAST_CHANNELS // multiple)) * multiple
        order = self.importance.argsort(stable=True).tolist()
        start, stop = 0, count % multiple or multiple
        while count - stop >= least:
            channels = order[start:stop]
            yield _Lot(self, channels, float(self.importance[channels].mean()), self.saves * len(channels))
            start, stop = stop, stop + multiple

    def remove(self, channels: list[int]) -> None:
        """Remove channels from every layer of the group."""
        cut = self.graph.get_pruner_of_module(self.layer).prune_out_channels
        places = [self.left.index(channel) for channel in channels]
        self.graph.get_pruning_group(self.layer, cut, places).prune(record_history=False)
        self.left = sorted(set(self.left) - set(channels))


@dataclass(frozen=True)
class _Lot:
    """Channels of a group that are removed together."""

    group: _Group
    channels: list[int]
    importance: float
    saves: float  # parameters


def _groups(net: nn.Module, image_size: int) -> Iterator[_Group]:
    """Every group whose channels may be removed."""
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=2, normalizer="lamp")
    for part, example in _traceable(net, image_size):
        graph = torch_pruning.DependencyGraph().build_dependency(part, example, verbose=False)
        last = [module for module in part.modules() if isinstance(module, nn.Conv2d | nn.Linear)][-1]
        for group in graph.get_all_groups(ignored_layers=[last]):
            layers = [dependency.layer for dependency, _ in group]
            # as many would have to go from each of its groups
            if any(isinstance(layer, nn.Conv2d) and 1 < layer.groups < layer.out_channels for layer in layers):
                continue
            channels = list(range(len(group[0].idxs)))
            # nan: nothing but zeros
            yield _Group(graph, layers[0], importance(group).nan_to_num(0.0), _touched(graph, group) / len(channels), channels)


def _traceable(net: Any, image_size: int) -> Iterator[tuple[nn.Module, Tensor]]:
    """The parts of a network within which channels can be followed, each with an input, normalised (1, channel, height, width).

    It is the whole, but for ShuffleNet, where channels change places between blocks: they can go inside a block, and at the end.
    """
    if not isinstance(net, ShuffleNetV2):
        yield net, torch.zeros(1, 3, image_size, image_size)
        return
    blocks = [module.branch2 for module in net.modules() if isinstance(module, InvertedResidual)]
    for block in blocks:
        yield block, torch.zeros(1, block[0].in_channels, 8, 8)
    yield nn.Sequential(net.conv5, nn.AdaptiveAvgPool2d(1), nn.Flatten(1), net.fc), torch.zeros(1, net.conv5[0].in_channels, 8, 8)


def _touched(graph: torch_pruning.DependencyGraph, group: torch_pruning.Group) -> float:
    """Number of parameters in a group's channels."""
    total = 0.0
    for dependency, places in group:
        layer = dependency.layer
        if isinstance(layer, nn.Parameter):  # ConvNeXt's scales
            total += layer.numel()
        elif list(layer.parameters(recurse=False)):
            made = graph.is_out_channel_pruning_fn(dependency.handler)
            channels = graph.get_out_channels(layer) if made else graph.get_in_channels(layer)
            weights = sum(values.numel() for name, values in layer.named_parameters() if made or name == "weight")
            total += weights * len(places) / channels
    return total


def _classifier(net: Any) -> list[nn.Linear]:
    """The linear layers of a network's classifier, hidden ones first."""
    return [layer for layer in getattr(net, "classifier", nn.Module()).children() if isinstance(layer, nn.Linear)]


def _slimmed(network: Network, width: int) -> int:
    """How many parameters :func:`slim_head` would leave."""
    layers = _classifier(network.net)
    sizes = [layers[0].in_features, *(min(width, layer.out_features) for layer in layers[:-1]), layers[-1].out_features]
    now = sum(values.numel() for layer in layers for values in layer.parameters())
    return parameters(network) - now + sum(before * after + after for before, after in pairwise(sizes))

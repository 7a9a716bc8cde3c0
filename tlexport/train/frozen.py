"""The frozen part of a network: a constant function, folded for speed, its outputs computed once per image."""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tlexport.checkpoint import Frozen
from tlexport.network import Contract, Network
from tlexport.plugins import source_of


def frozen_state(network: Network, count: int) -> dict[str, Tensor]:
    """Parameters and buffers (BatchNorm statistics) of the lowest ``count`` stages, by the names of the network's source."""
    inside = {id(t) for stage in list(network.stages.values())[:count] for t in (*stage.parameters(), *stage.buffers())}
    tensors: Iterable[tuple[str, Tensor]] = (*network.net.named_parameters(), *network.net.named_buffers())
    return {name: tensor for name, tensor in tensors if id(tensor) in inside}


def frozen_record(network: Network, count: int) -> Frozen:
    """The record in a checkpoint of a run that does not train the lowest ``count`` stages."""
    inside = frozen_state(network, count)
    sizes = {name: p.numel() for name, p in network.net.named_parameters()}
    return Frozen(
        stages=tuple(network.stages)[:count],
        parameters=sum(size for name, size in sizes.items() if name in inside),
        total_parameters=sum(sizes.values()),
    )


def fingerprint(state: dict[str, Tensor]) -> str:
    """SHA-256 over names and bytes: equal only for bit-identical tensors."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def folded(module: nn.Module) -> nn.Module:
    """A copy with each BatchNorm folded into the convolution before it, for evaluation.

    A pair is a convolution and the BatchNorm that follows it among the children of one module; all families define them in the
    order of execution. timm's BatchNormAct2d leaves its activation in place. A search for exact types, as in torch.fx, would miss
    it and timm's subclass of Conv2d.
    """
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        children = list(parent.named_children())
        for (name, conv), (norm_name, norm) in itertools.pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and conv.out_channels == norm.num_features:
                parent.register_module(name, fuse_conv_bn_eval(conv, norm))
                after = [getattr(norm, part) for part in ("drop", "act") if hasattr(norm, part)]
                parent.register_module(norm_name, nn.Sequential(*after))
    return module


class FrozenTrunk:
    """The contract and the lowest stages, as a copy with each BatchNorm folded into the convolution before it and constant padding.

    The same function as the stages in evaluation mode, up to rounding, in two thirds of the time or less.
    """

    def __init__(self, network: Network, contract: Contract, count: int, device: torch.device) -> None:
        stages = list(network.stages.values())[:count]
        self.stages = count
        state = {**frozen_state(network, count), "contract.scale": contract.scale, "contract.bias": contract.bias}
        self.fingerprint = fingerprint(state)
        self.device = device
        self._folded = folded(nn.Sequential(contract, *stages).eval()).to(device)
        self._pad_statically = source_of(network.backbone).pad_statically
        self._fixed: dict[tuple[int, ...], nn.Module] = {}  # by height and width of the images

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 (batch, height, width, 3) -> float32 (batch, ...), no gradient."""
        # not inference mode: the trained stages save these tensors for their gradients
        with torch.no_grad():
            features: Tensor = self.module_for(pixels)(pixels.to(self.device, non_blocking=True))
        return features

    def module_for(self, pixels: Tensor) -> nn.Module:
        """The module with padding for images of the height and width of these: uint8 (batch, height, width, 3)."""
        size = tuple(pixels.shape[1:3])
        key = () if self._pad_statically is None else size
        if key not in self._fixed:
            module = self._folded
            if self._pad_statically is not None:
                module = copy.deepcopy(module)
                self._pad_statically(module, torch.zeros((1, *size, 3), dtype=torch.uint8, device=self.device))
            self._fixed[key] = module.to(memory_format=torch.channels_last)
        return self._fixed[key]

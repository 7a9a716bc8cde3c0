"""The frozen part of a network: a constant function, folded for speed, its outputs computed once per image."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from tlexport.checkpoint import Frozen
from tlexport.network import Contract, Network


def frozen_state(network: Network, count: int) -> dict[str, Tensor]:
    """Parameters and buffers (BatchNorm statistics) of the lowest ``count`` stages, by torchvision's names."""
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


class FrozenTrunk:
    """The contract and the lowest stages, as a copy with each BatchNorm folded into the convolution before it.

    The same function as the stages in evaluation mode, up to rounding, in two thirds of the time or less.
    """

    def __init__(self, network: Network, contract: Contract, count: int, device: torch.device) -> None:
        stages = list(network.stages.values())[:count]
        self.stages = count
        state = {**frozen_state(network, count), "contract.scale": contract.scale, "contract.bias": contract.bias}
        self.fingerprint = fingerprint(state)
        self.device = device
        self.module = fuse(nn.Sequential(contract, *stages).eval()).to(device).to(memory_format=torch.channels_last)

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 (batch, height, width, 3) -> float32 (batch, ...), no gradient."""
        # not inference mode: the trained stages save these tensors for their gradients
        with torch.no_grad():
            features: Tensor = self.module(pixels.to(self.device, non_blocking=True))
        return features

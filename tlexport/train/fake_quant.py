"""Simulates an INT8 graph with gradients, for quantization-aware training (Jacob et al. 2018, arXiv:1712.05877).

The float weights stay the only weights. They are trained on the grid that the quantizers of INT8 lay over them afterwards, whichever kind
of graph is made of them, and all else that starts from float weights still does: FP16, mixed precision, the choice of ranges. torchao's way
(PT2E, 0.18) trains a graph that ``torch.export`` captured, with pairs where the quantizer of one backend wants them (it brings those of
Inductor), and ends in integer weights with ranges of its own: each kind of our graphs would need a quantizer and a training for itself, and
what comes out is no state dict of torchvision's. So the numerics are torch's own operators, and no more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Activations = Literal["uint8", "int8"]  # as of ports.QuantizeRequest

LEVELS = {"uint8": (0, 255), "int8": (-127, 127)}  # ONNX Runtime's symmetric int8 excludes -128
AVERAGED = 0.05  # weight of a new batch in the moving average of ranges; high, because a short training has only tens of batches

WEIGHTED_FUNCTIONS: tuple[Callable[..., Any], ...] = (F.conv2d, F.linear)
# what reads activations that no convolution has taken in: gates and swishes, squeeze and excitation, residual sums
READERS: tuple[Callable[..., Any], ...] = (
    *(F.hardswish, F.silu, F.hardsigmoid, F.sigmoid, torch.sigmoid, Tensor.sigmoid, F.adaptive_avg_pool2d),
    *(torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__iadd__),
    *(torch.mul, Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__imul__),
)


def fake_quantized(weight: Tensor) -> Tensor:
    """Rounded to symmetric int8, one scale for each output channel (the first axis), with straight-through gradients.

    Such scales commute with a factor for each output channel, so that BatchNorm in evaluation mode need not be folded first: what is
    folded after rounding is what is rounded after folding.
    """
    low, high = LEVELS["int8"]
    scale = weight.detach().abs().flatten(1).amax(1).clamp(min=torch.finfo(weight.dtype).tiny) / high
    return torch.fake_quantize_per_channel_affine(weight, scale, torch.zeros_like(scale, dtype=torch.int32), 0, low, high)


class FakeQuantization(TorchFunctionMode):
    """Computes a forward pass with fake-quantized weights and activations. One object serves one network.

    It stands in front of torch's functions, not in the modules: the network is never changed. Activations have one scale for a whole
    tensor: ``uint8`` with a zero point and 0 in the range, or symmetric ``int8``. Each range is a moving average of the extremes of its
    batches, found again by its place in the pass. Biases stay float: int32, which they become, is as fine.

    Args:
        activations: type of the quantized ones. With ``uint8`` the first convolution takes the pixels as they are, and its weights have
            the normalisation in them when they are rounded (quantizers/_pixels.py).
        std: standard deviation of the normalisation, per channel.
    """

    def __init__(self, activations: Activations, std: Sequence[float] = (1.0, 1.0, 1.0)) -> None:
        super().__init__()
        self.quantizing = False  # False: only record ranges
        self._symmetric, self._levels = activations == "int8", LEVELS[activations]
        self._ranges: list[Tensor] = []  # smallest and largest value of each activation, float32 (2,)
        self._std = torch.tensor(std).reshape(1, -1, 1, 1)
        self._place, self._first = 0, True

    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        """The output of the network, (batch, 3, height, width) -> (batch, class)."""
        self._place, self._first = 0, True
        with self:
            logits: Tensor = network(images)
        return logits

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in WEIGHTED_FUNCTIONS:
            values, weight, *rest = args
            pixels, self._first = self._first and func is F.conv2d and not self._symmetric, False
            if self.quantizing:
                weight = fake_quantized(weight / self._std) * self._std if pixels else fake_quantized(weight)
            args = (values if pixels else self._activation(values), weight, *rest)
        elif func in READERS:
            args = tuple(self._activation(value) if isinstance(value, Tensor) and value.dim() > 1 else value for value in args)
        return func(*args, **(kwargs or {}))

    def _activation(self, values: Tensor) -> Tensor:
        ends = torch.stack(values.detach().aminmax())
        if self._place == len(self._ranges):
            self._ranges.append(ends)
        self._ranges[self._place] = ends = self._ranges[self._place].lerp(ends, AVERAGED)
        self._place += 1
        if not self.quantizing:
            return values
        lowest, highest = self._levels
        low, high = ends[0].clamp(max=0), ends[1].clamp(min=0)
        width = 2 * torch.maximum(-low, high) if self._symmetric else high - low
        scale = (width / (highest - lowest)).clamp(min=torch.finfo(values.dtype).tiny)
        zero = torch.zeros_like(scale) if self._symmetric else (lowest - low / scale).round()
        return torch.fake_quantize_per_tensor_affine(values, scale, zero.to(torch.int32), lowest, highest)

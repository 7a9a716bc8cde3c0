"""A network with random weights, for timing: weights do not affect the latency, as long as activations do not become denormal."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import torch

from tlexport.contract import Preprocess
from tlexport.export.ranges import Ranges
from tlexport.export.to_onnx import to_onnx
from tlexport.hardware.profile import Profile
from tlexport.network import Contract, build

CLASSES = 10


def random_network(backbone: str, size: int, profile: Profile) -> tuple[onnx.ModelProto, Ranges, npt.NDArray[np.uint8]]:
    """A network as ``tlx export`` starts with it.

    Args:
        backbone: name of a variant.
        size: side of the image, pixels.
        profile: the target.

    Returns:
        The FP32 graph, the ranges of its activations, and the pixels they were observed on: uint8, (image, height, width, channel).
    """
    torch.manual_seed(0)
    network, preprocess = build(backbone, CLASSES), Preprocess(size=size, resize=size)
    pixels = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), np.uint8)
    with torch.no_grad():  # BatchNorm statistics keep the activations from fading: a CPU is slow with denormal numbers
        for _ in range(20):
            network.net.train()(Contract(preprocess)(torch.from_numpy(pixels)))
    network.eval()
    whole = to_onnx(network, preprocess, "uint8", profile.opset.value)
    return whole, Ranges(whole, pixels), pixels

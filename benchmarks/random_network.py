"""A network whose weights nobody trained, for timing: weights do not change how long a network takes, as long as nothing fades away."""

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
    """A network as ``tlx export`` begins with it.

    Args:
        backbone: name of a variant.
        size: side of the image, pixels.
        profile: the target.

    Returns:
        The graph in FP32, what its activations are, and the pixels that they were seen on: uint8, (image, height, width, channel).
    """
    torch.manual_seed(0)
    network, preprocess = build(backbone, CLASSES), Preprocess(size=size, resize=size)
    pixels = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), np.uint8)
    with torch.no_grad():  # BatchNorm's statistics, without which values fade away: a CPU is slow with numbers next to zero
        for _ in range(20):
            network.net.train()(Contract(preprocess)(torch.from_numpy(pixels)))
    network.eval()
    whole = to_onnx(network, preprocess, "uint8", profile.opset.value)
    return whole, Ranges(whole, pixels), pixels

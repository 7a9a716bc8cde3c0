"""How long a training of a whole network will take here: a few images are trained on, on a copy."""

from __future__ import annotations

import copy
from time import perf_counter

import numpy as np

from tlexport.contract import Preprocess
from tlexport.network import Network
from tlexport.ports import Silent
from tlexport.train.fake_quant import Activations
from tlexport.train.recover import LR, logits_of, recover

IMAGES = 8  # that are trained on


def seconds_for(network: Network, preprocess: Preprocess, images: int, epochs: int, simulate: Activations | None = None) -> float:
    """Seconds that :func:`~tlexport.train.recover.recover` will take, about. The network stays as it is.

    Args:
        network: on the CPU.
        preprocess: of the checkpoint; only the size of its images matters.
        images: that will be trained on.
        epochs: passes over them.
        simulate: as for the training.
    """
    tried = copy.deepcopy(network)
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, preprocess.size, preprocess.size, 3), dtype=np.uint8)
    labels = [0] * IMAGES
    teacher = logits_of(tried, preprocess, pixels)
    for _ in range(2):  # the first one also starts threads and chooses kernels
        begin = perf_counter()
        recover(tried, preprocess, pixels, labels, teacher, epochs=1, lr=LR, seed=0, progress=Silent(), simulate=simulate)
        seconds = perf_counter() - begin
    return seconds / IMAGES * images * epochs

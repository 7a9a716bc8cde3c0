"""Predict how long a training of a whole network takes on this machine, by training a copy on a few images."""

from __future__ import annotations

import copy
from time import perf_counter

import numpy as np

from tlexport.contract import Preprocess
from tlexport.network import Network
from tlexport.ports import Silent
from tlexport.train.fake_quant import Activations
from tlexport.train.recover import Examples, RecoverySettings, logits_of, recover

SAMPLE = 8  # images to train on


def seconds_for(network: Network, preprocess: Preprocess, images: int, epochs: int, simulate: Activations | None = None) -> float:
    """Predicted seconds of :func:`~tlexport.train.recover.recover`. Does not change the network.

    Args:
        network: on the CPU.
        preprocess: of the checkpoint; only the image size matters.
        images: number of training images.
        epochs: passes over them.
        simulate: see RecoverySettings.
    """
    tried = copy.deepcopy(network)
    pixels = np.random.default_rng(0).integers(0, 256, (SAMPLE, preprocess.size, preprocess.size, 3), dtype=np.uint8)
    examples = Examples(preprocess, pixels, [0] * SAMPLE)
    settings = RecoverySettings(seed=0, epochs=1, simulate=simulate)
    teacher = logits_of(tried, preprocess, pixels)
    for _ in range(2):  # the first pass also starts threads and selects kernels
        begin = perf_counter()
        recover(tried, examples, teacher, settings, Silent())
        seconds = perf_counter() - begin
    return seconds / SAMPLE * images * epochs

"""Probe networks: small random networks of the shapes that classifiers are made of, written straight as ONNX.

A layer alone is not timed as it is inside a network: there its input has just been written by the layer before, and its weights
may or may not have stayed in the cache. So a device is calibrated on layers inside networks. None of these networks is anybody's:
kinds of block, widths, kernels, strides and depths are drawn.
"""

from __future__ import annotations

import numpy as np
import onnx

from tlexport.estimate.blocks import FAMILIES
from tlexport.estimate.cost import cost_of

MOST_MACS = 3e9  # what came out larger is drawn again: in its place several others are timed
MOST_WEIGHTS = 3e8  # bytes; far more than any processor's cache


def probe(seed: int) -> onnx.ModelProto:
    """A probe network: float32 ``image`` (1, channel, height, width) -> the last block's output. The same seed, the same network."""
    draw = np.random.default_rng(seed)
    while True:
        model = FAMILIES[seed % len(FAMILIES)](draw)
        cost = cost_of(model)
        if cost.macs <= MOST_MACS and cost.weight_bytes <= MOST_WEIGHTS:
            return model

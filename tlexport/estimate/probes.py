"""Probe networks: small random networks with layers like those of classifiers, written directly as ONNX.

The time of a layer differs between a run alone and a run inside a network, where the layer before has just written its input and its
weights may be in the cache. A device is therefore calibrated on layers inside networks. No probe is a published network: kinds of
block, widths, kernels, strides and depths are random.
"""

from __future__ import annotations

import numpy as np
import onnx

from tlexport.estimate.blocks import FAMILIES
from tlexport.estimate.cost import cost_of

MOST_MACS = 3e9  # a larger probe is drawn again: several smaller ones can be timed instead
MOST_WEIGHTS = 3e8  # bytes; far more than any processor's cache


def probe(seed: int) -> onnx.ModelProto:
    """A probe network: float32 ``image`` (1, channel, height, width) -> the last block's output. The same seed, the same network."""
    draw = np.random.default_rng(seed)
    while True:
        model = FAMILIES[seed % len(FAMILIES)](draw)
        cost = cost_of(model)
        if cost.macs <= MOST_MACS and cost.weight_bytes <= MOST_WEIGHTS:
            return model

"""Calibration: the range of each activation on real images, and the part of the range that quantization keeps.

``minmax`` clips nothing; the others clip the rare extremes for finer steps elsewhere:

- ``percentile``: all but one value in 10,000 at either end (99.99 % in NVIDIA's study of calibration, Wu et al. 2020, arXiv:2004.09602);
- ``mse``: the ends with the least mean squared error of what is quantized (section 3.1.2 of Nagel et al. 2021, arXiv:2106.08295);
- ``entropy``: the ends with the least Kullback-Leibler divergence between the values and what is quantized (Migacz, "8-bit inference
  with TensorRT", GTC 2017).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto

from tlexport.errors import StepFailed, UsageError
from tlexport.ports import Pixels, Range

Method = Literal["minmax", "percentile", "mse", "entropy"]
METHODS: tuple[Method, ...] = get_args(Method)
Counts = npt.NDArray[np.float64]

BINS = 2048  # of a histogram, from the smallest to the largest value
INT8_STEPS = 255  # steps of 8 bits
CLIPPED = 1e-4  # share of the values at each end, for percentile
CANDIDATES = 48  # ends that mse and entropy try on each side: the extreme and smaller fractions of it
SMALLEST = 0.1  # smallest fraction tried


class Ranges:
    """Statistics of every float activation of a graph on images: extremes, and histograms on request.

    Args:
        model: FP32; its input takes the images.
        pixels: uint8 (image, height, width, channel).

    Raises:
        UsageError: no images.
        StepFailed: an activation is not finite.
    """

    def __init__(self, model: onnx.ModelProto, pixels: Pixels) -> None:
        if len(pixels) == 0:
            raise UsageError("there are no images to calibrate with", "give training data with --data, or use --precision fp32")
        self._pixels = pixels
        inferred = onnx.shape_inference.infer_shapes(model)
        types = {value.name: value.type.tensor_type.elem_type for value in (*inferred.graph.value_info, *inferred.graph.output)}
        made = (name for node in inferred.graph.node for name in node.output)
        self._made = [name for name in made if types.get(name) == TensorProto.FLOAT]
        self._session = _session(inferred, self._made)
        self.whole = self._extremes()
        self._by: dict[Method, Mapping[str, Range]] = {"minmax": self.whole}

    def by(self, method: Method) -> Mapping[str, Range]:
        """The kept part of each activation's range, which always contains 0."""
        if method not in self._by:
            self._by[method] = {name: narrowed(counts, self.whole[name], method) for name, counts in self._counts.items()}
        return self._by[method]

    def _activations(self) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
        """Every activation of each image in turn, including a float image itself."""
        image = self._session.get_inputs()[0]
        dtype = np.uint8 if image.type == "tensor(uint8)" else np.float32
        for pixels in self._pixels:
            fed = pixels[None].astype(dtype)
            if dtype == np.float32:
                yield image.name, fed
            yield from zip(self._made, self._session.run(self._made, {image.name: fed}), strict=True)

    def _extremes(self) -> dict[str, Range]:
        found: dict[str, Range] = {}
        for name, values in self._activations():
            before = found.get(name, (0.0, 0.0))
            low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
            if not np.isfinite(high - low):
                raise StepFailed(f"{name} takes values that are not finite on the calibration images", "train again with a lower --lr")
            found[name] = min(before[0], low), max(before[1], high)
        return found

    @cached_property
    def _counts(self) -> dict[str, Counts]:
        counts = {name: np.zeros(BINS) for name in self.whole}
        for name, values in self._activations():
            counts[name] += np.histogram(values, BINS, _wide(self.whole[name]))[0]
        return counts


def _session(model: onnx.ModelProto, names: list[str]) -> Any:
    outputs = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names if name not in outputs)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _wide(ends: Range) -> Range:
    """Valid ends for a histogram; those of a constant 0 are arbitrary."""
    return ends if ends[0] < ends[1] else (0.0, 1.0)


def narrowed(counts: Counts, whole: Range, method: Method) -> Range:
    """The kept part of a range.

    Args:
        counts: number of values in each of the equal parts of ``whole``: (bin,).
        whole: least and largest value; 0 is between them.
        method: how the ends are chosen.
    """
    low, high = whole
    if method == "minmax" or low == high or not counts.any():
        return whole
    if method == "percentile":
        edges = np.linspace(low, high, len(counts) + 1)
        below = np.cumsum(counts) / counts.sum()
        first, last = np.searchsorted(below, CLIPPED, side="right"), np.searchsorted(below, 1 - CLIPPED)
        return min(0.0, float(edges[first])), max(0.0, float(edges[last + 1]))
    if method == "entropy":  # skip the zero bin: ReLU inflates it, and zero is represented exactly
        counts = counts.copy()
        counts[min(len(counts) - 1, int(-low / (high - low) * len(counts)))] = 0
        if not counts.any():
            return whole
    error = _squared_error if method == "mse" else _divergence
    parts: list[float] = np.linspace(1.0, SMALLEST, CANDIDATES).tolist()
    for _ in range(2):  # one end after the other, because an outlier affects only one of them
        if whole[1] > 0:
            high = min((whole[1] * part for part in parts), key=lambda end: error(counts, whole, (low, end)))
        if whole[0] < 0:
            low = min((whole[0] * part for part in parts), key=lambda end: error(counts, whole, (end, high)))
    return low, high


def _centres(counts: Counts, whole: Range) -> Counts:
    edges = np.linspace(*whole, len(counts) + 1)
    return np.asarray((edges[:-1] + edges[1:]) / 2)


def _squared_error(counts: Counts, whole: Range, ends: Range) -> float:
    """Mean squared error of the values in a histogram, quantized between ``ends``: rounding inside, clipping outside."""
    values = _centres(counts, whole)
    step = (ends[1] - ends[0]) / INT8_STEPS
    zero = round(-ends[0] / step)  # the level of 0
    told = (np.clip(np.round(values / step) + zero, 0, INT8_STEPS) - zero) * step
    return float((counts * (values - told) ** 2).sum() / counts.sum())


def _divergence(counts: Counts, whole: Range, ends: Range) -> float:
    """Kullback-Leibler divergence of the values, clipped to ``ends``, from their 8-bit representation."""
    values = _centres(counts, whole)
    inside = np.flatnonzero((values >= ends[0]) & (values <= ends[1]))
    first, last = inside[0], inside[-1]
    clipped = counts[first : last + 1].copy()
    level = np.round((values[first : last + 1] - ends[0]) / (ends[1] - ends[0]) * INT8_STEPS).astype(int)
    filled = (clipped > 0).astype(float)
    per_level = np.bincount(level, clipped, INT8_STEPS + 1) / np.maximum(np.bincount(level, filled, INT8_STEPS + 1), 1)
    told = per_level[level] * filled
    clipped[0] += counts[:first].sum()  # clipped values count as the outermost value, which the quantized distribution lacks
    clipped[-1] += counts[last + 1 :].sum()
    present = clipped > 0
    p, q = clipped[present] / clipped.sum(), told[present] / max(told.sum(), 1e-12)
    return float((p * np.log(p / np.maximum(q, 1e-9))).sum())

"""A checkpoint's graph in lower precision: calibrated on training images alone, INT8 by the method that serves it best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from tlexport import plugins
from tlexport.accuracy import Probabilities, probabilities, score
from tlexport.api.evaluate import BATCH
from tlexport.api.mixed import Judged, Nodes, back_to_float
from tlexport.artifact import Calibration, Mixed, Precision, Tried
from tlexport.dataset import Dataset, Sample
from tlexport.export.calibration import FEW, calibration_parts, provenance
from tlexport.export.ranges import METHODS, Method, Ranges
from tlexport.ports import Pixels, Progress, Quantizer, QuantizeRequest, RunOptions, Runtime, Silent
from tlexport.profile import Profile

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Quantized:
    """A graph, and how it was made."""

    model: onnx.ModelProto
    how: str
    calibration: Calibration | None = None
    mixed: Mixed | None = None


class Quantization:
    """What the lower precisions of one export share: the FP32 graph, and what it computes on training images.

    Args:
        graph: FP32.
        profile: of the target: it names the quantizer of INT8.
        dataset: of the checkpoint.
        seed: of the draw of images.
        pixels: decodes samples.
        drop_points: of top-1 that INT8 may lose before blocks go back to float.
        folder: for files that are not kept.
        progress: where to tell what happens.
    """

    def __init__(
        self,
        graph: onnx.ModelProto,
        profile: Profile,
        dataset: Dataset,
        seed: int,
        pixels: Callable[[Sequence[Sample]], Pixels],
        drop_points: float,
        folder: Path,
        progress: Progress,
    ) -> None:
        self.graph, self.profile, self.progress, self._drop = graph, profile, progress, drop_points
        self._classes, self._pixels, self._file = dataset.classes, pixels, folder / "tried.onnx"
        self.calibrating, self.choosing = calibration_parts(dataset, seed)

    def quantized(self, precision: Precision) -> Quantized:
        """The graph in FP16 or INT8.

        Raises:
            TlxError: as the quantizer does.
        """
        name = self.profile.int8.quantizer if precision == "int8" and self.profile.int8 else precision
        quantizer = cast(Quantizer, plugins.load("quantizers", name))
        how, ranges = f"{name}: {quantizer.METHOD}", self._ranges
        if precision == "int8":
            return self._int8(quantizer, ranges, how)
        with self.progress.task(f"quantizing to {precision}", 1) as advance:
            model = quantizer.quantize(self._request(ranges, "minmax"))
            advance(1)
        return Quantized(model, how, provenance(self.calibrating, "minmax"))

    def _request(self, ranges: Ranges, method: Method, kept: Nodes = frozenset()) -> QuantizeRequest:
        activations = self.profile.int8.activations if self.profile.int8 else "uint8"
        return QuantizeRequest(self.graph, ranges.by(method), activations, kept)

    def _int8(self, quantizer: Quantizer, ranges: Ranges, how: str) -> Quantized:
        """The best of several ways to choose ranges; where that loses more than it may, blocks go back to float."""
        if not self.choosing:
            few = len(self.calibrating)
            if few < FEW:
                self.progress.note(f"only {few} training images to calibrate INT8 with; {FEW} or more give steadier ranges")
            model = quantizer.quantize(self._request(ranges, "minmax"))
            return Quantized(model, f"{how}; ranges by minmax", provenance(self.calibrating, "minmax"))

        def judge(kept: Nodes, method: Method) -> Judged:
            model = quantizer.quantize(self._request(ranges, method, kept))
            return Judged(model, self._tried(method, model))

        found: dict[Method, Judged] = {}
        with self.progress.task("quantizing to int8", len(METHODS)) as advance:
            for method in METHODS:
                found[method] = judge(frozenset(), method)
                advance(1, method)
        best = min(found, key=lambda method: (-found[method].tried.top1, found[method].tried.divergence))
        record = provenance(self.calibrating, best, tuple(judged.tried for judged in found.values()))
        how += f"; ranges by {best}"
        least = self._top1(self._reference) - self._drop / 100
        if found[best].tried.top1 < least:
            better = back_to_float(self.graph, lambda kept: judge(kept, best), least, self.progress)
            if better is not None:
                judged, mixed = better
                return Quantized(judged.model, f"{how}; {len(mixed.kept)} of {len(mixed.ranking)} blocks in float", record, mixed)
        return Quantized(found[best].model, how, record)

    @cached_property
    def _ranges(self) -> Ranges:
        with self.progress.task("calibrating", 1) as advance:
            ranges = Ranges(self.graph, self._pixels(self.calibrating))
            advance(1)
        return ranges

    @cached_property
    def _choice(self) -> Pixels:
        return self._pixels(self.choosing)

    @cached_property
    def _reference(self) -> Probabilities:
        return self._outputs(self.graph)

    def _outputs(self, model: onnx.ModelProto) -> Probabilities:
        """Probabilities of the images kept for the choice; Q/DQ pairs for TensorRT are computed as they are written."""
        self._file.write_bytes(model.SerializeToString())
        options = RunOptions(simulate_quantization=self.profile.runtime == "tensorrt" and model is not self.graph)
        with cast(Runtime, plugins.load("runtimes", "onnxruntime")).open_model(self._file, options) as runner:
            return probabilities(runner, self._choice, BATCH, Silent(), "")  # within a task of ours

    def _top1(self, outputs: Probabilities) -> float:
        return score(outputs, [sample.label for sample in self.choosing], self._classes).top1

    def _tried(self, method: Method, model: onnx.ModelProto) -> Tried:
        """How good an INT8 graph is on the images kept for the choice."""
        outputs = self._outputs(model)
        p, q = (np.maximum(rows.astype(np.float64), 1e-9) for rows in (self._reference, outputs))
        return Tried(method=method, top1=self._top1(outputs), divergence=float((p * np.log(p / q)).sum(axis=1).mean()))

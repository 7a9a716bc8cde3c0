"""Lower precisions of one checkpoint's graph, calibrated on training images only; for INT8, the method with the best accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tlexport import plugins
from tlexport.accuracy import BATCH, Probabilities, probabilities, score
from tlexport.artifact import Calibration, Mixed, Precision, Rung, Tried
from tlexport.dataset import Dataset, Sample
from tlexport.export.calibration import (
    MAX_TRAINING_IMAGES,
    MIN_CALIBRATION_IMAGES,
    calibration_parts,
    calibration_record,
    calibration_sample,
)
from tlexport.export.compact import compact
from tlexport.export.ranges import Method, Ranges
from tlexport.hardware.profile import Profile
from tlexport.optimize.accuracy_recovery import AccuracyRecovery, QuantizationInput
from tlexport.optimize.latency_search import Int8Config, fastest
from tlexport.optimize.mixed_precision import Evaluated, Nodes
from tlexport.optimize.pairwise_timing import PairwiseTiming
from tlexport.ports import Pixels, Progress, Quantizer, QuantizeRequest, RunOptions, Silent

if TYPE_CHECKING:
    import onnx


# (training images, their labels) -> FP32 graph after quantization-aware training; None: the user declined it
Retrain = Callable[[Pixels, Sequence[int]], "onnx.ModelProto | None"]


@dataclass(frozen=True)
class Quantized:
    """A graph and a record of how it was made."""

    model: onnx.ModelProto
    how: str
    calibration: Calibration | None = None
    mixed: Mixed | None = None
    ladder: tuple[Rung, ...] = ()


@dataclass(frozen=True)
class QuantizationSettings:
    """Target, images and limits of one export."""

    profile: Profile  # of the target; it names the quantizer of INT8
    dataset: Dataset  # of the checkpoint
    seed: int  # of the draw of images
    pixels: Callable[[Sequence[Sample]], Pixels]  # decodes samples to uint8 (image, height, width, channel)
    drop_points: float  # points of top-1 that INT8 may lose before accuracy recovery starts
    folder: Path  # for temporary files
    progress: Progress


class Quantization:
    """Quantizes one FP32 graph. Calibration runs once and is shared by all precisions.

    Args:
        graph: FP32.
        settings: target, images and limits.
        timing: times graphs, if this machine is the target.
        retrain: quantization-aware training of the checkpoint; None: not requested.
    """

    def __init__(
        self,
        graph: onnx.ModelProto,
        settings: QuantizationSettings,
        timing: PairwiseTiming | None = None,
        retrain: Retrain | None = None,
    ) -> None:
        self.graph, self.profile, self.progress, self._drop = graph, settings.profile, settings.progress, settings.drop_points
        self._timing, self._retrain, self._dataset, self._seed = timing, retrain, settings.dataset, settings.seed
        self._classes, self._pixels, self._file = settings.dataset.classes, settings.pixels, settings.folder / "tried.onnx"
        self.calibrating, self.choosing = calibration_parts(settings.dataset, settings.seed)

    def quantized(self, precision: Precision) -> Quantized:
        """Return the graph in FP16 or INT8.

        Raises:
            TlxError: raised by the quantizer.
        """
        quantizer, ranges = self._quantizer(precision), self._ranges
        how = f"{self._name(precision)}: {quantizer.METHOD}"
        if precision == "int8":
            return self._int8(quantizer, how + ("; weights in FP32 with Q/DQ pairs" if self.profile.float_weights else ""))
        with self.progress.task(f"quantizing to {precision}", 1) as advance:
            model = quantizer.quantize(self._request(QuantizationInput(self.graph, ranges, "minmax", frozenset())))
            advance(1)
        return Quantized(model, how, calibration_record(self.calibrating, "minmax"))

    def read_images(self) -> None:
        """Decode the calibration and selection images. Raises InvalidFile if any are missing or have changed."""
        _ = self._calibration
        if self.choosing:
            _ = self._selection

    def size_bytes(self, precision: Precision) -> int:
        """Size of the graph in that precision in bytes, with only the required nodes in float."""
        quantizer = self._quantizer(precision)
        model = quantizer.quantize(self._request(QuantizationInput(self.graph, self._ranges, "minmax", frozenset())))
        return int((compact(model) if precision == "int8" else model).ByteSize())

    def _quantizer(self, precision: Precision) -> Quantizer:
        return plugins.quantizer(self._name(precision))

    def _name(self, precision: Precision) -> str:
        return self.profile.int8.quantizer if precision == "int8" and self.profile.int8 else precision

    def _request(self, form: QuantizationInput, variant: str = "") -> QuantizeRequest:
        activations = self.profile.int8.activations if self.profile.int8 else "uint8"
        ranges = form.ranges.by(form.method)
        return QuantizeRequest(form.graph, ranges, activations, form.float_nodes, variant, self.profile.float_weights)

    def _int8(self, quantizer: Quantizer, how: str) -> Quantized:
        """Quantize to INT8 in the fastest form, then recover accuracy if it loses more than the limit."""
        fast = self._fastest(quantizer)
        float_nodes = fast.float_nodes
        how += f"; {fast.variant}" if fast.variant else ""
        if not self.choosing:
            if len(self.calibrating) < MIN_CALIBRATION_IMAGES:
                self.progress.note(_few_images(len(self.calibrating)))
            model = quantizer.quantize(self._request(QuantizationInput(self.graph, self._ranges, "minmax", float_nodes), fast.variant))
            return Quantized(model, f"{how}; ranges by minmax{_in_float(float_nodes)}", calibration_record(self.calibrating, "minmax"))

        weight_only = quantizer.weight_only

        def evaluate(form: QuantizationInput) -> Evaluated:
            convert = weight_only if form.weight_only else None
            model = convert(form.graph) if convert else quantizer.quantize(self._request(form, fast.variant))
            return Evaluated(model, self._tried(form.method, model))

        retrain = self._retrain
        recovery = AccuracyRecovery(
            graph=self.graph,
            ranges=self._ranges,
            evaluate=evaluate,
            least_top1=self._top1(self._reference) - self._drop / 100,
            calibrating=self._calibration,
            retrain=None if retrain is None else lambda: retrain(*self._retraining()),
            supports_weight_only=weight_only is not None,
            milliseconds=self._timing.milliseconds if self._timing else None,
            progress=self.progress,
        )
        recovered = recovery.run(float_nodes)
        best = recovered.best
        how += f"; ranges by {best.form.method}{_in_float(best.form.float_nodes)}"
        if best.rung != "calibration":
            how += f"; {best.rung}"
        record = calibration_record(self.calibrating, best.form.method, recovered.tried)
        return Quantized(best.evaluated.model, how, record, best.mixed, recovered.rungs)

    def _fastest(self, quantizer: Quantizer) -> Int8Config:
        """The fastest form on this machine; the first variant if this machine is not the target."""
        if self._timing is None:
            return Int8Config(quantizer.VARIANTS[0], frozenset())

        def quantize(choice: Int8Config) -> onnx.ModelProto:
            form = QuantizationInput(self.graph, self._ranges, "minmax", choice.float_nodes)
            return quantizer.quantize(self._request(form, choice.variant))

        return fastest(self.graph, quantizer.VARIANTS, quantize, quantizer.METHOD, self._timing, self.progress)

    def _retraining(self) -> tuple[Pixels, list[int]]:
        """Training images and labels, without the selection images."""
        chosen = {sample.path for sample in self.choosing}
        samples = [sample for sample in calibration_sample(self._dataset, MAX_TRAINING_IMAGES, self._seed) if sample.path not in chosen]
        return self._pixels(samples), [sample.label for sample in samples]

    @cached_property
    def _ranges(self) -> Ranges:
        with self.progress.task("calibrating", 1) as advance:
            ranges = Ranges(self.graph, self._calibration)
            advance(1)
        return ranges

    @cached_property
    def _calibration(self) -> Pixels:
        return self._pixels(self.calibrating)

    @cached_property
    def _selection(self) -> Pixels:
        return self._pixels(self.choosing)

    @cached_property
    def _reference(self) -> Probabilities:
        return self._outputs(self.graph)

    def _outputs(self, model: onnx.ModelProto) -> Probabilities:
        """Probabilities of the selection images, float32 (image, class). Q/DQ pairs for TensorRT are computed as written."""
        self._file.write_bytes(model.SerializeToString())
        options = RunOptions(simulate_quantization=self.profile.runtime == "tensorrt" and model is not self.graph)
        with plugins.runtime("onnxruntime").open_model(self._file, options) as runner:
            return probabilities(runner, self._selection, BATCH, Silent(), "")  # called within a progress task

    def _top1(self, outputs: Probabilities) -> float:
        return score(outputs, [sample.label for sample in self.choosing], self._classes).top1

    def _tried(self, method: Method, model: onnx.ModelProto) -> Tried:
        """Accuracy of an INT8 graph on the selection images, and its divergence from FP32."""
        outputs = self._outputs(model)
        p, q = (np.maximum(rows.astype(np.float64), 1e-9) for rows in (self._reference, outputs))
        return Tried(method=method, top1=self._top1(outputs), divergence=float((p * np.log(p / q)).sum(axis=1).mean()))


def _in_float(float_nodes: Nodes) -> str:
    return f"; {len(float_nodes)} nodes in float" if float_nodes else ""


def _few_images(count: int) -> str:
    return f"only {count} training images to calibrate INT8 with; {MIN_CALIBRATION_IMAGES} or more give steadier ranges"

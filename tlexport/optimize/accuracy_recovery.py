"""Recovers the accuracy of INT8 step by step. A step runs only if the steps before it lose too much accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tlexport.artifact import Mixed, Rung, RungName, Tried
from tlexport.export.bias_correction import bias_corrected
from tlexport.export.equalize import equalized
from tlexport.export.ranges import METHODS, Method, Ranges
from tlexport.optimize.mixed_precision import Evaluated, Nodes, back_to_float
from tlexport.ports import Pixels, Progress

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class QuantizationInput:
    """Inputs of an INT8 quantization."""

    graph: onnx.ModelProto  # FP32
    ranges: Ranges
    method: Method
    float_nodes: Nodes  # nodes that stay in float
    weight_only: bool = False  # INT8 weights, float activations


@dataclass(frozen=True)
class Attempt:
    """An INT8 graph with the step that made it and its accuracy."""

    rung: RungName
    form: QuantizationInput
    evaluated: Evaluated
    mixed: Mixed | None = None

    @property
    def rank(self) -> tuple[float, float]:
        """Sort key, larger is better: accuracy, then similarity of the probabilities to those of FP32."""
        return self.evaluated.tried.top1, -self.evaluated.tried.divergence


@dataclass(frozen=True)
class Recovery:
    """The best attempt, the results of all calibration methods, and all steps that were tried."""

    best: Attempt
    tried: tuple[Tried, ...]
    rungs: tuple[Rung, ...]


@dataclass(frozen=True)
class AccuracyRecovery:
    """The steps, and what they share."""

    graph: onnx.ModelProto  # FP32
    ranges: Ranges  # of the graph, on the calibration images
    evaluate: Callable[[QuantizationInput], Evaluated]  # makes the INT8 graph and measures it on the selection images
    least_top1: float  # accuracy target on the selection images, 0 to 1
    calibrating: Pixels  # calibration images, uint8 (image, height, width, channel)
    # returns the FP32 graph after quantization-aware training, or None if declined; None: not requested
    retrain: Callable[[], onnx.ModelProto | None] | None
    supports_weight_only: bool  # the target's runtime supports INT8 weights with float arithmetic
    milliseconds: Callable[[onnx.ModelProto], float] | None  # latency of a graph in ms; None: this machine is not the target
    progress: Progress

    def run(self, float_nodes: Nodes) -> Recovery:
        """Run the steps until the accuracy target is reached. ``float_nodes`` stay in float in every step but weight-only INT8."""
        with self.progress.task("quantizing to int8", len(METHODS)) as advance:
            attempts = []
            for method in METHODS:
                attempts.append(self._attempt("calibration", QuantizationInput(self.graph, self.ranges, method, float_nodes)))
                advance(1, method)
        tried = tuple(attempt.evaluated.tried for attempt in attempts)
        best = max(attempts, key=lambda attempt: attempt.rank)
        attempts = [best]
        for rung in (self._corrected, self._in_float, self._trained, self._weight_only):
            if best.evaluated.tried.top1 >= self.least_top1:
                break
            attempts += rung(best)
            best = max(attempts, key=lambda attempt: attempt.rank)
        return Recovery(best, tried, tuple(self._record(attempt, attempt is best) for attempt in attempts))

    def _attempt(self, rung: RungName, form: QuantizationInput) -> Attempt:
        return Attempt(rung, form, self.evaluate(form))

    def _corrected(self, best: Attempt) -> Iterator[Attempt]:
        """Cross-layer equalization, bias correction, and both."""
        form = best.form
        with self.progress.task("equalizing and correcting biases", 3) as advance:
            yield self._attempt("bias correction", self._with_biases(form, best.evaluated.model))
            advance(1)
            even = equalized(form.graph)
            form = replace(form, graph=even, ranges=Ranges(even, self.calibrating))
            yield (level := self._attempt("equalization", form))
            advance(1)
            yield self._attempt("equalization and bias correction", self._with_biases(form, level.evaluated.model))
            advance(1)

    def _with_biases(self, form: QuantizationInput, quantized: onnx.ModelProto) -> QuantizationInput:
        return replace(form, graph=bias_corrected(form.graph, quantized, self.calibrating))

    def _in_float(self, best: Attempt, rung: RungName = "blocks in float") -> Iterator[Attempt]:
        """The blocks that INT8 harms most, in float."""
        form = best.form

        def with_float(nodes: Nodes) -> Evaluated:
            return self.evaluate(replace(form, float_nodes=nodes))

        found = back_to_float(form.graph, with_float, form.float_nodes, self.least_top1, self.progress)
        if found is not None:
            evaluated, float_nodes, mixed = found
            yield Attempt(rung, replace(form, float_nodes=float_nodes), evaluated, mixed)

    def _trained(self, best: Attempt) -> Iterator[Attempt]:
        """Short quantization-aware training of all weights; if that does not suffice, then blocks in float."""
        graph = self.retrain() if self.retrain else None
        if graph is None:
            return
        form = QuantizationInput(graph, Ranges(graph, self.calibrating), best.form.method, best.form.float_nodes)
        yield (attempt := self._attempt("quantization-aware training", form))
        if attempt.evaluated.tried.top1 < self.least_top1:
            yield from self._in_float(attempt, "blocks in float after quantization-aware training")

    def _weight_only(self, best: Attempt) -> Iterator[Attempt]:
        """INT8 weights with float arithmetic: only the file is smaller."""
        if self.supports_weight_only:
            form = QuantizationInput(self.graph, self.ranges, best.form.method, frozenset(), weight_only=True)
            yield self._attempt("weights alone", form)

    def _record(self, attempt: Attempt, kept: bool) -> Rung:
        tried, model = attempt.evaluated.tried, attempt.evaluated.model
        return Rung(
            rung=attempt.rung,
            top1=tried.top1,
            divergence=tried.divergence,
            size_bytes=model.ByteSize(),
            latency_ms=None if self.milliseconds is None else round(self.milliseconds(model), 4),
            kept=kept,
        )

"""The ladder for the accuracy of INT8, climbed only as far as needed: each rung is tried where those below it lose too much."""

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
    """What an INT8 graph is made from."""

    graph: onnx.ModelProto  # FP32
    ranges: Ranges
    method: Method
    float_nodes: Nodes  # nodes that stay in float
    weight_only: bool = False  # INT8 weights, float activations


@dataclass(frozen=True)
class Attempt:
    """An INT8 graph, how it was made, and how good it is."""

    rung: RungName
    form: QuantizationInput
    evaluated: Evaluated
    mixed: Mixed | None = None

    @property
    def rank(self) -> tuple[float, float]:
        """Larger is better: accuracy, then how near its probabilities are to those of FP32."""
        return self.evaluated.tried.top1, -self.evaluated.tried.divergence


@dataclass(frozen=True)
class Recovery:
    """Where the climb ended: the best of all, what the methods of calibration gave, and every rung that was tried."""

    best: Attempt
    tried: tuple[Tried, ...]
    rungs: tuple[Rung, ...]


@dataclass(frozen=True)
class AccuracyRecovery:
    """What the rungs need."""

    graph: onnx.ModelProto  # FP32
    ranges: Ranges  # of it, on the calibrating images
    evaluate: Callable[[QuantizationInput], Evaluated]  # makes the INT8 graph and measures it on the selection images
    least_top1: float  # on these; the climb ends where it is reached
    calibrating: Pixels  # uint8 (image, height, width, channel): they set the ranges
    retrain: Callable[[], onnx.ModelProto | None] | None  # the FP32 graph after quantization-aware training; None: not asked for, declined
    supports_weight_only: bool  # the target's runtime computes in float with INT8 weights
    milliseconds: Callable[[onnx.ModelProto], float] | None  # where the target is this machine
    progress: Progress

    def run(self, float_nodes: Nodes) -> Recovery:
        """The best INT8 graph; these nodes stay in float whatever else does."""
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
        """Blocks back to float."""
        form = best.form

        def with_float(nodes: Nodes) -> Evaluated:
            return self.evaluate(replace(form, float_nodes=nodes))

        found = back_to_float(form.graph, with_float, form.float_nodes, self.least_top1, self.progress)
        if found is not None:
            evaluated, float_nodes, mixed = found
            yield Attempt(rung, replace(form, float_nodes=float_nodes), evaluated, mixed)

    def _trained(self, best: Attempt) -> Iterator[Attempt]:
        """Short quantization-aware training of all weights; where that is not enough either, blocks back to float after it."""
        graph = self.retrain() if self.retrain else None
        if graph is None:
            return
        form = QuantizationInput(graph, Ranges(graph, self.calibrating), best.form.method, best.form.float_nodes)
        yield (attempt := self._attempt("quantization-aware training", form))
        if attempt.evaluated.tried.top1 < self.least_top1:
            yield from self._in_float(attempt, "blocks in float after quantization-aware training")

    def _weight_only(self, best: Attempt) -> Iterator[Attempt]:
        """Float again, but for the file."""
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

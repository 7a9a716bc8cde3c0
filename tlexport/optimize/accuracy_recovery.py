"""The ladder for the accuracy of INT8, climbed only as far as needed: each rung is tried where those below it lose too much."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tlexport.artifact import Mixed, Rung, RungName, Tried
from tlexport.export.bias_correction import bias_corrected
from tlexport.export.equalize import equalized
from tlexport.export.ranges import METHODS, Method, Ranges
from tlexport.optimize.mixed_precision import Judged, Nodes, back_to_float
from tlexport.ports import Pixels, Progress

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Form:
    """What an INT8 graph is made from."""

    graph: onnx.ModelProto  # FP32
    ranges: Ranges
    method: Method
    kept: Nodes  # nodes that stay in float
    weights_alone: bool = False  # INT8 weights, float activations


@dataclass(frozen=True)
class Stand:
    """An INT8 graph, how it was made, and how good it is."""

    rung: RungName
    form: Form
    judged: Judged
    mixed: Mixed | None = None

    @property
    def rank(self) -> tuple[float, float]:
        """Larger is better: accuracy, then how near its probabilities are to those of FP32."""
        return self.judged.tried.top1, -self.judged.tried.divergence


@dataclass(frozen=True)
class Climbed:
    """Where the climb ended: the best of all, what the methods of calibration gave, and every rung that was tried."""

    best: Stand
    tried: tuple[Tried, ...]
    rungs: tuple[Rung, ...]


@dataclass(frozen=True)
class Ladder:
    """What the rungs need."""

    graph: onnx.ModelProto  # FP32
    ranges: Ranges  # of it, on the calibrating images
    judge: Callable[[Form], Judged]  # makes the INT8 graph, and looks how good it is on training images that set no ranges
    least_top1: float  # on these; the climb ends where it is reached
    calibrating: Pixels  # uint8 (image, height, width, channel): they set the ranges
    retrained: (
        Callable[[], onnx.ModelProto | None] | None
    )  # the FP32 graph after quantization-aware training; None: not asked for, declined
    can_weights_alone: bool  # the target's runtime computes in float with INT8 weights
    milliseconds: Callable[[onnx.ModelProto], float] | None  # where the target is this machine
    progress: Progress

    def climb(self, kept: Nodes) -> Climbed:
        """The best INT8 graph; these nodes stay in float whatever else does."""
        with self.progress.task("quantizing to int8", len(METHODS)) as advance:
            stands = []
            for method in METHODS:
                stands.append(self._stand("calibration", Form(self.graph, self.ranges, method, kept)))
                advance(1, method)
        tried = tuple(stand.judged.tried for stand in stands)
        best = max(stands, key=lambda stand: stand.rank)
        climbed = [best]
        for rung in (self._corrected, self._in_float, self._trained, self._weights_alone):
            if best.judged.tried.top1 >= self.least_top1:
                break
            climbed += rung(best)
            best = max(climbed, key=lambda stand: stand.rank)
        return Climbed(best, tried, tuple(self._record(stand, stand is best) for stand in climbed))

    def _stand(self, rung: RungName, form: Form) -> Stand:
        return Stand(rung, form, self.judge(form))

    def _corrected(self, best: Stand) -> Iterator[Stand]:
        """Cross-layer equalization, bias correction, and both."""
        form = best.form
        with self.progress.task("equalizing and correcting biases", 3) as advance:
            yield self._stand("bias correction", self._with_biases(form, best.judged.model))
            advance(1)
            even = equalized(form.graph)
            form = replace(form, graph=even, ranges=Ranges(even, self.calibrating))
            yield (level := self._stand("equalization", form))
            advance(1)
            yield self._stand("equalization and bias correction", self._with_biases(form, level.judged.model))
            advance(1)

    def _with_biases(self, form: Form, quantized: onnx.ModelProto) -> Form:
        return replace(form, graph=bias_corrected(form.graph, quantized, self.calibrating))

    def _in_float(self, best: Stand, rung: RungName = "blocks in float") -> Iterator[Stand]:
        """Blocks back to float."""
        form = best.form
        found = back_to_float(form.graph, lambda kept: self.judge(replace(form, kept=kept)), form.kept, self.least_top1, self.progress)
        if found is not None:
            judged, kept, mixed = found
            yield Stand(rung, replace(form, kept=kept), judged, mixed)

    def _trained(self, best: Stand) -> Iterator[Stand]:
        """Short quantization-aware training of all weights; where that is not enough either, blocks back to float after it."""
        graph = self.retrained() if self.retrained else None
        if graph is None:
            return
        form = Form(graph, Ranges(graph, self.calibrating), best.form.method, best.form.kept)
        yield (stand := self._stand("quantization-aware training", form))
        if stand.judged.tried.top1 < self.least_top1:
            yield from self._in_float(stand, "blocks in float after quantization-aware training")

    def _weights_alone(self, best: Stand) -> Iterator[Stand]:
        """Float again, but for the file."""
        if self.can_weights_alone:
            yield self._stand("weights alone", Form(self.graph, self.ranges, best.form.method, frozenset(), weights_alone=True))

    def _record(self, stand: Stand, kept: bool) -> Rung:
        tried, model = stand.judged.tried, stand.judged.model
        return Rung(
            rung=stand.rung,
            top1=tried.top1,
            divergence=tried.divergence,
            size_bytes=model.ByteSize(),
            latency_ms=None if self.milliseconds is None else round(self.milliseconds(model), 4),
            kept=kept,
        )

"""What a model takes on the target of an export: measured where this machine is the target, estimated otherwise where it can be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tlexport.api.estimate import estimate, expect_basis
from tlexport.api.graphs import Estimable, Graph
from tlexport.artifact import PRECISIONS, Artifact, Precision
from tlexport.bench.process import BenchRequest, measure
from tlexport.bundle import Latency
from tlexport.errors import Unsupported
from tlexport.measurement import Measurement
from tlexport.plan import Candidate, Step, Wishes, plan_export
from tlexport.ports import Pixels
from tlexport.prediction import Estimate
from tlexport.target import Target


@dataclass(frozen=True)
class Expected:
    """A measurement, or an estimate, or neither where there is nothing to estimate by."""

    measurement: Measurement | None = None
    estimate: Estimate | None = None

    @property
    def latency(self) -> Latency | None:
        """What was measured."""
        m = self.measurement
        if m is None:
            return None
        p50, p95 = round(m.percentile_ms(50), 4), round(m.percentile_ms(95), 4)
        return Latency(
            kind="measured",
            p50=p50,
            p95=p95,
            runtime=m.runtime,
            provider=m.provider,
            threads=m.threads,
            n=len(m.latencies_ns),
            environment=m.environment,
        )

    @property
    def peak_memory_bytes(self) -> int | None:
        """What was measured."""
        return self.measurement.peak_memory_bytes if self.measurement else None

    def candidate(self, artifact: Artifact, drop_points: float) -> Candidate:
        """What is known of a model when the choice is made."""
        p50, p95 = (self.latency.p50, self.latency.p95) if self.latency else (None, None)
        return Candidate(artifact.precision, artifact.size_bytes, drop_points, p50, p95, self.peak_memory_bytes, self.estimate)


def plan(target: Target, wishes: Wishes) -> tuple[Step, ...]:
    """What an export would do, without doing it.

    Raises:
        Unsupported: the target cannot do the precision; or a limit of latency or memory was asked for, and can be held against
            nothing: of no model that may be chosen can they be measured or estimated.
    """
    timed = target.here and target.profile.runtime == "onnxruntime"  # engines are built from the bundle, after the export
    why = {} if timed else _inestimable(target, wishes.threads or 1)
    steps = plan_export(target.profile, wishes.precision, timed, () if timed else [p for p in PRECISIONS if p not in why])
    limits = {"--max-latency": wishes.max_latency_ms, "--max-memory": wishes.max_memory_bytes}
    asked = " and ".join(option for option, limit in limits.items() if limit is not None)
    candidates = [p for p in target.profile.precisions.value if wishes.precision in ("auto", p)]
    if asked and all(precision in why for precision in candidates):
        engine = target.profile.runtime == "tensorrt"
        raise Unsupported(
            f"{asked} cannot be held against {target.profile.target}: "
            f"{'its engines are built from the bundle, after the export' if engine else 'this machine is not one'}; "
            f"and {why[candidates[0]].message}",
            "leave it out, copy the bundle to the device and run there: "
            f"{'python3 run.py build' if engine else 'tlx bench BUNDLE --check'}",
        )
    return steps


def _inestimable(target: Target, threads: int) -> dict[Precision, Unsupported]:
    """The precisions that there is nothing to estimate by, and why."""
    found = {}
    for precision in PRECISIONS:
        try:
            expect_basis(target, precision, threads)
        except Unsupported as error:
            found[precision] = error
    return found


def measured(artifact: Artifact, path: Path, target: Target, threads: int | None, what: str, images: Pixels) -> Expected:
    """Time a model, in a process of its own.

    Args:
        artifact: what it is.
        path: the .onnx file; what is needed beside it is written there.
        target: this machine.
        threads: CPU threads.
        what: its name.
        images: what it is timed on, uint8 (image, height, width, channel).
    """
    np.save(inputs := path.with_name("bench.npy"), images.astype(target.profile.input_dtype.value), allow_pickle=False)
    request = BenchRequest(
        what=what,
        path=path,
        runtime="onnxruntime",
        device="cuda:0" if target.profile.device else "cpu",
        threads=threads,
        artifact_sha256=artifact.sha256,
        precision=artifact.precision,
        size_bytes=artifact.size_bytes,
        inputs=inputs,
    )
    return Expected(measurement=measure(request))


def estimated(artifact: Artifact, path: Path, target: Target, threads: int | None, what: str) -> Expected:
    """Estimate a model; the arguments are as for :func:`measured`. Raises Unsupported where there is nothing to estimate by."""
    from tlexport.estimate.graph import read

    graph = Graph(read(path), artifact.size_bytes)
    model = Estimable(what, artifact.precision, artifact.sha256, lambda profile: graph)
    return Expected(estimate=estimate(model, target, threads or 1))

"""Latency and memory of a model on the export's target: measured if this machine is the target, otherwise estimated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tlexport.artifact import PRECISIONS, Artifact, Precision
from tlexport.bench.noise import disturbance
from tlexport.bench.process import BenchRequest
from tlexport.bundle.manifest import Latency, Noise
from tlexport.errors import Unsupported
from tlexport.hardware.target import Target
from tlexport.loading.estimable import Estimable
from tlexport.loading.estimate_on_target import estimate, expect_basis
from tlexport.measurement import Measurement
from tlexport.optimize.job import Job
from tlexport.optimize.steps import Step, plan_export
from tlexport.plan import SHARED, Candidate, Constraints
from tlexport.ports import Pixels
from tlexport.prediction import Estimate

REPEATS = 3  # most measurements of a model whose latency decides
QUIET_ONES = 2  # number of undisturbed measurements that suffice
TIMED_ON = 64  # images


@dataclass(frozen=True)
class Expected:
    """A measurement or an estimate; neither if there are no figures to estimate from."""

    measurement: Measurement | None = None
    estimate: Estimate | None = None
    noise: Noise | None = None  # of the machine while it was measured

    @property
    def latency(self) -> Latency | None:
        """The measured latency."""
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
            noise=self.noise,
        )

    @property
    def peak_memory_bytes(self) -> int | None:
        """The measured peak memory in bytes."""
        return self.measurement.peak_memory_bytes if self.measurement else None

    def candidate(self, artifact: Artifact, drop_points: float) -> Candidate:
        """The figures of a model that the choice between models uses."""
        p50, p95 = (self.latency.p50, self.latency.p95) if self.latency else (None, None)
        shortest, noisy = (self.noise.shortest_ms, self.noise.verdict == "noisy") if self.noise else (None, False)
        memory = self.peak_memory_bytes
        return Candidate(artifact.precision, artifact.size_bytes, drop_points, p50, p95, memory, self.estimate, shortest, noisy)


def plan(target: Target, constraints: Constraints) -> tuple[Step, ...]:
    """The steps of an export, without running them.

    Raises:
        Unsupported: the target does not support the precision; or the user gave a limit of latency or memory, but no model that may be
            chosen can be measured or estimated.
    """
    timed = target.here and target.profile.runtime == "onnxruntime"  # TensorRT engines are built from the bundle, after the export
    why = {} if timed else _inestimable(target, constraints.threads or 1)
    steps = plan_export(target.profile, constraints, timed, () if timed else [p for p in PRECISIONS if p not in why])
    limits = {"--max-latency": constraints.max_latency_ms, "--max-memory": constraints.max_memory_bytes}
    asked = " and ".join(option for option, limit in limits.items() if limit is not None)
    candidates = [p for p in target.profile.precisions.value if constraints.precision in ("auto", p)]
    if asked and all(precision in why for precision in candidates):
        engine = target.profile.runtime == "tensorrt"
        raise Unsupported(
            f"{asked} cannot be checked for {target.profile.target}: "
            f"{'its engines are built from the bundle, after the export' if engine else 'this machine is another one'}; "
            f"and {why[candidates[0]].message}",
            "leave out the limit, copy the bundle to the device and run there: "
            f"{'python3 run.py build' if engine else 'tlx bench BUNDLE --check'}",
        )
    return steps


def _inestimable(target: Target, threads: int) -> dict[Precision, Unsupported]:
    """The precisions whose latency cannot be estimated, with the reason."""
    found = {}
    for precision in PRECISIONS:
        try:
            expect_basis(target, precision, threads)
        except Unsupported as error:
            found[precision] = error
    return found


def measured(job: Job, models: Sequence[tuple[Artifact, Path]], name: str, images: Pixels) -> list[Expected]:
    """Measure models in turn. Repeat if a model exceeds the latency limit and noise may be the cause; return the quietest run.

    Args:
        job: the export; its target is this machine.
        models: records and .onnx files of the models; input files are written beside the .onnx files.
        name: name of the checkpoint.
        images: inputs for timing, uint8 (image, height, width, channel).
    """
    requests = [_request(job, artifact, path, name, images[:TIMED_ON]) for artifact, path in models]
    limit = job.constraints.limits(job.target.profile.budget).latency_p95_ms
    rounds: list[list[Measurement]] = []
    with job.progress.task("measuring all models in turn", 1) as advance:
        while len(rounds) < REPEATS and (not rounds or _in_doubt(rounds, limit)):
            rounds.append(job.measure(requests))
        advance(1)
    best = min(rounds, key=_disturbed)
    found = []
    for place, measurement in enumerate(best):
        cause = disturbance(measurement)
        shortest = round(min(each[place].shortest_ms for each in rounds), 4)
        noise = Noise(verdict="noisy" if cause else "quiet", cause=cause, repeats=len(rounds), shortest_ms=shortest)
        found.append(Expected(measurement=measurement, noise=noise))
        if cause:
            times = f"{len(rounds)} times" if len(rounds) > 1 else "once"
            job.progress.note(f"noisy measurement of {measurement.precision} ({times}): {cause}")
    return found


def _request(job: Job, artifact: Artifact, path: Path, name: str, images: Pixels) -> BenchRequest:
    np.save(inputs := path.with_suffix(".npy"), images.astype(job.target.profile.input_dtype.value), allow_pickle=False)
    return BenchRequest(
        what=f"{name} {artifact.precision}",
        path=path,
        runtime="onnxruntime",
        device="cuda:0" if job.target.profile.device else "cpu",
        threads=job.constraints.threads,
        artifact_sha256=artifact.sha256,
        precision=artifact.precision,
        size_bytes=artifact.size_bytes,
        inputs=inputs,
    )


def _disturbed(measurements: Sequence[Measurement]) -> tuple[bool, float]:
    """Sort key: undisturbed measurements first, then shorter medians, because noise only adds time."""
    return any(map(disturbance, measurements)), sum(m.percentile_ms(50) for m in measurements)


def _in_doubt(rounds: Sequence[Sequence[Measurement]], limit: float | None) -> bool:
    """Whether noise may explain a broken limit: the shortest run keeps it and too few measurements were quiet."""
    if limit is None or sum(not _disturbed(measurements)[0] for measurements in rounds) >= QUIET_ONES:
        return False
    return any(m.percentile_ms(95) > limit >= m.shortest_ms / SHARED for m in min(rounds, key=_disturbed))


def estimated(artifact: Artifact, path: Path, target: Target, threads: int | None, what: str) -> Expected:
    """Estimate the cost of a model.

    Args:
        artifact: record of the model.
        path: the .onnx file.
        target: the board.
        threads: CPU threads.
        what: name of the model.

    Raises:
        Unsupported: there are no figures to estimate from.
    """
    from tlexport.estimate.costed import Graph
    from tlexport.estimate.graph import read

    graph = Graph(read(path), artifact.size_bytes)
    model = Estimable(what, artifact.precision, artifact.sha256, lambda profile: graph)
    return Expected(estimate=estimate(model, target, threads or 1))

"""The verb ``bench``: measured latency, throughput, size and memory of one or more models."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tlexport.api.open_bundle import open_bundle
from tlexport.api.subject import Subject, device_for, find_subject
from tlexport.artifact import Precision
from tlexport.bench.process import BenchRequest, measure
from tlexport.bundle import MANIFEST, Manifest, read_manifest
from tlexport.errors import OverBudget, Unsupported, UsageError, VerificationFailed
from tlexport.files import sha256_of
from tlexport.measurement import Measurement
from tlexport.plan import Candidate, Limits, violations
from tlexport.ports import Progress, Silent
from tlexport.target import is_here


@dataclass(frozen=True)
class BenchSettings:
    """How to measure."""

    runtime: str = "auto"
    device: str = "auto"
    threads: int | None = None
    batch: int = 1
    min_runs: int = 100
    min_seconds: float = 1.0


def bench(
    what: Path, settings: BenchSettings, *, precisions: Sequence[Precision] | None = None, progress: Progress | None = None
) -> list[Measurement]:
    """Measure WHAT, each model in a process of its own, on the bundle's golden images where there are any.

    Args:
        what: a checkpoint, a bundle (all of its models, unless ``precisions`` names some), or an .onnx file of a bundle.
        settings: runtime, device, threads, batch, how long.
        precisions: which of a bundle's models.
        progress: where to tell what happens.

    Raises:
        Unsupported: the model is a TensorRT INT8 graph, whose time on a CPU would say nothing. Among the models of a bundle,
            none of which was asked for, it is left out with a note.
        TlxError: see errors.py.
    """
    progress, what = progress or Silent(), open_bundle(what)
    subjects = _subjects(what, settings.runtime, precisions, progress)
    measurements = []
    with tempfile.TemporaryDirectory(prefix="tlx-bench-") as folder, progress.task("measuring", len(subjects)) as advance:
        for subject in subjects:
            inputs = _inputs(subject, Path(folder) / "inputs.npy")
            measurements.append(measure(_request(subject, settings, inputs)))
            advance(1)
    return measurements


def target_here(bundle: Path) -> Manifest:
    """The manifest of a bundle whose budget can be checked on this machine; worth asking before measuring.

    Raises:
        InvalidFile: not a bundle.
        Unsupported: this machine is not the bundle's target.
    """
    manifest = read_manifest(open_bundle(bundle))
    if not is_here(manifest.profile):
        raise Unsupported(
            f"{bundle} is for {manifest.target}, and this machine is not one", "run it on the device, or name the device: --host user@board"
        )
    return manifest


def check_budget(bundle: Path, measurements: Sequence[Measurement], *, elsewhere: bool = False) -> None:
    """Hold the measurement of a bundle's chosen model against its profile's budget.

    Args:
        bundle: the bundle.
        measurements: of its models.
        elsewhere: they were made on a board that is known to be the target.

    Raises:
        OverBudget: names each limit that is broken.
        Unsupported: this machine is not the bundle's target, or the target runs an engine and not what was measured.
        UsageError: the chosen model is not among the measurements, or was measured with several images at a time.
    """
    manifest = read_manifest(bundle) if elsewhere else target_here(bundle)
    chosen, budget = manifest.model(), manifest.profile.budget
    measured = next((m for m in measurements if m.artifact_sha256 == chosen.artifact.sha256), None)
    if measured is None:
        raise UsageError(f"the chosen model of {bundle}, {chosen.artifact.precision}, was not measured", "leave out --precision")
    runs = {"trtexec": "tensorrt"}.get(measured.runtime, measured.runtime)  # the same engine, timed by NVIDIA's tool
    if runs != manifest.profile.runtime:
        raise Unsupported(
            f"the budget of {manifest.target} is for {manifest.profile.runtime}, and {measured.runtime} was measured",
            "build the engine and time it, in the bundle: python3 run.py build, python3 run.py bench",
        )
    gpu = manifest.profile.device is not None
    if gpu != measured.provider.startswith("CUDA"):
        raise Unsupported(
            f"the budget of {manifest.target} is for {'a GPU' if gpu else 'the CPU'}, and {measured.provider} was measured",
            f"tlx bench {bundle} --check --device {'cuda' if gpu else 'cpu'}",
        )
    if measured.batch != 1:
        raise UsageError(f"the budget is for one image at a time, and {measured.batch} were measured", "leave out --batch")
    p50, p95 = measured.percentile_ms(50), measured.percentile_ms(95)
    candidate = Candidate(chosen.artifact.precision, measured.size_bytes, chosen.drop_points, p50, p95, measured.peak_memory_bytes)
    broken = violations(candidate, Limits(budget.size_bytes, budget.latency_p95_ms, budget.memory_bytes, drop_points=100.0))
    if broken:
        raise OverBudget(
            f"{measured.what} is over the budget of {manifest.target}: {'; '.join(broken)}",
            "export with --precision auto, or raise the budget",
        )


def _subjects(what: Path, runtime: str, precisions: Sequence[Precision] | None, progress: Progress) -> list[Subject]:
    wanted: Sequence[Precision | None] = precisions or [None]
    if not precisions and (what / MANIFEST).is_file():
        wanted = [model.artifact.precision for model in read_manifest(what).models]
    subjects = [find_subject(what, runtime, precision) for precision in wanted]
    runnable = [subject for subject in subjects if not subject.simulate_quantization]
    if not runnable or (precisions and len(runnable) < len(subjects)):
        raise Unsupported(
            f"the INT8 model of {what} is made for TensorRT; timing it on a CPU would say nothing about either",
            "bench it on the device, or export for this machine: tlx export --target cpu-x86",
        )
    if len(runnable) < len(subjects):
        progress.note(f"the INT8 model of {what} is made for TensorRT and is not timed here")
    return runnable


def _inputs(subject: Subject, path: Path) -> Path | None:
    """Real images for a bundle's model, in the type that it takes; a checkpoint is timed on made-up pixels."""
    if subject.path.is_dir():
        return None
    manifest = read_manifest(subject.path.parent)
    dtype = next(m for m in manifest.models if m.file == subject.path.name).artifact.inputs[0].dtype
    golden = subject.path.parent / manifest.golden.inputs
    if not golden.is_file() or sha256_of(golden) != manifest.files[manifest.golden.inputs]:
        raise VerificationFailed(f"{golden} is not the file that the bundle was made with", f"check with: tlx verify {subject.path.parent}")
    np.save(path, np.load(golden, allow_pickle=False).astype(dtype), allow_pickle=False)
    return path


def _request(subject: Subject, settings: BenchSettings, inputs: Path | None) -> BenchRequest:
    return BenchRequest(
        what=str(subject.path),
        path=subject.path,
        runtime=subject.runtime,
        device=device_for(subject.runtime, settings.device),
        threads=settings.threads,
        batch=settings.batch,
        artifact_sha256=subject.sha256,
        precision=subject.precision,
        size_bytes=subject.size_bytes,
        inputs=inputs,
        min_runs=settings.min_runs,
        max_runs=max(settings.min_runs, 10_000),
        min_seconds=settings.min_seconds,
    )

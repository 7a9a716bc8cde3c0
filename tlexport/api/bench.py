"""The verb ``bench``: latency, throughput, size and memory of models, measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tlexport.artifact import Precision
from tlexport.bench.noise import noise
from tlexport.bench.process import measure
from tlexport.bundle.manifest import Manifest
from tlexport.errors import OverBudget, Unsupported, UsageError
from tlexport.hardware.target import is_here
from tlexport.loading.bench_request import BenchSettings as BenchSettings
from tlexport.loading.bench_request import requests_for
from tlexport.loading.model import LoadedModel, load
from tlexport.measurement import Measurement
from tlexport.plan import Candidate, Limits, not_as_budgeted, violations
from tlexport.ports import Progress, Silent
from tlexport.storage.files import temporary_folder


def bench(
    what: Path | LoadedModel, settings: BenchSettings, *, precisions: Sequence[Precision] | None = None, progress: Progress | None = None
) -> list[Measurement]:
    """Measure WHAT, each model in its own process, on the golden images of a bundle or on synthetic inputs.

    Args:
        what: a checkpoint, a bundle (all of its models, unless ``precisions`` names some), any .onnx file, or an engine.
        settings: runtime, device, threads, batch, duration.
        precisions: which of a bundle's models.
        progress: receives progress and notes.

    Raises:
        Unsupported: the model is a TensorRT INT8 graph, whose time on a CPU is not representative. If a whole bundle is measured, this
            model is left out with a note.
        TlxError: see errors.py.
    """
    progress, model = progress or Silent(), load(what)
    measurements = []
    with temporary_folder("tlx-bench-") as folder:
        requests = requests_for(model, settings, precisions, progress, folder)
        with progress.task("measuring", len(requests)) as advance:
            for request in requests:
                measurements.append(measure(request))
                if found := noise(measurements[-1]):
                    progress.note(f"noisy measurement of {request.what}: {found}")
                advance(1)
    return measurements


def target_here(bundle: Path | LoadedModel) -> Manifest:
    """The manifest of a bundle whose budget can be checked on this machine. Call it before measuring.

    Raises:
        InvalidFile: not a bundle.
        Unsupported: this machine is not the bundle's target.
    """
    model = load(bundle)
    manifest = model.bundle()
    if not is_here(manifest.profile):
        raise Unsupported(
            f"{model.what} is for {manifest.target}, but this machine is not one",
            "run it on the device, or name the device: --host user@board",
        )
    return manifest


def check_budget(bundle: Path | LoadedModel, measurements: Sequence[Measurement], *, elsewhere: bool = False) -> None:
    """Compare the measurement of a bundle's chosen model with the budget of its profile.

    Args:
        bundle: the bundle.
        measurements: of its models.
        elsewhere: they were made on a board that is the target.

    Raises:
        OverBudget: names each broken limit.
        Unsupported: this machine is not the bundle's target, or the target runs an engine instead of the measured model.
        UsageError: the chosen model is not among the measurements, or was measured with several images at a time.
    """
    model = load(bundle)
    manifest = model.bundle() if elsewhere else target_here(model)
    chosen, budget = manifest.model(), manifest.profile.budget
    measured = next((m for m in measurements if m.artifact_sha256 == chosen.artifact.sha256), None)
    if measured is None:
        raise UsageError(f"the chosen model of {model.what}, {chosen.artifact.precision}, was not measured", "leave out --precision")
    if wrong := not_as_budgeted(manifest.profile, measured.runtime, measured.provider):
        engine = "build the engine and time it, in the bundle: python3 run.py build, python3 run.py bench"
        session = f"tlx bench {model.what} --check --device {manifest.profile.device or 'cpu'}"
        raise Unsupported(f"{manifest.target}: {wrong}", engine if manifest.profile.runtime == "tensorrt" else session)
    if measured.batch != 1:
        raise UsageError(f"the budget is for one image at a time, but {measured.batch} were measured", "leave out --batch")
    p50, p95 = measured.percentile_ms(50), measured.percentile_ms(95)
    candidate = Candidate(chosen.artifact.precision, measured.size_bytes, chosen.drop_points, p50, p95, measured.peak_memory_bytes)
    broken = violations(candidate, Limits(budget.size_bytes, budget.latency_p95_ms, budget.memory_bytes, drop_points=100.0))
    if broken:
        noisy = f"the measurement is noisy ({found}): measure again; or " if (found := noise(measured)) else ""
        raise OverBudget(
            f"{measured.what} is over the budget of {manifest.target}: {'; '.join(broken)}",
            f"{noisy}export with --precision auto, or raise the budget",
        )

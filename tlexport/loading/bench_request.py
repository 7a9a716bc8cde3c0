"""From WHAT (a checkpoint, a bundle, any ONNX file, an engine) to the requests for its measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tlexport import plugins
from tlexport.artifact import Precision
from tlexport.bench.process import BenchRequest
from tlexport.bundle.manifest import MANIFEST, Manifest
from tlexport.errors import InvalidFile, Unsupported, UsageError
from tlexport.loading.external_model import ENGINES, read_external_model
from tlexport.loading.model import LoadedModel, RunnableModel, device_for
from tlexport.onnx_model.file import is_onnx_name
from tlexport.ports import Progress
from tlexport.storage.files import sha256_of
from tlexport.storage.untrusted import read_npy


@dataclass(frozen=True)
class BenchSettings:
    """How to measure."""

    runtime: str = "auto"
    device: str = "auto"
    threads: int | None = None
    batch: int = 1
    min_runs: int = 100
    min_seconds: float = 1.0
    layers: bool = False  # also time each layer
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)  # of an external model's inputs


def requests_for(
    model: LoadedModel, settings: BenchSettings, precisions: Sequence[Precision] | None, progress: Progress, folder: Path
) -> list[BenchRequest]:
    """The measurements to make of WHAT.

    Args:
        model: a checkpoint, a bundle, an .onnx file or an engine.
        settings: how to measure.
        precisions: which of a bundle's models; None: all that can be timed here.
        progress: receives a note on each model that is left out and on each assumption.
        folder: for files that the measurements need while they run.

    Raises:
        TlxError: as for :func:`tlexport.api.bench.bench`.
    """
    path = model.path
    if path.is_file() and path.suffix in ENGINES:
        return [_engine(path, settings, precisions)]
    if path.is_file() and is_onnx_name(path) and model.manifest is None:
        return [_external(path, settings, precisions, progress)]
    if settings.shapes:
        raise UsageError(f"--shape is for external models; the inputs of {path} are known", "leave it out")
    runnable = _runnable(model, settings.runtime, precisions, progress)
    return [_ours(model, one, settings, folder / f"{index}.npy") for index, one in enumerate(runnable)]


def _request(path: Path, runtime: str, settings: BenchSettings, **more: object) -> BenchRequest:
    common = {
        "what": str(path),
        "path": path,
        "runtime": runtime,
        "device": device_for(runtime, settings.device),
        "threads": settings.threads,
        "batch": settings.batch,
        "min_runs": settings.min_runs,
        "max_runs": max(settings.min_runs, 10_000),
        "min_seconds": settings.min_seconds,
        "profile": True,
        "layers": settings.layers,
    }
    return BenchRequest.model_validate(common | more)


def _runnable(loaded: LoadedModel, runtime: str, precisions: Sequence[Precision] | None, progress: Progress) -> list[RunnableModel]:
    wanted: Sequence[Precision | None] = precisions or loaded.precisions or [None]
    models = [loaded.runnable(runtime, precision) for precision in wanted]
    runnable = [model for model in models if not model.simulate_quantization]
    if not runnable or (precisions and len(runnable) < len(models)):
        raise Unsupported(
            f"the INT8 model of {loaded.path} is made for TensorRT; its time on a CPU is representative of neither",
            "bench it on the device, or export for this machine: tlx export --target cpu-x86",
        )
    if len(runnable) < len(models):
        progress.note(f"the INT8 model of {loaded.path} is made for TensorRT and is not timed here")
    return runnable


def _ours(loaded: LoadedModel, model: RunnableModel, settings: BenchSettings, inputs: Path) -> BenchRequest:
    known = {"artifact_sha256": model.sha256, "precision": model.precision, "size_bytes": model.size_bytes}
    if loaded.manifest is None:  # a checkpoint is timed on synthetic pixels
        return _request(model.path, model.runtime, settings, **known)
    images = _golden(loaded, loaded.manifest, model, inputs)
    end_to_end = {"images": images if settings.batch == 1 else (), "preprocess": model.preprocess}
    return _request(model.path, model.runtime, settings, **known, **end_to_end, inputs=inputs)


def _golden(loaded: LoadedModel, manifest: Manifest, model: RunnableModel, inputs: Path) -> tuple[Path, ...]:
    """The files of a bundle's golden images; their pixels are written to ``inputs`` in the dtype that the model takes."""
    dtype = next(m for m in manifest.models if m.file == model.path.name).artifact.inputs[0].dtype
    golden = manifest.golden
    pixels, *images = (loaded.expect_unchanged(name, manifest.files[name]) for name in (golden.inputs, *golden.images))
    np.save(inputs, read_npy(pixels).astype(dtype), allow_pickle=False)
    return tuple(images)


def _external(path: Path, settings: BenchSettings, precisions: Sequence[Precision] | None, progress: Progress) -> BenchRequest:
    found = read_external_model(path, settings.shapes, settings.batch)
    if precisions and found.precision not in precisions:
        raise UsageError(f"{path} is {found.precision}; {' and '.join(precisions)} was asked for", "leave out --precision")
    for note in found.notes:
        progress.note(note)
    progress.note(f"{path} has no {MANIFEST} beside it: its inputs are synthetic, with the shapes that it declares")
    known = {"artifact_sha256": found.sha256, "precision": found.precision, "size_bytes": found.size_bytes}
    known |= {"batch": found.batch, "shapes": found.shapes, "axes": found.axes, "external": True}
    return _request(path, _opens(settings.runtime, "onnx", path), settings, **known)


def _engine(path: Path, settings: BenchSettings, precisions: Sequence[Precision] | None) -> BenchRequest:
    if settings.shapes:
        raise UsageError(f"--shape is for ONNX files; the shapes of {path} were fixed when it was built", "leave it out")
    if precisions:
        raise UsageError(f"{path} is one engine, which does not declare its precision", "leave out --precision")
    if settings.threads is not None:
        raise UsageError(f"{path} runs on the GPU, so CPU threads do not apply", "leave out --threads")
    if not path.stat().st_size:
        raise InvalidFile(f"{path} is empty; an engine was expected")
    known = {"artifact_sha256": sha256_of(path), "precision": "engine", "size_bytes": path.stat().st_size}
    return _request(path, _opens(settings.runtime, "engine", path), settings, **known)


def _opens(runtime: str, form: str, path: Path) -> str:
    """The runtime that opens a kind of file: the requested one, or the first for ``auto``."""
    able = [name for name in plugins.names("runtimes") if form in plugins.runtime(name).FORMATS]
    if runtime == "auto" and able:
        return able[0]
    if runtime not in able:
        if runtime != "auto":
            plugins.runtime(runtime)  # raises for an unknown name
        none = f"no runtime of this installation opens {path}" if runtime == "auto" else f"--runtime {runtime} does not open {path}"
        raise Unsupported(
            f"{none}, which is of the kind '{form}'", f"use --runtime {' or '.join(able)}" if able else "run it on the device"
        )
    return runtime

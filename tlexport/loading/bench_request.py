"""From WHAT to the requests for its measurements: a checkpoint, a bundle, an ONNX file of any origin, an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np

from tlexport import plugins
from tlexport.artifact import Precision
from tlexport.bench.process import BenchRequest
from tlexport.bundle.manifest import MANIFEST, read_manifest
from tlexport.errors import InvalidFile, Unsupported, UsageError, VerificationFailed
from tlexport.loading.external_model import ENGINES, read_foreign
from tlexport.loading.model import Subject, device_for, find_subject
from tlexport.onnx_model.file import is_onnx_name
from tlexport.ports import Progress, Runtime
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
    layers: bool = False  # also how long each layer takes
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)  # of a foreign model's inputs


def requests_for(
    what: Path, settings: BenchSettings, precisions: Sequence[Precision] | None, progress: Progress, folder: Path
) -> list[BenchRequest]:
    """What is to be measured of WHAT.

    Args:
        what: a checkpoint, a bundle, an .onnx file or an engine.
        settings: how.
        precisions: which of a bundle's models; None: all that can be timed here.
        progress: told what is left out, and what was taken for granted.
        folder: for files that the measurements need while they run.

    Raises:
        TlxError: as for :func:`tlexport.api.bench.bench`.
    """
    if what.is_file() and what.suffix in ENGINES:
        return [_engine(what, settings, precisions)]
    if what.is_file() and is_onnx_name(what) and not (what.parent / MANIFEST).is_file():
        return [_foreign(what, settings, precisions, progress)]
    if settings.shapes:
        raise UsageError(f"--shape is for models of others; the inputs of {what} are known", "leave it out")
    subjects = _subjects(what, settings.runtime, precisions, progress)
    return [_ours(subject, settings, folder / f"{index}.npy") for index, subject in enumerate(subjects)]


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


def _ours(subject: Subject, settings: BenchSettings, inputs: Path) -> BenchRequest:
    known = {"artifact_sha256": subject.sha256, "precision": subject.precision, "size_bytes": subject.size_bytes}
    if subject.path.is_dir():  # a checkpoint is timed on made-up pixels
        return _request(subject.path, subject.runtime, settings, **known)
    images = _golden(subject, inputs)
    end_to_end = {"images": images if settings.batch == 1 else (), "preprocess": subject.preprocess}
    return _request(subject.path, subject.runtime, settings, **known, **end_to_end, inputs=inputs)


def _golden(subject: Subject, inputs: Path) -> tuple[Path, ...]:
    """A bundle's golden images: written to ``inputs`` in the type that the model takes; and their files."""
    folder = subject.path.parent
    manifest = read_manifest(folder)
    dtype = next(m for m in manifest.models if m.file == subject.path.name).artifact.inputs[0].dtype
    for name in (manifest.golden.inputs, *manifest.golden.images):
        path = folder / name
        if not path.is_file() or sha256_of(path) != manifest.files[name]:
            raise VerificationFailed(f"{path} is not the file that the bundle was made with", f"check with: tlx verify {folder}")
    np.save(inputs, read_npy(folder / manifest.golden.inputs).astype(dtype), allow_pickle=False)
    return tuple(folder / name for name in manifest.golden.images)


def _foreign(path: Path, settings: BenchSettings, precisions: Sequence[Precision] | None, progress: Progress) -> BenchRequest:
    found = read_foreign(path, settings.shapes, settings.batch)
    if precisions and found.precision not in precisions:
        raise UsageError(f"{path} is {found.precision}; {' and '.join(precisions)} was asked for", "leave out --precision")
    for note in found.notes:
        progress.note(note)
    progress.note(f"{path} has no {MANIFEST} beside it: its inputs are made up by the shapes that it declares")
    known = {"artifact_sha256": found.sha256, "precision": found.precision, "size_bytes": found.size_bytes}
    known |= {"batch": found.batch, "shapes": found.shapes, "axes": found.axes, "external": True}
    return _request(path, _opens(settings.runtime, "onnx", path), settings, **known)


def _engine(path: Path, settings: BenchSettings, precisions: Sequence[Precision] | None) -> BenchRequest:
    if settings.shapes:
        raise UsageError(f"--shape is for ONNX files; the shapes of {path} were settled when it was built", "leave it out")
    if precisions:
        raise UsageError(f"{path} is one engine, and does not say in which precision it computes", "leave out --precision")
    if settings.threads is not None:
        raise UsageError(f"{path} computes on the GPU, so that a number of CPU threads means nothing to it", "leave out --threads")
    if not path.stat().st_size:
        raise InvalidFile(f"{path} is empty; an engine was expected")
    known = {"artifact_sha256": sha256_of(path), "precision": "engine", "size_bytes": path.stat().st_size}
    return _request(path, _opens(settings.runtime, "engine", path), settings, **known)


def _opens(runtime: str, form: str, path: Path) -> str:
    """The runtime that opens a kind of file; the one asked for, if it does."""
    able = [name for name in plugins.names("runtimes") if form in cast(Runtime, plugins.load("runtimes", name)).FORMATS]
    if runtime == "auto" and able:
        return able[0]
    if runtime not in able:
        if runtime != "auto":
            plugins.load("runtimes", runtime)  # an unknown name is another mistake
        none = f"no runtime of this installation opens {path}" if runtime == "auto" else f"--runtime {runtime} does not open {path}"
        raise Unsupported(
            f"{none}, which is of the kind '{form}'", f"use --runtime {' or '.join(able)}" if able else "run it on the device"
        )
    return runtime

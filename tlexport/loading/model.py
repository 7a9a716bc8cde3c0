"""WHAT a command works on: a checkpoint, a bundle, or an ONNX file with its bundle's manifest beside it."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tlexport import plugins
from tlexport.artifact import Precision
from tlexport.bundle.manifest import MANIFEST, Manifest, read_manifest
from tlexport.checkpoint import RECORD, WEIGHTS, Checkpoint, read_checkpoint
from tlexport.contract import Preprocess
from tlexport.errors import InvalidFile, Unsupported, UsageError, VerificationFailed
from tlexport.loading.open_bundle import open_bundle
from tlexport.onnx_model.file import is_onnx_name
from tlexport.ports import Runner, RunOptions, Runtime
from tlexport.storage.files import sha256_of

LATEST = Path("runs/latest")


@dataclass(frozen=True)
class Subject:
    """A model, what is known of it, and the runtime that will open it. The file's hash was checked."""

    path: Path  # what the runtime opens: a checkpoint directory or an .onnx file
    runtime: str
    precision: Precision
    sha256: str
    size_bytes: int
    classes: tuple[str, ...]
    preprocess: Preprocess
    simulate_quantization: bool = False  # the graph is for TensorRT: on a CPU its Q/DQ pairs are to be computed as written

    def open(self, device: str, threads: int | None) -> Runner:
        """Open it in its runtime. ``device`` may be ``auto``."""
        options = RunOptions(device_for(self.runtime, device), threads, simulate_quantization=self.simulate_quantization)
        return cast(Runtime, plugins.load("runtimes", self.runtime)).open_model(self.path, options)


def device_for(runtime: str, device: str) -> str:
    """``auto`` becomes what it stands for in a runtime; anything else stays."""
    return cast(Runtime, plugins.load("runtimes", runtime)).auto_device() if device == "auto" else device


def find_subject(what: Path, runtime: str = "auto", precision: Precision | None = None) -> Subject:
    """Look at WHAT and choose its runtime.

    Args:
        what: a checkpoint directory, a bundle (a directory or one file), or an .onnx file inside a bundle.
        runtime: a name from ``tlexport/runtimes/``, or ``auto``: the one that opens this kind of file.
        precision: which of a bundle's models; None: the chosen one.

    Raises:
        InvalidFile: not there, or none of these.
        VerificationFailed: the model file is not the one its record was written for.
        UsageError: a precision was asked of something that has only one, or an unknown runtime.
        Unsupported: the runtime does not open this kind of file.
    """
    if not what.exists():
        raise InvalidFile(f"{what} does not exist{_near(what)}", "WHAT is a checkpoint, a bundle, or an .onnx file of a bundle")
    what = open_bundle(what)
    if os.path.lexists(what / RECORD):
        if precision not in (None, "fp32"):
            raise UsageError(f"{what} is a checkpoint, which is fp32; {precision} was asked for", f"export it first: tlx export {what}")
        return _checkpoint(what, read_checkpoint(what), _choose(runtime, "checkpoint", what))
    if os.path.lexists(what / MANIFEST):
        manifest = read_manifest(what)
        return _model(what, manifest, manifest.model(precision).file, runtime)
    if is_onnx_name(what) and (what.parent / MANIFEST).is_file():
        subject = _model(what.parent, read_manifest(what.parent), what.name, runtime)
        if precision not in (None, subject.precision):
            raise UsageError(f"{what} is {subject.precision}; {precision} was asked for", f"give the bundle itself: {what.parent}")
        return subject
    if is_onnx_name(what):
        raise InvalidFile(
            f"{what} has no {MANIFEST} beside it, so its classes and preprocessing are not known", "give the bundle it belongs to"
        )
    raise InvalidFile(f"{what} is neither a checkpoint, nor a bundle, nor an .onnx file", "make one with: tlx finetune DATA, tlx export")


def _near(what: Path) -> str:
    siblings = [p.name for p in what.parent.iterdir()] if what.parent.is_dir() else []
    close = difflib.get_close_matches(what.name, siblings, n=1)
    return f"; did you mean {what.parent / close[0]}?" if close else ""


def _choose(runtime: str, form: str, what: Path) -> str:
    """The runtime asked for if it opens this form; for ``auto`` the first that does. Imports no more of them than it must."""
    if runtime == "auto":
        return next(name for name in plugins.names("runtimes") if form in plugins.load("runtimes", name).FORMATS)
    if form not in plugins.load("runtimes", runtime).FORMATS:
        able = [name for name in plugins.names("runtimes") if form in plugins.load("runtimes", name).FORMATS]
        raise Unsupported(f"--runtime {runtime} does not open {what}, which is of the kind '{form}'", f"use --runtime {' or '.join(able)}")
    return runtime


def _checkpoint(path: Path, checkpoint: Checkpoint, runtime: str) -> Subject:
    weights = path / WEIGHTS
    return Subject(path, runtime, "fp32", checkpoint.weights_sha256, weights.stat().st_size, checkpoint.classes, checkpoint.preprocess)


def _model(folder: Path, manifest: Manifest, file: str, runtime: str) -> Subject:
    model = next((m for m in manifest.models if m.file == file), None)
    path = folder / file
    if model is None or not path.is_file():
        raise InvalidFile(f"{path} is not a model of the bundle {folder}", f"its models: {', '.join(m.file for m in manifest.models)}")
    artifact = model.artifact
    if sha256_of(path) != artifact.sha256:
        raise VerificationFailed(
            f"{path} is not the file that the bundle was made with: its hash differs", f"check with: tlx verify {folder}"
        )
    chosen = _choose(runtime, artifact.format, path)
    return Subject(
        path,
        chosen,
        artifact.precision,
        artifact.sha256,
        artifact.size_bytes,
        artifact.classes,
        artifact.preprocess,
        simulate_quantization=manifest.profile.runtime == "tensorrt" and artifact.precision == "int8" and chosen == "onnxruntime",
    )


def latest_checkpoint() -> Path:
    """Where ``runs/latest`` points. Raises UsageError when nothing was trained here."""
    if not LATEST.exists():
        raise UsageError(f"no CHECKPOINT was given and {LATEST} does not exist", "train one first: tlx finetune DATA")
    return LATEST.resolve()

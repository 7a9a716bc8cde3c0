"""WHAT of the command line, resolved once: a checkpoint, a bundle, one model of a bundle, or the file of an external model."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, field
from pathlib import Path

from tlexport import plugins
from tlexport.artifact import Precision
from tlexport.bundle.manifest import MANIFEST, Manifest, read_manifest
from tlexport.checkpoint import RECORD, WEIGHTS, Checkpoint, read_checkpoint
from tlexport.contract import Preprocess
from tlexport.errors import InvalidFile, Unsupported, UsageError, VerificationFailed
from tlexport.loading.open_bundle import open_bundle
from tlexport.onnx_model.file import is_onnx_name
from tlexport.ports import Runner, RunOptions
from tlexport.storage.files import sha256_of

LATEST = Path("runs/latest")


@dataclass(frozen=True)
class Execution:
    """How a model is run."""

    runtime: str = "auto"  # a name from ``tlexport/runtimes/``; ``auto``: the first one that opens this kind of file
    precision: Precision | None = None  # which of a bundle's models; None: the chosen one
    device: str = "auto"  # ``auto``, ``cpu`` or ``cuda[:N]``
    threads: int | None = None  # CPU threads; None: the runtime's own default


DEFAULT_EXECUTION = Execution()


@dataclass(frozen=True)
class RunnableModel:
    """One model, and the runtime that opens it. The hash of its file was checked."""

    path: Path  # what the runtime opens: a checkpoint directory or an .onnx file
    runtime: str
    precision: Precision
    sha256: str
    size_bytes: int
    classes: tuple[str, ...]
    preprocess: Preprocess
    simulate_quantization: bool = False  # a graph for TensorRT: on a CPU its Q/DQ pairs are computed as written

    def open(self, device: str, threads: int | None) -> Runner:
        """Open it in its runtime. ``device`` may be ``auto``."""
        options = RunOptions(device_for(self.runtime, device), threads, simulate_quantization=self.simulate_quantization)
        return plugins.runtime(self.runtime).open_model(self.path, options)


@dataclass(frozen=True)
class LoadedModel:
    """WHAT, with its records read. Verbs pass it on, so that each file is read, unpacked and hashed once."""

    what: Path  # as the user named it
    path: Path  # of an archive the directory that it was unpacked to, otherwise ``what``
    checkpoint: Checkpoint | None = None
    manifest: Manifest | None = None
    file: str | None = None  # the model of the bundle that WHAT names; None: WHAT is the whole bundle
    _hashed: set[Path] = field(default_factory=set, repr=False, compare=False)

    @property
    def folder(self) -> Path:
        """The directory of the bundle or the checkpoint."""
        return self.path.parent if self.file else self.path

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Of the models in a bundle; empty for everything else, and for one model of a bundle."""
        return tuple(model.artifact.precision for model in self.manifest.models) if self.manifest and not self.file else ()

    def bundle(self) -> Manifest:
        """The manifest. Raises InvalidFile if WHAT is not a whole bundle."""
        return self.manifest if self.manifest and not self.file else read_manifest(self.path)

    def expect_unchanged(self, name: str, sha256: str) -> Path:
        """The path of a file of the bundle. Raises VerificationFailed if its hash differs; hashes each file once."""
        path = self.folder / name
        if path not in self._hashed:
            if not path.is_file() or sha256_of(path) != sha256:
                raise VerificationFailed(
                    f"{path} is not the file that the bundle was made with: its hash differs", f"check with: tlx verify {self.folder}"
                )
            self._hashed.add(path)
        return path

    def runnable(self, runtime: str = "auto", precision: Precision | None = None) -> RunnableModel:
        """The model that was asked for, and its runtime.

        Args:
            runtime: see :class:`Execution`.
            precision: see :class:`Execution`.

        Raises:
            InvalidFile: WHAT is neither a checkpoint, nor a bundle, nor a model of a bundle.
            VerificationFailed: the file differs from the one that its record describes.
            UsageError: the model has another precision, or the runtime is unknown.
            Unsupported: the runtime does not open this kind of file.
        """
        if self.checkpoint is not None:
            if precision not in (None, "fp32"):
                raise UsageError(
                    f"{self.path} is a checkpoint, which is fp32; {precision} was asked for", f"export it first: tlx export {self.path}"
                )
            return _of_checkpoint(self.path, self.checkpoint, _choose(runtime, "checkpoint", self.path))
        if self.manifest is not None and self.file is None:
            return self._of_bundle(self.manifest, self.manifest.model(precision).file, runtime)
        if self.manifest is not None and self.file is not None:
            model = self._of_bundle(self.manifest, self.file, runtime)
            if precision not in (None, model.precision):
                raise UsageError(f"{self.path} is {model.precision}; {precision} was asked for", f"give the bundle itself: {self.folder}")
            return model
        if is_onnx_name(self.path):
            raise InvalidFile(
                f"{self.path} has no {MANIFEST} beside it, so its classes and preprocessing are not known",
                "give the bundle that it belongs to",
            )
        raise InvalidFile(
            f"{self.path} is neither a checkpoint, nor a bundle, nor an .onnx file", "make one with: tlx finetune DATA, tlx export"
        )

    def _of_bundle(self, manifest: Manifest, file: str, runtime: str) -> RunnableModel:
        model = next((m for m in manifest.models if m.file == file), None)
        if model is None or not (self.folder / file).is_file():
            raise InvalidFile(
                f"{self.folder / file} is not a model of the bundle {self.folder}",
                f"its models: {', '.join(m.file for m in manifest.models)}",
            )
        artifact = model.artifact
        path = self.expect_unchanged(file, artifact.sha256)
        chosen = _choose(runtime, artifact.format, path)
        return RunnableModel(
            path,
            chosen,
            artifact.precision,
            artifact.sha256,
            artifact.size_bytes,
            artifact.classes,
            artifact.preprocess,
            simulate_quantization=manifest.profile.runtime == "tensorrt" and artifact.precision == "int8" and chosen == "onnxruntime",
        )


def load(what: Path | LoadedModel) -> LoadedModel:
    """Resolve WHAT; a model that was loaded before is returned unchanged.

    Args:
        what: a checkpoint directory, a bundle (a directory or one file), an .onnx file inside a bundle, or any other file, which is then
            neither checkpoint nor bundle.

    Raises:
        InvalidFile: it does not exist, or its record is broken.
        VerificationFailed: an archive whose files differ from its manifest.
    """
    if isinstance(what, LoadedModel):
        return what
    if not what.exists():
        raise InvalidFile(f"{what} does not exist{_near(what)}", "WHAT is a checkpoint, a bundle, or an .onnx file of a bundle")
    path = open_bundle(what)
    if os.path.lexists(path / RECORD):
        return LoadedModel(what, path, checkpoint=read_checkpoint(path))
    if os.path.lexists(path / MANIFEST):
        return LoadedModel(what, path, manifest=read_manifest(path))
    if is_onnx_name(path) and (path.parent / MANIFEST).is_file():
        return LoadedModel(what, path, manifest=read_manifest(path.parent), file=path.name)
    return LoadedModel(what, path)


def device_for(runtime: str, device: str) -> str:
    """The device that ``auto`` means for a runtime; any other device unchanged."""
    return plugins.runtime(runtime).auto_device() if device == "auto" else device


def _near(what: Path) -> str:
    siblings = [p.name for p in what.parent.iterdir()] if what.parent.is_dir() else []
    close = difflib.get_close_matches(what.name, siblings, n=1)
    return f"; did you mean {what.parent / close[0]}?" if close else ""


def _choose(runtime: str, form: str, what: Path) -> str:
    """The runtime asked for if it opens this form; for ``auto`` the first that does. Imports no more runtimes than necessary."""
    if runtime == "auto":
        return next(name for name in plugins.names("runtimes") if form in plugins.runtime(name).FORMATS)
    if form not in plugins.runtime(runtime).FORMATS:
        able = [name for name in plugins.names("runtimes") if form in plugins.runtime(name).FORMATS]
        raise Unsupported(f"--runtime {runtime} does not open {what}, which is of the kind '{form}'", f"use --runtime {' or '.join(able)}")
    return runtime


def _of_checkpoint(path: Path, checkpoint: Checkpoint, runtime: str) -> RunnableModel:
    size = (path / WEIGHTS).stat().st_size
    return RunnableModel(path, runtime, "fp32", checkpoint.weights_sha256, size, checkpoint.classes, checkpoint.preprocess)


def latest_checkpoint() -> Path:
    """Where ``runs/latest`` points. Raises UsageError when nothing was trained here."""
    if not LATEST.exists():
        raise UsageError(f"no CHECKPOINT was given and {LATEST} does not exist", "train one first: tlx finetune DATA")
    return LATEST.resolve()

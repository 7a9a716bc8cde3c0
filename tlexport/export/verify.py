"""Verification of a bundle: hashes, then the golden vectors replayed through the runtime that is here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tlexport.bundle import LABELS, MANIFEST, SIGNATURE, Manifest, Model
from tlexport.device.image import BadImage, prepare
from tlexport.errors import InvalidFile, StepFailed, UsageError
from tlexport.files import sha256_of
from tlexport.ports import Array, Runner


@dataclass(frozen=True)
class Check:
    """One thing that was verified."""

    name: str
    ok: bool
    detail: str

    def to_json(self) -> dict[str, object]:
        """As cli.md has it."""
        return asdict(self)


def check_files(folder: Path, manifest: Manifest) -> list[Check]:
    """Every file has the hash of the manifest, none is missing, none is extra, and the labels are the classes."""
    present = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file() or file.is_symlink()} - {
        MANIFEST,
        SIGNATURE,
    }
    checks = []
    for name, expected in manifest.files.items():
        file = folder / name
        if name not in present:
            checks.append(Check(f"hash {name}", False, "the file is missing"))
        elif not file.is_file():
            checks.append(Check(f"hash {name}", False, "it is a link that leads to no file"))
        elif not file.resolve().is_relative_to(folder.resolve()):
            checks.append(Check(f"hash {name}", False, "it is a link to a file outside the bundle"))
        else:
            found = sha256_of(file)
            checks.append(
                Check(f"hash {name}", found == expected, "" if found == expected else f"found {found[:12]}…, expected {expected[:12]}…")
            )
    # engines are built beside their models on the device, so they are not a sign of tampering
    extra = sorted(name for name in present - set(manifest.files) if not name.endswith(".engine"))
    checks.append(Check("no other files", not extra, ", ".join(extra[:5])))
    labels = folder / LABELS
    same = LABELS in present and tuple(labels.read_text(encoding="utf-8", errors="replace").splitlines()) == manifest.classes
    checks.append(Check("labels", same, "" if same else f"{LABELS} does not list the manifest's classes in order"))
    return checks


def check_decoding(folder: Path, manifest: Manifest) -> Check:
    """The golden images, decoded and resized here, give the golden tensors to the last bit."""
    title, images, contract = "decode and resize", manifest.golden.images, manifest.preprocess.model_dump()
    try:
        inputs = _array(folder / manifest.golden.inputs)
    except InvalidFile as error:
        return Check(title, False, error.message)
    if len(inputs) != len(images):
        return Check(title, False, f"{len(images)} images, but {len(inputs)} tensors")
    worst = 0
    for name, expected in zip(images, inputs, strict=True):
        try:
            found = prepare(folder / name, contract)
        except BadImage as error:
            return Check(title, False, f"{name}: {error}")
        if (found.shape, found.dtype) != (expected.shape, expected.dtype):
            return Check(title, False, f"{name} became {found.dtype} {found.shape}, expected {expected.dtype} {expected.shape}")
        worst = max(worst, int(np.abs(found.astype(int) - expected).max()))
    return Check(title, worst == 0, f"{len(inputs)} images, largest difference {worst} of 255")


def check_model(folder: Path, manifest: Manifest, model: Model, open_model: Callable[[Path], Runner]) -> Check:
    """A model has the declared tensors, and answers the golden inputs with the golden outputs, within its tolerance."""
    title, artifact = f"golden {model.artifact.precision}", model.artifact
    try:
        inputs, expected = _array(folder / manifest.golden.inputs), _array(folder / model.golden_outputs)
        with open_model(folder / model.file) as runner:
            if (runner.inputs, runner.outputs) != (artifact.inputs, artifact.outputs):
                return Check(title, False, f"its tensors are {(*runner.inputs, *runner.outputs)}, not those of the manifest")
            spec, output = artifact.inputs[0], artifact.outputs[0]
            rows = [runner.run({spec.name: image[None].astype(spec.dtype)})[output.name] for image in inputs]
            provider = runner.provider
    except (InvalidFile, StepFailed, UsageError) as error:  # a file that cannot be used; a missing device is another matter
        return Check(title, False, error.message)
    found = np.concatenate(rows)
    if (found.shape, found.dtype) != (expected.shape, expected.dtype):
        return Check(title, False, f"outputs are {found.dtype} {found.shape}, expected {expected.dtype} {expected.shape}")
    worst = float(np.abs(found - expected).max())
    detail = f"{len(inputs)} images on {provider}, largest difference in probability {worst:.2g} (allowed {model.tolerance:g})"
    return Check(title, worst <= model.tolerance, detail)


def _array(path: Path) -> Array:
    """A .npy array of numbers. Raises InvalidFile when it is none, or empty."""
    try:
        array: Array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InvalidFile(f"{path} cannot be read as a .npy array: {error}") from None
    if array.size == 0 or array.ndim == 0 or array.dtype.kind not in "uif":
        raise InvalidFile(f"{path} holds {array.dtype} {array.shape}; numbers were expected")
    return array

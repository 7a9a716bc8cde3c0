"""Verification of a bundle: hashes, then the golden vectors replayed through the runtime that is here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tlexport.bundle import LABELS, MANIFEST, Manifest, Model
from tlexport.device.image import BadImage, prepare
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
    present = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file() or file.is_symlink()} - {MANIFEST}
    checks = []
    for name, expected in manifest.files.items():
        file = folder / name
        if name not in present:
            checks.append(Check(f"hash {name}", False, "the file is missing"))
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
    inputs = _array(folder / manifest.golden.inputs)
    contract = manifest.preprocess.model_dump()
    worst = 0
    for name, expected in zip(manifest.golden.images, inputs, strict=False):
        try:
            found = prepare(folder / name, contract)
        except BadImage as error:
            return Check("decode and resize", False, f"{name}: {error}")
        if found.shape != expected.shape:
            return Check("decode and resize", False, f"{name} became {found.shape}, expected {expected.shape}")
        worst = max(worst, int(np.abs(found.astype(int) - expected).max()))
    return Check("decode and resize", worst == 0, f"{len(inputs)} images, largest difference {worst} of 255")


def check_model(folder: Path, manifest: Manifest, model: Model, open_model: Callable[[Path], Runner]) -> Check:
    """A model answers the golden inputs with the golden outputs, within its tolerance."""
    inputs, expected = _array(folder / manifest.golden.inputs), _array(folder / model.golden_outputs)
    with open_model(folder / model.file) as runner:
        (spec,), (output,) = runner.inputs, runner.outputs
        rows = [runner.run({spec.name: image[None].astype(spec.dtype)})[output.name] for image in inputs]
        provider = runner.provider
    found = np.concatenate(rows)
    if found.shape != expected.shape:
        return Check(f"golden {model.artifact.precision}", False, f"outputs have the shape {found.shape}, expected {expected.shape}")
    worst = float(np.abs(found - expected).max())
    detail = f"{len(inputs)} images on {provider}, largest difference in probability {worst:.2g} (allowed {model.tolerance:g})"
    return Check(f"golden {model.artifact.precision}", worst <= model.tolerance, detail)


def _array(path: Path) -> Array:
    array: Array = np.load(path, allow_pickle=False)
    return array

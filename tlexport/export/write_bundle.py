"""Writes the directory of a bundle."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlexport import device
from tlexport.accuracy import Probabilities
from tlexport.bundle.manifest import LABELS, MANIFEST, MODEL_CARD, Golden, Manifest, read_manifest
from tlexport.bundle.signature import sign
from tlexport.device.golden import region
from tlexport.device.inputs.image import decode, prepare_pixels
from tlexport.device.inputs.image_files import SPECIAL
from tlexport.errors import InvalidFile, UsageError
from tlexport.export.cpp_example import write_cpp
from tlexport.export.model_card import model_card
from tlexport.export.sensitivity import write_sensitivity
from tlexport.ports import Pixels
from tlexport.storage.files import check_replaceable, new_directory, sha256_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

GOLDEN = 8  # images in a bundle
GOLDEN_INPUTS = "golden/inputs.npy"
GOLDEN_RESIZED = "golden/resized.npy"
RUNNER = "tlx"  # folder of the runner in a bundle
RUN = "run.py"  # the script that starts it, beside that folder


@dataclass(frozen=True)
class GoldenImages:
    """Real validation images, as files and as their expected tensors."""

    files: tuple[Path, ...]
    inputs: Pixels  # uint8 (image, height, width, channel)


def golden_positions(labels: Sequence[int], paths: Sequence[str]) -> list[int]:
    """Positions of a few images of many classes: the first of each class, then the second, ...

    Images that not every device can decode (AVIF, HEIC) come last.
    """
    seen: Counter[tuple[bool, int]] = Counter()
    order = []
    for position, (label, path) in enumerate(zip(labels, paths, strict=True)):
        special = path.lower().endswith(SPECIAL)
        order.append((special, seen[special, label], position))
        seen[special, label] += 1
    return [position for *_, position in sorted(order)[:GOLDEN]]


def check_place(path: Path) -> None:
    """Refuse to replace anything but a bundle, such as a checkpoint or a folder with another ``manifest.json``.

    Raises:
        UsageError: ``path`` exists and is neither empty nor a bundle.
    """
    check_replaceable(path)
    if path.is_dir() and any(path.iterdir()):
        try:
            read_manifest(path)
        except InvalidFile:
            raise UsageError(
                f"{path} exists and is not a bundle; it is left as it is", "choose another --out, or remove it first"
            ) from None


def write_bundle(
    path: Path,
    draft: Manifest,
    models: Sequence[Path],
    golden: GoldenImages,
    golden_outputs: Sequence[Probabilities],
    key: Ed25519PrivateKey | None = None,
    with_c: bool = False,
) -> Manifest:
    """Write everything beside ``path``, then rename.

    Args:
        path: the directory to write; an earlier bundle is replaced, anything else refused.
        draft: the manifest; its ``golden`` and ``files`` are filled in here.
        models: the model files, in the order of ``draft.models``.
        golden: the golden images and their tensors.
        golden_outputs: of each model on ``golden.inputs``, float32 (image, class).
        key: to sign with; None: not signed.
        with_c: add the C++ example.

    Returns:
        The manifest as written.

    Raises:
        UsageError: ``path`` holds something else.
        StepFailed: the file system refused.
    """
    check_place(path)
    with new_directory(path.resolve()) as folder:  # where a link leads, so that the link stays
        (folder / "golden").mkdir()
        for model, source, outputs in zip(draft.models, models, golden_outputs, strict=True):
            shutil.copyfile(source, folder / model.file)
            np.save(folder / model.golden_outputs, outputs, allow_pickle=False)
        vectors = _write_golden(folder, golden, draft.preprocess.model_dump())
        (folder / LABELS).write_text("".join(f"{name}\n" for name in draft.classes), encoding="utf-8")
        for model in draft.models:
            write_sensitivity(folder, model.artifact)
        _write_runner(folder)
        (folder / MODEL_CARD).write_text(model_card(draft), encoding="utf-8")
        if with_c:
            write_cpp(folder, draft, vectors)
        names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
        update = {
            "golden": vectors.model_dump(),
            "files": {name: sha256_of(folder / name) for name in names},
        }
        manifest = Manifest.parse(draft.model_dump() | update, MANIFEST)
        manifest.write(folder / MANIFEST)
        if key is not None:
            sign(folder, key)
    return manifest


def _write_golden(folder: Path, golden: GoldenImages, preprocess: Mapping[str, Any]) -> Golden:
    """Write the images, their decoded pixels, and their tensors; see :mod:`tlexport.device.golden`."""
    images = [f"golden/{index:02}{file.suffix.lower()}" for index, file in enumerate(golden.files)]
    decoded = [f"golden/{index:02}.decoded.npy" for index in range(len(images))]
    squares = []
    for name, corner, file in zip(images, decoded, golden.files, strict=True):
        shutil.copyfile(file, folder / name)
        pixels = region(decode(file, preprocess["background"]))
        np.save(folder / corner, pixels, allow_pickle=False)
        squares.append(prepare_pixels(pixels, preprocess))
    np.save(folder / GOLDEN_INPUTS, golden.inputs, allow_pickle=False)
    np.save(folder / GOLDEN_RESIZED, np.stack(squares), allow_pickle=False)
    return Golden(images=tuple(images), inputs=GOLDEN_INPUTS, decoded=tuple(decoded), resized=GOLDEN_RESIZED)


def _write_runner(folder: Path) -> None:
    """Copy the files of ``tlexport/device`` and of its sub-folders unchanged, and the script that starts them."""
    package = Path(device.__file__).parent
    for source in sorted(package.rglob("*.py")):
        name = source.relative_to(package).as_posix()
        target = folder / (RUN if name == RUN else f"{RUNNER}/{name}")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)

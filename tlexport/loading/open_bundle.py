"""Unpacks and checks a bundle that comes as one file."""

from __future__ import annotations

import shutil
from pathlib import Path

from tlexport.bundle.archive import is_archive, unpack
from tlexport.bundle.manifest import MANIFEST, SIGNATURE, Manifest, read_manifest
from tlexport.device.golden import check_files
from tlexport.device.manifest import Bundle
from tlexport.errors import InvalidFile, StepFailed, TlxError, UsageError, VerificationFailed
from tlexport.onnx_model.file import check_onnx_file
from tlexport.storage.cache import cache_folder
from tlexport.storage.files import new_directory, sha256_of, sweep_partials

FOLDER = "bundles"  # of the cache
AGAIN = "get it again from whoever made it"
MOST_KEPT = 8  # unpacked bundles in the cache


def open_bundle(path: Path) -> Path:
    """The directory of a bundle.

    An archive is unpacked into the cache once. Each time it is opened, its manifest is read, the hash of every file is checked, and models
    with external weights are refused, before anything in it is used.

    Args:
        path: any path; one without the suffix of an archive is returned unchanged.

    Raises:
        InvalidFile: not an archive of a bundle; see :func:`tlexport.bundle.archive.unpack`.
        VerificationFailed: a file differs from the manifest.
        StepFailed: there is no room to unpack it.
    """
    if not is_archive(path) or not path.is_file():
        return path
    folder = cache_folder() / FOLDER / sha256_of(path)[:32]
    if folder.is_dir():
        try:
            _expect_whole(path, folder)
        except TlxError:  # the unpacked copy was changed: unpack the archive again
            shutil.rmtree(folder, ignore_errors=True)
        else:
            folder.touch()
            return folder
    sweep_partials(folder.parent)
    with new_directory(folder) as temporary:
        names = unpack(path, temporary)
        known = {MANIFEST, SIGNATURE, *_expect_whole(path, temporary).files}
        if strangers := sorted(set(names) - known):  # engines too: they belong to the machine that built them
            raise VerificationFailed(f"{path} holds files that its manifest does not list: {', '.join(strangers[:5])}", AGAIN)
    _forget_oldest(folder.parent)
    return folder


def check_archive_place(path: Path) -> None:
    """Raises UsageError if the path exists and is not the archive of a bundle."""
    if not path.exists():
        return
    try:
        if path.is_file():
            open_bundle(path)
            return
    except (InvalidFile, VerificationFailed, StepFailed):
        pass
    raise UsageError(f"{path} exists and is not a bundle; it was not changed", "choose another --out, or remove it first")


def _expect_whole(path: Path, folder: Path) -> Manifest:
    """Compare an unpacked bundle with its manifest."""
    manifest = read_manifest(folder)
    failed = [check for check in check_files(Bundle(folder)) if not check.ok]
    if failed:
        raise VerificationFailed(f"{path} differs from its manifest: {failed[0].name}: {failed[0].detail}", AGAIN)
    for model in manifest.models:
        check_onnx_file(folder / model.file)
    return manifest


def _forget_oldest(folder: Path) -> None:
    """Remove all but the bundles that were opened last."""
    kept = sorted(
        (found for found in folder.iterdir() if found.is_dir() and not found.name.startswith(".")),
        key=lambda found: found.stat().st_mtime,
        reverse=True,
    )
    for old in kept[MOST_KEPT:]:
        shutil.rmtree(old, ignore_errors=True)

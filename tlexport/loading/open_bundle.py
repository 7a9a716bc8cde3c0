"""A bundle in one file is unpacked, checked, and from then on is a directory like any other."""

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
MOST_KEPT = 8  # unpacked bundles; more are of no use to one who looks at one after the other


def open_bundle(path: Path) -> Path:
    """The directory of a bundle.

    An archive is unpacked into the cache, once; before anything of it is used its manifest is read, every file is held against its hash,
    and no model may keep weights elsewhere. All of that is done again each time that it is opened.

    Args:
        path: anything; what is no archive of a bundle by its name is given back as it is.

    Raises:
        InvalidFile: not an archive, or one that a bundle would not be; see :func:`tlexport.bundle.archive.unpack`.
        VerificationFailed: a file is not the one that the manifest speaks of.
        StepFailed: there is no room to unpack it.
    """
    if not is_archive(path) or not path.is_file():
        return path
    folder = cache_folder() / FOLDER / sha256_of(path)[:32]
    if folder.is_dir():
        try:
            _expect_whole(path, folder)
        except TlxError:  # someone was there; the archive has it as it was
            shutil.rmtree(folder, ignore_errors=True)
        else:
            folder.touch()
            return folder
    sweep_partials(folder.parent)
    with new_directory(folder) as temporary:
        names = unpack(path, temporary)
        known = {MANIFEST, SIGNATURE, *_expect_whole(path, temporary).files}
        if strangers := sorted(set(names) - known):  # an engine too, which may lie in a bundle only where it was built
            raise VerificationFailed(f"{path} holds what its manifest does not know: {', '.join(strangers[:5])}", AGAIN)
    _forget_oldest(folder.parent)
    return folder


def check_archive_place(path: Path) -> None:
    """Refuse to replace anything but an archive of a bundle. Raises UsageError."""
    if not path.exists():
        return
    try:
        if path.is_file():
            open_bundle(path)
            return
    except (InvalidFile, VerificationFailed, StepFailed):
        pass
    raise UsageError(f"{path} exists and is not a bundle; it is left as it is", "choose another --out, or remove it first")


def _expect_whole(path: Path, folder: Path) -> Manifest:
    """Hold an unpacked bundle against its manifest."""
    manifest = read_manifest(folder)
    failed = [check for check in check_files(Bundle(folder)) if not check.ok]
    if failed:
        raise VerificationFailed(f"{path} is not as its manifest says: {failed[0].name}: {failed[0].detail}", AGAIN)
    for model in manifest.models:
        check_onnx_file(folder / model.file)
    return manifest


def _forget_oldest(folder: Path) -> None:
    """Keep the bundles that were opened last."""
    kept = sorted(
        (found for found in folder.iterdir() if found.is_dir() and not found.name.startswith(".")),
        key=lambda found: found.stat().st_mtime,
        reverse=True,
    )
    for old in kept[MOST_KEPT:]:
        shutil.rmtree(old, ignore_errors=True)

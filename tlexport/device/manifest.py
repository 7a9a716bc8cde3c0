"""Read a bundle on the device: its ``manifest.json``, and its files after a check of their hashes."""

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import InvalidFile, VerificationFailed
from .manifest_fields import is_inside, read_manifest
from .regular_file import open_regular, why_not_regular

if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional

MANIFEST = "manifest.json"
SIGNATURE = "manifest.json.sig"
_BLOCK = 1 << 20
_LARGEST_FILE = 2 * 10**9  # bytes; what an archive of a bundle may hold. Hashing a sparse file of terabytes would take hours


class Bundle:
    """A bundle on disk.

    Args:
        folder: the directory that holds ``manifest.json``.

    Raises:
        InvalidFile: not a bundle; the manifest is broken, or of a newer format.
    """

    def __init__(self, folder: "str | Path") -> None:
        self.folder = Path(folder)
        path = self.folder / MANIFEST
        if not os.path.lexists(str(path)):
            raise InvalidFile(f"{folder} is not a bundle: it holds no {MANIFEST}", "name the folder that tlx export wrote: --bundle FOLDER")
        self.data = read_manifest(path)

    @property
    def classes(self) -> "List[str]":
        """Class names in the order of the model's output."""
        names: List[str] = self.data["classes"]
        return names

    @property
    def models(self) -> "List[Dict[str, Any]]":
        """The records of the models."""
        models: List[Dict[str, Any]] = self.data["models"]
        return models

    @property
    def preprocess(self) -> "Dict[str, Any]":
        """The image contract."""
        contract: Dict[str, Any] = self.data["preprocess"]
        return contract

    @property
    def for_tensorrt(self) -> bool:
        """Whether the target runs a TensorRT engine, which is built on the device."""
        return bool(self.data["profile"]["runtime"] == "tensorrt")

    @property
    def precisions(self) -> "List[str]":
        """Precisions of the models, in order."""
        return [model["artifact"]["precision"] for model in self.models]

    def model(self, precision: "Optional[str]" = None) -> "Dict[str, Any]":
        """The record of the chosen model, or of the model with the given precision. Raises InvalidFile if it does not exist."""
        for model in self.models:
            if model["chosen"] if precision is None else model["artifact"]["precision"] == precision:
                return model
        raise InvalidFile(f"the bundle {self.data['name']} holds no {precision} model", f"it holds: {', '.join(self.precisions)}")

    def why_not(self, name: str) -> str:
        """Difference between a file of the bundle and the manifest; empty if there is none."""
        expected = self.data["files"].get(name)
        if expected is None:
            return "it has no hash in files"
        if not is_inside(name):
            return "its name leads out of the bundle"
        path = self.folder / name
        reason = why_not_regular(path)
        if reason:
            return reason
        size = os.lstat(str(path)).st_size
        if size > _LARGEST_FILE:
            return f"it has {size} bytes, at most {_LARGEST_FILE} were expected"
        if path.resolve() != self.folder.resolve() / name:
            return "a folder above it is a link; a regular folder was expected"
        found = sha256_of(path)
        return "" if found == expected else f"found {found[:12]}…, expected {expected[:12]}…"

    def checked(self, name: str) -> Path:
        """The path of a file of the bundle, after a check of its hash.

        Raises:
            VerificationFailed: the file is missing, not a regular file, or has changed since the export.
        """
        reason = self.why_not(name)
        if reason:
            raise VerificationFailed(f"{self.folder / name} is not the file that was exported: {reason}", "copy the bundle again")
        return self.folder / name


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal. Raises InvalidFile if the file cannot be read."""
    digest = hashlib.sha256()
    try:
        with open_regular(path) as stream:
            for block in iter(lambda: stream.read(_BLOCK), b""):
                digest.update(block)
    except OSError as error:
        raise InvalidFile(f"{path} cannot be read: {error.strerror or error}") from None
    return digest.hexdigest()

"""Reading a bundle on the device: its ``manifest.json``, checked by hand, and its files, each by its hash."""

import hashlib
import json
import os
import posixpath
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import InvalidFile, VerificationFailed
from .regular_file import open_regular, read_regular, why_not_regular

if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Tuple

MANIFEST = "manifest.json"
SIGNATURE = "manifest.json.sig"
FORMATS = (1, 2)  # what differs between them is nothing that the runner uses
_BLOCK = 1 << 20
_LARGEST_MANIFEST = 16 * 10**6  # bytes; one of a thousand classes and three models has about 0.1 MB
_LARGEST_FILE = 2 * 10**9  # bytes; what an archive of a bundle may hold. Hashing a sparse file of terabytes would take hours

_TEXT, _NUMBER, _WHOLE, _LIST, _TABLE = (str,), (int, float), (int,), (list,), (dict,)
# key path -> what must stand there; only what the runner uses: newer bundles may hold more
_KEYS = {
    "name": _TEXT,
    "target": _TEXT,
    "profile.runtime": _TEXT,
    "classes": _LIST,
    "preprocess.size": _WHOLE,
    "preprocess.resize": _WHOLE,
    "preprocess.interpolation": _TEXT,
    "preprocess.background": _LIST,
    "models": _LIST,
    "golden.images": _LIST,
    "golden.inputs": _TEXT,
    "files": _TABLE,
}
_MODEL_KEYS = {
    "file": _TEXT,
    "artifact.precision": _TEXT,
    "artifact.sha256": _TEXT,
    "artifact.size_bytes": _WHOLE,
    "artifact.opset": _WHOLE,
    "artifact.inputs": _LIST,
    "artifact.outputs": _LIST,
    "tolerance": _NUMBER,
    "golden_outputs": _TEXT,
    "chosen": (bool,),
}
_TENSOR_KEYS = {"name": _TEXT, "dtype": _TEXT, "shape": _LIST}
_NAMES = {str: "text", int: "a whole number", float: "a number", list: "a list", dict: "a table", bool: "true or false"}


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
        self.data = _read_json(path)
        if self.data.get("format") not in FORMATS:
            known = " and ".join(str(number) for number in FORMATS)
            raise InvalidFile(
                f"{path} is of format {self.data.get('format')!r}; this runner reads {known}", "use the run.py of that bundle itself"
            )
        _check(self.data, _KEYS, str(path), "")
        for i, model in enumerate(self.models):
            _check(model, _MODEL_KEYS, str(path), f"models.{i}.")
            for end in ("inputs", "outputs"):
                for k, tensor in enumerate(model["artifact"][end]):
                    _check(tensor, _TENSOR_KEYS, str(path), f"models.{i}.artifact.{end}.{k}.")
                if len(model["artifact"][end]) != 1:
                    raise InvalidFile(f"{path}: models.{i}.artifact.{end} holds {len(model['artifact'][end])} tensors; 1 was expected")
        if not self.classes or not all(isinstance(name, str) for name in self.classes):
            raise InvalidFile(f"{path}: classes must be texts, and at least one", "copy the bundle again")
        if sum(model["chosen"] for model in self.models) != 1:
            raise InvalidFile(f"{path}: exactly one of models must be chosen")

    @property
    def classes(self) -> "List[str]":
        """Names, in the order of the model's output."""
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
        """Whether the target runs an engine that TensorRT builds on the device."""
        return bool(self.data["profile"]["runtime"] == "tensorrt")

    @property
    def precisions(self) -> "List[str]":
        """Of its models, in order."""
        return [model["artifact"]["precision"] for model in self.models]

    def model(self, precision: "Optional[str]" = None) -> "Dict[str, Any]":
        """The record of the chosen model, or of that with a precision. Raises InvalidFile where there is none."""
        for model in self.models:
            if model["chosen"] if precision is None else model["artifact"]["precision"] == precision:
                return model
        raise InvalidFile(f"the bundle {self.data['name']} holds no {precision} model", f"it holds: {', '.join(self.precisions)}")

    def why_not(self, name: str) -> str:
        """Why a file of the bundle is not what the manifest says; empty where it is."""
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
        return "" if found == expected else f"found {found[:12]}…, expected {str(expected)[:12]}…"

    def checked(self, name: str) -> Path:
        """The path of a file of the bundle, after its hash was found right.

        Raises:
            VerificationFailed: it is missing, no regular file, or not the file that was exported.
        """
        reason = self.why_not(name)
        if reason:
            raise VerificationFailed(f"{self.folder / name} is not the file that was exported: {reason}", "copy the bundle again")
        return self.folder / name


def is_inside(name: str) -> bool:
    """Whether a name is a plain relative path that stays in its folder."""
    odd = "\\" in name or ":" in name or name.startswith("/") or ".." in name.split("/")
    return bool(name) and not odd and posixpath.normpath(name) == name


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal. Raises InvalidFile where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open_regular(path) as stream:
            for block in iter(lambda: stream.read(_BLOCK), b""):
                digest.update(block)
    except OSError as error:
        raise InvalidFile(f"{path} cannot be read: {error.strerror or error}") from None
    return digest.hexdigest()


def _read_json(path: Path) -> "Dict[str, Any]":
    content = read_regular(path, _LARGEST_MANIFEST)
    try:
        data = json.loads(content.decode("utf-8"), parse_int=_integer, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        raise InvalidFile(f"{path} cannot be read as JSON: {error}", "copy the bundle again") from None
    if not isinstance(data, dict):
        raise InvalidFile(f"{path} holds a JSON {type(data).__name__}; an object was expected", "copy the bundle again")
    return data


def _integer(text: str) -> int:
    if len(text) > 20:  # of 2^64; int() of many digits takes long, or is refused
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if value - value != 0:  # NaN and infinities
        raise ValueError(f"{text:.20} is no finite number")
    return value


def _check(data: "Any", keys: "Dict[str, Tuple[Any, ...]]", where: str, prefix: str) -> None:
    for key, kinds in keys.items():
        value = data
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                raise InvalidFile(f"{where}: {prefix}{key} is missing", "copy the bundle again")
            value = value[part]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            found = f"{value!r:.60}"
            raise InvalidFile(f"{where}: {prefix}{key} is {found}; {_NAMES[kinds[-1]]} was expected", "copy the bundle again")

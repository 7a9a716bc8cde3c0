"""The cache of engines, and the check whether an engine may be loaded. Python 3.6 syntax: this file is copied into bundles unchanged.

An engine is code, and bundles are untrusted, so engines are never loaded from a bundle: they are cached in a folder of the user. An
engine depends on the model, the build options, TensorRT, the GPU and the driver. The record ``model.int8.engine.json`` beside the
engine holds these. If any of them differs, the engine is built again, and the reason is printed.
"""

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Optional

from ..errors import DeviceError
from .build_options import parse_version, version_text
from .plan_header import HEADERS_SINCE, read_plan_version

if TYPE_CHECKING:
    from typing import Any, Dict, Tuple, Union

PLACE = "TLX_ENGINES"  # environment variable: the folder of engines
_FORMAT = 1
_CHUNK = 1 << 20  # bytes read at a time


class Key(NamedTuple):
    """The inputs of an engine build. Engines with equal keys are interchangeable."""

    model_sha256: str  # of the ONNX file
    options: "Dict[str, Any]"  # JSON data: the recipe and further build options
    tensorrt: str  # version, "10.3.0.30"; trtexec before 10.14 omits the last number
    gpu: str  # name, "Orin"
    compute_capability: str  # "8.7"
    driver: Optional[str]  # version of CUDA, or the board's L4T; None if unknown


def place(model_sha256: str, file: str) -> Path:
    """Path of this user's engine of a model: ``~/.cache/tlexport/engines/HASH/model.int8.engine``. The folder is created.

    ``$TLX_ENGINES`` selects another folder; otherwise ``$XDG_CACHE_HOME`` applies (XDG Base Directory Specification).

    Args:
        model_sha256: hash of the ONNX file; the folder is named after its first digits.
        file: file name of the model, "model.int8.onnx".

    Raises:
        DeviceError: the folder cannot be created, or others may write to it.
    """
    hint = "name a folder that only you can write to: {}=FOLDER".format(PLACE)
    given = os.environ.get(PLACE)
    cache = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = Path(given) if given else (Path(cache) if cache else Path.home() / ".cache") / "tlexport" / "engines"
    except (RuntimeError, KeyError):  # neither $HOME nor a password entry
        raise DeviceError("there is no folder for engines: this user has no home directory", hint) from None
    folder /= model_sha256[:32]
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        raise DeviceError("the folder for engines {} cannot be created: {}".format(folder, error.strerror or error), hint) from None
    if hasattr(os, "getuid") and (found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
        raise DeviceError("other users may write to the folder for engines {}; an engine is code".format(folder), hint)
    return folder / Path(file).with_suffix(".engine").name


def key_path(engine: "Union[str, Path]") -> Path:
    """Path of an engine's key: ``model.int8.engine.json`` beside ``model.int8.engine``."""
    path = Path(engine)
    return path.with_name(path.name + ".json")


def write_key(engine: "Union[str, Path]", key: Key) -> None:
    """Write the key of a new engine beside it, atomically.

    It contains the engine's hash, so that the record of an earlier engine does not match a newer one.

    Raises:
        OSError: the engine cannot be read, or the record cannot be written.
    """
    path = key_path(engine)
    beside = path.with_name(path.name + ".tmp")
    data = {"format": _FORMAT, "engine_sha256": _sha256(Path(engine)), **key._asdict()}
    with beside.open("w", encoding="utf-8") as file:
        json.dump(data, file, indent=1)
        file.write("\n")
    beside.replace(path)


def why_stale(engine: "Union[str, Path]", key: Key) -> str:
    """Reason why an engine may not be loaded; empty if it may.

    Args:
        engine: the file.
        key: the key of an engine built on this device now.

    Returns:
        A clause with all differences, such as ``"it was built for TensorRT 10.3.0.30, and this device has 10.7.0.23"``; ``""`` if
        there are none.
    """
    engine = Path(engine)
    if not engine.is_file():
        return "there is no engine yet"
    try:
        found = json.loads(key_path(engine).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "there is no record of what {} was built from".format(engine.name)
    except (OSError, ValueError, RecursionError) as error:
        return "the record of what {} was built from cannot be read: {}".format(engine.name, error)
    if not isinstance(found, dict) or found.get("format") != _FORMAT or set(found) != {"format", "engine_sha256"} | set(Key._fields):
        return "the record of what {} was built from is not as this program writes it".format(engine.name)
    differences = _differences(found, key)
    if differences:
        return "; ".join(differences)
    try:
        if _sha256(engine) != found["engine_sha256"]:
            return "{} is not the file that its record was written for".format(engine.name)
    except OSError as error:
        return "{} cannot be read: {}".format(engine.name, error.strerror or error)
    return _header_differs(engine, key)


def _differences(found: "Dict[str, Any]", key: Key) -> "list[str]":
    here = json.loads(json.dumps(key._asdict()))  # as JSON gives it back: a tuple becomes a list
    said = []
    if found["model_sha256"] != here["model_sha256"]:
        said.append("the model has changed since it was built")
    if found["options"] != here["options"]:
        said.append("it was built with other options ({})".format(_options_differ(found["options"], here["options"])))
    if not _same_version(found["tensorrt"], here["tensorrt"]):
        said.append("it was built for TensorRT {}, and this device has {}".format(found["tensorrt"], here["tensorrt"]))
    names = {"gpu": "the GPU {}", "compute_capability": "compute capability {}", "driver": "the driver {}"}
    for field, words in names.items():
        if found[field] != here[field]:
            was, now = (words.format("(unknown)" if value is None else value) for value in (found[field], here[field]))
            said.append("it was built with {}, and here is {}".format(was, now))
    return said


def _options_differ(was: object, now: object) -> str:
    if not isinstance(was, dict) or not isinstance(now, dict):
        return "{}, now {}".format(was, now)
    names = sorted(name for name in set(was) | set(now) if was.get(name) != now.get(name) or (name in was) != (name in now))
    return ", ".join("{} was {}, now {}".format(name, was.get(name, "not there"), now.get(name, "not there")) for name in names)


def _same_version(one: object, other: object) -> bool:
    """Whether two versions agree in their common numbers: trtexec may omit the fourth."""
    try:
        a, b = parse_version(str(one)), parse_version(str(other))
    except DeviceError:
        return one == other
    length = min(len(a), len(b))
    return length >= 3 and a[:length] == b[:length]


def _header_differs(engine: Path, key: Key) -> str:
    """Difference between the TensorRT version in the engine's header and this device's, if the header has one."""
    if _older(key.tensorrt, HEADERS_SINCE):
        return ""
    try:
        version = version_text(read_plan_version(engine))
    except DeviceError as error:
        return error.message
    if _same_version(version, key.tensorrt):
        return ""
    return "its own header names TensorRT {}, and this device has {}".format(version, key.tensorrt)


def _older(version: str, than: "Tuple[int, ...]") -> bool:
    try:
        return parse_version(version) < than
    except DeviceError:
        return False


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(_CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()

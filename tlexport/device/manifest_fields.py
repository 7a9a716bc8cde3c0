"""Check type and range of each value of ``manifest.json`` that the runner uses.

Python 3.6 syntax: this file is copied into bundles unchanged.

Unused keys are ignored, because newer bundles may contain more.
"""

import json
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import InvalidFile
from .regular_file import read_regular
from .runtimes.build_options import PRECISIONS

if TYPE_CHECKING:
    from typing import Any, Dict, Iterator, List, Tuple

FORMATS = (1, 2)  # their differences do not affect the runner
_LARGEST = 16 * 10**6  # bytes; the manifest of a thousand classes and three models has about 0.1 MB
_LARGEST_SIDE = 4096  # pixels, of the image contract
_LARGEST_NUMBER = 1 << 31  # of a shape, a workspace in MiB, an opset
_DEEPEST, _DIGITS = 64, 20  # levels of nesting; digits of a whole number
_AGAIN = "copy the bundle again"
_SHA256 = re.compile("[0-9a-f]{64}")

_TEXT, _NUMBER, _WHOLE, _LIST, _TABLE = (str,), (int, float), (int,), (list,), (dict,)
_KEYS = {  # key path -> expected type
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
_RECIPE_KEYS = {"input": _TEXT, "shape": _LIST, "workspace_mb": _WHOLE, "precision": _TEXT, "opset": _WHOLE}
_NAMES = {str: "text", int: "a whole number", float: "a number", list: "a list", dict: "a table", bool: "true or false"}


def read_manifest(path: Path) -> "Dict[str, Any]":
    """Read a manifest and check every value that the runner uses.

    Raises:
        InvalidFile: not a regular file, not JSON, of a newer format, or with a value that is missing or wrong; the message names it.
    """
    data = _read_json(path)
    number = data.get("format")
    if isinstance(number, bool) or number not in FORMATS:
        known = " and ".join(str(number) for number in FORMATS)
        raise InvalidFile(f"{path} is of format {number!r:.60}; this runner reads {known}", "use the run.py of that bundle itself")
    _check(data, _KEYS, path, "")
    if not data["models"]:
        raise InvalidFile(f"{path}: models is empty; one or more were expected", _AGAIN)
    for i, model in enumerate(data["models"]):
        _check(model, _MODEL_KEYS, path, f"models.{i}.")
        for end in ("inputs", "outputs"):
            tensors = model["artifact"][end]
            if len(tensors) != 1:
                raise InvalidFile(f"{path}: models.{i}.artifact.{end} holds {len(tensors)} tensors; 1 was expected", _AGAIN)
            _check(tensors[0], _TENSOR_KEYS, path, f"models.{i}.artifact.{end}.0.")
        if model.get("engine") is not None:
            _check(model["engine"], _RECIPE_KEYS, path, f"models.{i}.engine.")
    for key, value, good, expected in _values(data):
        if not good:
            raise InvalidFile(f"{path}: {key} is {value!r:.60}; {expected} expected", _AGAIN)
    return data


def is_inside(name: str) -> bool:
    """Whether a name is a plain relative path that stays in its folder."""
    odd = "\\" in name or ":" in name or name.startswith("/") or ".." in name.split("/")
    return bool(name) and not odd and posixpath.normpath(name) == name


def _values(data: "Dict[str, Any]") -> "Iterator[Tuple[str, Any, bool, str]]":
    """Checks after the types: key, value, whether it is valid, and the expectation."""
    classes, contract, files = data["classes"], data["preprocess"], data["files"]
    yield (
        "classes",
        classes,
        bool(classes) and _texts(classes) and len(set(classes)) == len(classes),
        "texts, at least one, none twice, were",
    )
    for name, digest in files.items():
        yield (
            f"files.{name:.60}",
            digest,
            isinstance(digest, str) and bool(_SHA256.fullmatch(digest)),
            "a SHA-256 of 64 hexadecimal digits was",
        )
    size, resize, background = contract["size"], contract["resize"], contract["background"]
    yield "preprocess.size", size, 1 <= size <= _LARGEST_SIDE, f"1 to {_LARGEST_SIDE} pixels were"
    yield "preprocess.resize", resize, size <= resize <= _LARGEST_SIDE, f"{size} (the size) to {_LARGEST_SIDE} pixels were"
    yield (
        "preprocess.interpolation",
        contract["interpolation"],
        contract["interpolation"] in ("bilinear", "bicubic"),
        "bilinear or bicubic was",
    )
    yield "preprocess.background", background, len(background) == 3 and _whole(background, 0, 255), "three whole numbers from 0 to 255 were"
    device = data["profile"].get("device")
    yield "profile.device", device, device is None or isinstance(device, str), "text was"
    yield from _golden(data["golden"], files)
    for i, model in enumerate(data["models"]):
        yield from _model(model, f"models.{i}.", data)
    precisions = [model["artifact"]["precision"] for model in data["models"]]
    yield "the models' precision", precisions, len(set(precisions)) == len(precisions), "each once was"
    chosen = sum(model["chosen"] for model in data["models"])
    yield "the number of models that are chosen", chosen, chosen == 1, "1 was"


def _golden(golden: "Dict[str, Any]", files: "Dict[str, Any]") -> "Iterator[Tuple[str, Any, bool, str]]":
    images, corners, resized = golden["images"], golden.get("decoded"), golden.get("resized")
    listed = "names in files were"
    yield "golden.images", images, bool(images) and _texts(images) and set(images) <= set(files), "at least one, " + listed
    yield "golden.inputs", golden["inputs"], golden["inputs"] in files, "a name in files was"
    yield (
        "golden.decoded",
        corners,
        corners is None or (isinstance(corners, list) and _texts(corners) and set(corners) <= set(files)),
        listed,
    )
    yield "golden.resized", resized, resized is None or (isinstance(resized, str) and resized in files), "a name in files was"


def _model(model: "Dict[str, Any]", prefix: str, data: "Dict[str, Any]") -> "Iterator[Tuple[str, Any, bool, str]]":
    artifact, files, size = model["artifact"], data["files"], data["preprocess"]["size"]
    [image], [answer] = artifact["inputs"], artifact["outputs"]
    at = prefix + "artifact."
    yield prefix + "file", model["file"], model["file"] in files, "a name in files was"
    yield prefix + "golden_outputs", model["golden_outputs"], model["golden_outputs"] in files, "a name in files was"
    yield prefix + "tolerance", model["tolerance"], model["tolerance"] >= 0, "no negative number was"
    # the folder of its engine is named by it
    yield at + "sha256", artifact["sha256"], artifact["sha256"] == files.get(model["file"]), f"the hash of {model['file']:.60} in files was"
    yield at + "size_bytes", artifact["size_bytes"], artifact["size_bytes"] >= 1, "1 or more was"
    yield at + "opset", artifact["opset"], 1 <= artifact["opset"] < _LARGEST_NUMBER, "1 or more was"
    yield at + "inputs.0.dtype", image["dtype"], image["dtype"] in ("uint8", "float32"), "uint8 or float32 was"
    yield at + "inputs.0.shape", image["shape"], _is_batch(image["shape"], [size, size, 3]), f"[batch, {size}, {size}, 3] was"
    yield at + "outputs.0.dtype", answer["dtype"], answer["dtype"] == "float32", "float32 was"
    count = len(data["classes"])
    yield at + "outputs.0.shape", answer["shape"], _is_batch(answer["shape"], [count]), f"[batch, {count}] was"
    recipe = model.get("engine")
    if recipe is not None:
        shape, at = recipe["shape"], prefix + "engine."
        yield at + "shape", shape, len(shape) == 4 and _whole(shape, 1, _LARGEST_NUMBER), "four whole numbers from 1 on were"
        yield at + "workspace_mb", recipe["workspace_mb"], 1 <= recipe["workspace_mb"] < _LARGEST_NUMBER, "1 or more was"
        yield at + "precision", recipe["precision"], recipe["precision"] in PRECISIONS, f"one of {', '.join(PRECISIONS)} was"
        yield at + "opset", recipe["opset"], 1 <= recipe["opset"] < _LARGEST_NUMBER, "1 or more was"


def _is_batch(shape: "List[Any]", rest: "List[int]") -> bool:
    """Whether a shape is ``rest`` with a leading fixed or free batch axis."""
    first = shape[:1]
    return shape[1:] == rest and _whole(shape[1:], 1, _LARGEST_NUMBER) and (_texts(first) or _whole(first, 1, _LARGEST_NUMBER))


def _texts(items: "List[Any]") -> bool:
    return all(isinstance(item, str) for item in items)


def _whole(items: "List[Any]", least: int, most: int) -> bool:
    return all(isinstance(item, int) and not isinstance(item, bool) and least <= item <= most for item in items)


def _check(data: "Any", keys: "Dict[str, Tuple[Any, ...]]", path: Path, prefix: str) -> None:
    for key, kinds in keys.items():
        value = data
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                raise InvalidFile(f"{path}: {prefix}{key} is missing", _AGAIN)
            value = value[part]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise InvalidFile(f"{path}: {prefix}{key} is {value!r:.60}; {_NAMES[kinds[-1]]} was expected", _AGAIN)


def _read_json(path: Path) -> "Dict[str, Any]":
    """Parse a JSON object with limits, without duplicate keys, huge numbers and NaN."""
    content = read_regular(path, _LARGEST)
    try:
        data = json.loads(
            content.decode("utf-8-sig"), object_pairs_hook=_object, parse_int=_integer, parse_float=_finite, parse_constant=_finite
        )
        _expect_shallow(data)
    except (ValueError, RecursionError) as error:  # ValueError: also of decoding
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise InvalidFile(f"{path} cannot be read as JSON: {reason}", _AGAIN) from None
    if not isinstance(data, dict):
        raise InvalidFile(f"{path} holds a JSON {type(data).__name__}; an object was expected", _AGAIN)
    return data


def _object(pairs: "List[Tuple[str, Any]]") -> "Dict[str, Any]":
    found = {}  # type: Dict[str, Any]
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:60]!r} occurs twice in one object")
        found[key] = value
    return found


def _integer(text: str) -> int:
    if len(text) > _DIGITS:  # int() of many digits takes long, or is refused
        raise ValueError(f"a whole number of {len(text)} digits, at most {_DIGITS} were expected")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if value - value != 0:  # NaN and infinities
        raise ValueError(f"{text:.20} is no finite number")
    return value


def _expect_shallow(value: "Any") -> None:
    level = [value]
    for _ in range(_DEEPEST):
        inside = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, (dict, list))]
        level = [item for items in inside for item in items]
        if not level:
            return
    raise ValueError(f"it is nested more than {_DEEPEST} levels deep")

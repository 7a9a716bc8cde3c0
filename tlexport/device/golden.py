"""Verify a bundle: first its hashes, then its golden vectors. The result names the faulty part.

The golden images are replayed in independent steps: compressed bytes to decoded pixels (the decoder), stored
decoded pixels to the square (the resize), bytes to the square (both), and stored squares to probabilities (each model).
"""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .errors import DeviceError, InvalidFile, MissingDependency
from .inputs.decoding import BadImage
from .inputs.image import decode, prepare, prepare_pixels
from .manifest import MANIFEST, SIGNATURE
from .regular_file import read_regular
from .terminal import printable

if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, List, Tuple

    import numpy.typing as npt

    from .manifest import Bundle

    Array = npt.NDArray[Any]
    Results = Tuple[List[str], Iterable[Array], Iterable[Array]]  # names, computed arrays and expected arrays, in the same order

LABELS = "labels.txt"
REGION = 256  # side, pixels, of the upper left part that a bundle stores of each decoded golden image, to stay small
DECODE, RESIZE, BOTH, OUTPUTS = "decode", "resize", "decode and resize", "golden"
OK = "ok"
NO_OTHER = "no other files"
# remedy for each verdict; several verdicts at once usually mean a different bundle
_REMEDIES = {
    "wrong file": "copy the bundle again",
    "wrong decoder": "install Pillow; a JPEG decoded by another library may differ by a few levels of 255",
    "wrong resize": "install another version of Pillow, or remove it: the runner then resizes with numpy",
    "wrong runtime": "update the runtime, or ask for another: --runtime, --device; then report it with the output of: python3 run.py info",
}
_STRAY = "stray file"  # a verdict
_FEW = 5  # stray files that a message names
_LARGEST_ARRAY = 2**28  # bytes of a .npy file; eight images of 1024 x 1024 pixels have 25 MB
# the header as numpy writes it (numpy.lib.format, versions 1.0 to 3.0), for arrays of numbers
_HEADER = re.compile(
    rb"\{'descr': '([<>|][ui][1248]|[<>]f[248])', 'fortran_order': (True|False), 'shape': \(((?:[0-9]{1,10}, ?)*[0-9]{0,10})\), *\}\s*"
)


class Check(NamedTuple):
    """Result of one check."""

    name: str
    ok: bool
    detail: str

    def to_json(self) -> "Dict[str, object]":
        """The check as in `tlx verify --json`."""
        return {"name": self.name, "ok": self.ok, "detail": self.detail}


def verdict(checks: "List[Check]") -> str:
    """Summary of the failed checks: "ok", "wrong file", "stray file", "wrong decoder", "wrong resize", "wrong runtime", or several."""
    failed = [check.name for check in checks if not check.ok]
    found = []
    if any(name.split()[0] not in (DECODE, RESIZE, OUTPUTS) and name != NO_OTHER for name in failed):
        found.append("wrong file")
    if NO_OTHER in failed:
        found.append(_STRAY)
    if DECODE in failed:
        found.append("wrong decoder")
    if RESIZE in failed:
        found.append("wrong resize")
    if BOTH in failed and not {DECODE, RESIZE} & set(failed):
        found.append("wrong decoder or resize")
    if any(name.startswith(OUTPUTS + " ") for name in failed):
        found.append("wrong runtime")
    return ", ".join(found) or OK


def remedy(checks: "List[Check]") -> str:
    """How to fix the failed checks."""
    if verdict(checks) == _STRAY:
        [names] = [check.detail for check in checks if check.name == NO_OTHER]
        return f"remove what is not part of the bundle: {names}"
    return _REMEDIES.get(verdict(checks), "copy or export the bundle again")


def verify(bundle: "Bundle", models: "List[Dict[str, Any]]", open_session: "Callable[[Dict[str, Any]], Any]") -> "List[Check]":
    """Run all checks. No model is loaded if a hash differs.

    Args:
        bundle: the bundle.
        models: records of the models to replay.
        open_session: opens the model of a record; see :func:`check_model`.
    """
    checks = check_files(bundle)
    if not all(check.ok for check in checks):
        return checks
    return [*checks, *check_images(bundle), *(check_model(bundle, model, open_session) for model in models)]


def region(pixels: "Any") -> "npt.NDArray[np.uint8]":
    """The part of a decoded image (Pillow image or array) that a bundle stores: the upper left corner, at most 256 pixels per side."""
    return np.ascontiguousarray(np.asarray(pixels)[:REGION, :REGION])


def check_files(bundle: "Bundle") -> "List[Check]":
    """Check that every file is regular with the hash in the manifest, no file is missing or extra, and the labels match the classes."""
    reasons = {name: bundle.why_not(name) for name in bundle.data["files"]}
    checks = [Check(f"hash {name}", not reason, reason) for name, reason in reasons.items()]
    stray = strays(bundle.folder, {*reasons, MANIFEST, SIGNATURE})
    more = f" and {len(stray) - _FEW} more" if len(stray) > _FEW else ""
    checks.append(Check(NO_OTHER, not stray, ", ".join(map(printable, stray[:_FEW])) + more))
    same = reasons.get(LABELS) == "" and _lines(bundle.folder / LABELS) == bundle.classes
    checks.append(Check("labels", same, "" if same else f"{LABELS} does not list the manifest's classes in order"))
    return checks


def strays(folder: Path, known: "Iterable[str]") -> "List[str]":
    """Unknown entries of a folder, sorted: files of any kind, links, and folders without known files.

    Args:
        folder: of a bundle.
        known: relative paths with slashes.
    """
    known = set(known)
    parents = {"/".join(name.split("/")[:depth]) for name in known for depth in range(1, name.count("/") + 1)}
    found = []
    for root, folders, files in os.walk(str(folder)):
        inside = os.path.relpath(root, str(folder)).replace(os.sep, "/")
        prefix = "" if inside == "." else inside + "/"
        for name in list(folders):
            if prefix + name not in parents or Path(root, name).is_symlink():
                folders.remove(name)
                found.append(prefix + name)
        found += [prefix + name for name in files if prefix + name not in known]
    return sorted(found)


def _lines(path: Path) -> "List[str]":
    return read_regular(path, _LARGEST_ARRAY).decode("utf-8", "replace").splitlines()


def check_images(bundle: "Bundle") -> "List[Check]":
    """Check that decoding and resizing the golden images gives bit-identical golden tensors."""
    golden, folder, contract = bundle.data["golden"], bundle.folder, bundle.preprocess
    names, corners = golden["images"], golden.get("decoded") or []  # older bundles have no corners

    def decoded() -> "Results":
        expected = [array(folder / name) for name in corners]
        return _same_length(names, corners), [region(decode(folder / name, tuple(contract["background"]))) for name in names], expected

    def resized() -> "Results":
        expected = array(folder / golden["resized"])
        return _same_length(corners, expected), [prepare_pixels(array(folder / name), contract) for name in corners], expected

    def both() -> "Results":
        expected = array(folder / golden["inputs"])
        return _same_length(names, expected), [prepare(folder / name, contract) for name in names], expected

    checks = [_compare(DECODE, decoded)] if corners else []
    checks += [_compare(RESIZE, resized)] if corners and golden.get("resized") else []
    return [*checks, _compare(BOTH, both)]


def _same_length(names: "List[str]", others: "Any") -> "List[str]":
    if len(names) != len(others):
        raise InvalidFile(f"{len(names)} images, but {len(others)} tensors")
    return names


def _compare(title: str, results: "Callable[[], Results]") -> Check:
    """Whether pixels are equal; ``results`` computes them."""
    try:
        names, found, expected = results()
    except (InvalidFile, BadImage) as error:
        return Check(title, False, str(error))
    except MissingDependency as error:  # a device without an image decoder
        return Check(title, True, f"not checked: {error.message}")
    worst, where = 0, ""
    for name, ours, theirs in zip(names, found, expected):
        if (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
            return Check(title, False, f"{name} became {ours.dtype} {ours.shape}, expected {theirs.dtype} {theirs.shape}")
        difference = int(np.abs(ours.astype(int) - theirs).max())
        if difference > worst:
            worst, where = difference, f" (in {name})"
    return Check(title, worst == 0, f"{len(names)} images, largest difference {worst} of 255{where}")


def check_model(bundle: "Bundle", model: "Dict[str, Any]", open_session: "Callable[[Dict[str, Any]], Any]") -> Check:
    """Check that a model computes the golden outputs from the golden inputs, within its tolerance.

    Args:
        bundle: the bundle.
        model: the model's record in the manifest.
        open_session: opens the model of a record. InvalidFile means a faulty file, for example tensors that differ from the manifest;
            other errors are passed on.
    """
    title, artifact = f"{OUTPUTS} {model['artifact']['precision']}", model["artifact"]
    try:
        inputs, expected = array(bundle.folder / bundle.data["golden"]["inputs"]), array(bundle.folder / model["golden_outputs"])
        with open_session(model) as session:
            dtype = np.dtype(artifact["inputs"][0]["dtype"])
            found = np.concatenate([session.run(image[None].astype(dtype)) for image in inputs])
            provider = session.provider
    except InvalidFile as error:
        return Check(title, False, error.message)
    except DeviceError as error:
        if error.exit_code != DeviceError.exit_code:  # not for a missing device or library
            raise
        return Check(title, False, error.message)
    if (found.shape, found.dtype) != (expected.shape, expected.dtype):
        return Check(title, False, f"outputs are {found.dtype} {found.shape}, expected {expected.dtype} {expected.shape}")
    worst = float(np.abs(found - expected).max())
    other = int((found.argmax(1) != expected.argmax(1)).sum())
    detail = f"{len(inputs)} images on {provider}, largest difference in probability {worst:.2g} (allowed {model['tolerance']:g})"
    return Check(title, worst <= model["tolerance"], detail + (f"; {other} of another class" if other else ""))


def array(path: Path) -> "Array":
    """Read a numeric array from a .npy file.

    The header is matched with a regular expression and compared with the file size before allocation. ``numpy.load`` would raise
    arbitrary parser errors and allocate the size in the header.

    Raises:
        InvalidFile: not such a file, or an empty array.
    """
    content = read_regular(path, _LARGEST_ARRAY)
    wide = 2 if content[6:7] == b"\x01" else 4  # bytes of the header's length
    start = 8 + wide
    end = start + int.from_bytes(content[8:start], "little")
    header = _HEADER.match(content[start:end]) if content[:6] == b"\x93NUMPY" and end - start <= 10000 else None
    if header is None or header.end() != end - start:
        raise InvalidFile(f"{path} is not a .npy array of numbers")
    dtype, shape = np.dtype(header.group(1).decode()), tuple(int(axis) for axis in header.group(3).split(b",") if axis.strip())
    size = dtype.itemsize
    for axis in shape:
        size *= axis
    if not shape or size == 0 or size != len(content) - end:
        raise InvalidFile(f"{path} holds {len(content) - end} bytes of {dtype} {shape}; {size} were expected, and more than none")
    found: Array = np.frombuffer(content, dtype, offset=end)
    return found.reshape(shape[::-1]).T if header.group(2) == b"True" else found.reshape(shape)

"""Verification of a bundle: its hashes, then its golden vectors, so that what differs is told by name.

The golden images are replayed in pieces that do not depend on each other: compressed bytes to decoded pixels (the decoder), stored
decoded pixels to the square (the resize), bytes to the square (both), and stored squares to probabilities (each model).
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .errors import DeviceError, InvalidFile, MissingDependency
from .image import BadImage, decode, prepare, prepare_pixels
from .manifest import MANIFEST, SIGNATURE

if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, List, Tuple

    import numpy.typing as npt

    from .manifest import Bundle

    Array = npt.NDArray[Any]
    Results = Tuple[List[str], Iterable[Array], Iterable[Array]]  # names, what was found, what was expected, in one order

LABELS = "labels.txt"
REGION = 256  # side, pixels, of the upper left part of each decoded golden image that a bundle holds: it stays small
DECODE, RESIZE, BOTH, OUTPUTS = "decode", "resize", "decode and resize", "golden"
OK = "ok"
# what to do about one verdict; several at once mostly mean another bundle
_REMEDIES = {
    "wrong file": "copy the bundle again",
    "wrong decoder": "install Pillow; a JPEG decoded by another library may differ by a few levels of 255",
    "wrong resize": "install another version of Pillow, or none: the runner then resizes by itself",
    "wrong runtime": "update the runtime, or ask for another: --runtime, --device; then report it with the output of: python3 run.py info",
}
# built or kept on the device, so they are no sign of tampering
_GROWN = (".engine", ".engine.json", ".timing.cache")


class Check(NamedTuple):
    """One thing that was verified."""

    name: str
    ok: bool
    detail: str

    def to_json(self) -> "Dict[str, object]":
        """As `tlx verify --json` has it."""
        return {"name": self.name, "ok": self.ok, "detail": self.detail}


def verdict(checks: "List[Check]") -> str:
    """What is wrong, in two or three words: "ok", or "wrong file", "wrong decoder", "wrong resize", "wrong runtime", or several."""
    failed = [check.name for check in checks if not check.ok]
    found = []
    if any(name.split()[0] not in (DECODE, RESIZE, OUTPUTS) for name in failed):
        found.append("wrong file")
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
    """What to do about it."""
    return _REMEDIES.get(verdict(checks), "copy or export the bundle again")


def verify(bundle: "Bundle", models: "List[Dict[str, Any]]", open_session: "Callable[[Dict[str, Any]], Any]") -> "List[Check]":
    """All checks; nothing is loaded as long as a file is not as it was exported.

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
    """The part of a decoded image (Pillow's, or an array) that a bundle holds: its upper left corner, at most 256 pixels a side."""
    return np.ascontiguousarray(np.asarray(pixels)[:REGION, :REGION])


def check_files(bundle: "Bundle") -> "List[Check]":
    """Every file has the hash of the manifest, none is missing, none is extra, and the labels are the classes."""
    present = {path.relative_to(bundle.folder).as_posix() for path in bundle.folder.rglob("*") if path.is_file() or path.is_symlink()}
    checks = []
    for name in bundle.data["files"]:
        reason = bundle.why_not(name)
        checks.append(Check(f"hash {name}", not reason, reason))
    extra = sorted(name for name in present - set(bundle.data["files"]) - {MANIFEST, SIGNATURE} if not _grown(name))
    checks.append(Check("no other files", not extra, ", ".join(extra[:5])))
    labels = bundle.folder / LABELS
    same = LABELS in present and _lines(labels) == bundle.classes
    checks.append(Check("labels", same, "" if same else f"{LABELS} does not list the manifest's classes in order"))
    return checks


def _grown(name: str) -> bool:
    return name.endswith(_GROWN) or (name.startswith("tlx/") and name.endswith(".pyc"))


def _lines(path: Path) -> "List[str]":
    try:
        return path.read_bytes().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return []


def check_images(bundle: "Bundle") -> "List[Check]":
    """The golden images, decoded and resized here, give the golden tensors to the last bit."""
    golden, folder, contract = bundle.data["golden"], bundle.folder, bundle.preprocess
    names, corners = golden["images"], golden.get("decoded") or []  # bundles of before have no corners

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
    except MissingDependency as error:  # a device that is given raw pixels
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
    """A model has the declared tensors, and answers the golden inputs with the golden outputs, within its tolerance.

    Args:
        bundle: the bundle.
        model: the model's record in the manifest.
        open_session: opens the model of a record; what it raises as InvalidFile is the file's fault, anything else is passed on.
    """
    title, artifact = f"{OUTPUTS} {model['artifact']['precision']}", model["artifact"]
    try:
        inputs, expected = array(bundle.folder / bundle.data["golden"]["inputs"]), array(bundle.folder / model["golden_outputs"])
        with open_session(model) as session:
            declared = [{key: tensor[key] for key in ("name", "dtype", "shape")} for tensor in artifact["inputs"] + artifact["outputs"]]
            tensors = getattr(session, "tensors", declared)  # an engine's are fixed by its recipe
            if tensors != declared:
                return Check(title, False, f"its tensors are {_text(tensors)}, not those of the manifest, {_text(declared)}")
            dtype = np.dtype(artifact["inputs"][0]["dtype"])
            found = np.concatenate([session.run(image[None].astype(dtype)) for image in inputs])
            provider = session.provider
    except InvalidFile as error:
        return Check(title, False, error.message)
    except DeviceError as error:
        if error.exit_code != DeviceError.exit_code:  # a device or library that is not here is another matter
            raise
        return Check(title, False, error.message)
    if (found.shape, found.dtype) != (expected.shape, expected.dtype):
        return Check(title, False, f"outputs are {found.dtype} {found.shape}, expected {expected.dtype} {expected.shape}")
    worst = float(np.abs(found - expected).max())
    other = int((found.argmax(1) != expected.argmax(1)).sum())
    detail = f"{len(inputs)} images on {provider}, largest difference in probability {worst:.2g} (allowed {model['tolerance']:g})"
    return Check(title, worst <= model["tolerance"], detail + (f"; {other} of another class" if other else ""))


def _text(tensors: "List[Dict[str, Any]]") -> str:
    return ", ".join(f"{tensor['name']} {tensor['dtype']} {tuple(tensor['shape'])}" for tensor in tensors)


def array(path: Path) -> "Array":
    """A .npy array of numbers. Raises InvalidFile when it is none, or empty."""
    try:
        found: Array = np.load(str(path), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InvalidFile(f"{path} cannot be read as a .npy array: {error}") from None
    if found.size == 0 or found.ndim == 0 or found.dtype.kind not in "uif":
        raise InvalidFile(f"{path} holds {found.dtype} {found.shape}; numbers were expected")
    return found

"""Decodes every image once, into one array at the size of the image contract."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import PIL
from PIL import Image

from tlexport.contract import Preprocess
from tlexport.data.pixel_budget import PixelBudget
from tlexport.data.source import Listing
from tlexport.data.table import few
from tlexport.dataset import Sample
from tlexport.device.inputs.decode_pillow import decoded_pixels
from tlexport.device.inputs.decoding import BadImage
from tlexport.device.inputs.image import prepare, read_file
from tlexport.errors import InvalidFile, StepFailed
from tlexport.storage.cache import ArrayCache, Draft, release
from tlexport.storage.files import sha256_of
from tlexport.units import format_bytes

if TYPE_CHECKING:
    import numpy.typing as npt

    from tlexport.ports import Pixels

RELEASE_EVERY = 64  # images after which the memory of finished ones is released
REDUCED = 2  # a training JPEG is decoded at no less than this multiple of its final size
IN_FLIGHT = 10**8  # decoded pixels of all threads, at 4 bytes each, or 8 while a transparent image is composited
TOLERATED = 0.05  # largest share of bad files that are skipped by default


@dataclass(frozen=True)
class Decoded:
    """The images of a listing, in its order."""

    listing: Listing  # without the bad files
    pixels: Pixels  # uint8 (image, height, width, channel), RGB 0..255
    sha256: tuple[str, ...]  # of each file's bytes
    bad: tuple[tuple[str, str], ...]  # path and reason of each skipped file

    def rows(self, samples: Sequence[Sample]) -> npt.NDArray[np.intp]:
        """The row of each sample in ``pixels``, in the order of the samples."""
        row = {entry.path: index for index, entry in enumerate(self.listing.entries)}
        return np.array([row[sample.path] for sample in samples], dtype=np.intp)

    def notes(self) -> list[str]:
        """Notes on skipped files."""
        if not self.bad:
            return []
        shown = "; ".join(f"{path}: {reason}" for path, reason in self.bad[:5])
        more = f" and {len(self.bad) - 5} more" if len(self.bad) > 5 else ""
        return [f"{len(self.bad)} images cannot be read and were left out: {shown}{more}"]


def decode_all(
    listing: Listing,
    preprocess: Preprocess,
    on_error: Literal["skip", "fail"] | None,
    threads: int,
    advance: Callable[[int], None],
    cache: ArrayCache | None = None,
    reduced: bool = False,
) -> Decoded:
    """Decode every image of a listing; each file is read once.

    Args:
        listing: the images.
        preprocess: the image contract.
        on_error: skip bad files ("skip") or raise an error ("fail"). None: skip up to 5 % of the files, otherwise raise.
        threads: number of decoding threads, at least 1.
        advance: called in this thread with 1 for each finished file.
        cache: keeps pixels between runs, by the content of the files; None: no cache.
        reduced: JPEGs that are much larger than needed are decoded at a reduced scale, save those whose part is not to be
            trained on; what validates is then to be had from :func:`exact_pixels`.

    Raises:
        InvalidFile: bad files, or a class of which no training image is left; each file is named with the reason.
        StepFailed: the pixels do not fit into memory.
    """
    files = [listing.file(entry) for entry in listing.entries]
    kept_in = ArrayCache(None) if cache is None else cache
    least = [REDUCED * preprocess.resize if reduced and entry.part in (None, "train") else 0 for entry in listing.entries]
    key = _key(files, preprocess, threads, least) if kept_in.folder is not None else None
    known = None if key is None else kept_in.get(key)
    if known is not None and key is not None:
        advance(len(files))
        return Decoded(listing, known, tuple(key["files"]), ())
    with _room(kept_in, key, len(files), preprocess) as draft:
        pixels = draft.array
        hashes, reasons = _decode(files, preprocess, threads, pixels, advance, least)
        if not any(reasons):
            if key is not None and hashes == key["files"]:
                draft.keep()
            return Decoded(listing, pixels, tuple(hashes), ())
    bad = tuple((entry.path, reason) for entry, reason in zip(listing.entries, reasons, strict=True) if reason)
    if on_error == "fail" or (on_error is None and len(bad) > TOLERATED * len(reasons)):
        share = "" if on_error else f" (more than {TOLERATED:.0%})"
        message = f"{len(bad)} of {len(reasons)} images cannot be used{share}:{_listed(bad)}"
        raise InvalidFile(message, "repair or remove them, or leave them out with --on-error skip")
    kept = [index for index, reason in enumerate(reasons) if not reason]
    left = replace(listing, entries=tuple(listing.entries[index] for index in kept))
    if listing.to_train:
        _check_classes(left, bad)
    elif not kept:
        raise InvalidFile(f"none of the {len(reasons)} images can be read:{_listed(bad)}", "repair or replace them")
    return Decoded(left, _compact(pixels, kept), tuple(hashes[index] for index in kept), bad)


def exact_pixels(files: Sequence[Path], preprocess: Preprocess, threads: int, cache: ArrayCache) -> Pixels | None:
    """The exact pixels of the contract for images that :func:`decode_all` may have reduced; None if it reduced none.

    Returns:
        uint8 (image, height, width, channel), or None.

    Raises:
        InvalidFile: a file that was good a moment ago.
        StepFailed: the pixels do not fit into memory.
    """
    if not any(_was_reduced(file, preprocess) for file in files):
        return None
    least = [0] * len(files)
    key = _key(files, preprocess, threads, least) if cache.folder is not None else None
    known = None if key is None else cache.get(key)
    if known is not None:
        return known
    with _room(cache, key, len(files), preprocess) as draft:
        hashes, reasons = _decode(files, preprocess, threads, draft.array, lambda amount: None, least)
        bad = [(str(file), reason) for file, reason in zip(files, reasons, strict=True) if reason]
        if bad:
            raise InvalidFile(f"images changed while they were being read:{_listed(tuple(bad))}", "run it again")
        if key is not None and hashes == key["files"]:
            draft.keep()
        return draft.array


def _was_reduced(file: Path, preprocess: Preprocess) -> bool:
    with file.open("rb") as stream:
        if stream.read(3) != b"\xff\xd8\xff":  # a JPEG's start, ITU-T T.81 B.1.1.3
            return False
    with Image.open(file, formats=("JPEG",)) as image:
        return min(image.size) >= 2 * REDUCED * preprocess.resize


def _key(files: Sequence[Path], preprocess: Preprocess, threads: int, least: Sequence[int]) -> dict[str, Any] | None:
    """The cache key of decoded pixels: content and order of the files, contract, decoder. None if a file cannot be read."""
    try:
        with ThreadPoolExecutor(threads, thread_name_prefix="hash") as pool:
            hashes = list(pool.map(sha256_of, files))
    except OSError:
        return None  # decoding reports the file and the reason
    reduced = [index for index, pixels in enumerate(least) if pixels]
    contract = preprocess.model_dump()
    return {"kind": "pixels", "files": hashes, "preprocess": contract, "pillow": PIL.__version__, "reduced": reduced}


def decode_files(paths: Sequence[Path], preprocess: Preprocess, threads: int = 1) -> tuple[Pixels, tuple[tuple[str, str], ...]]:
    """Decode a few files in order.

    Returns:
        The pixels, uint8 (image, height, width, channel), of those that are good, in the order of ``paths``; and path and
        reason of those that are not.

    Raises:
        StepFailed: the pixels do not fit into memory.
    """
    with _room(ArrayCache(None), None, len(paths), preprocess) as draft:
        pixels = draft.array
    _, reasons = _decode(paths, preprocess, threads, pixels, lambda amount: None, [0] * len(paths))
    bad = tuple((str(path), reason) for path, reason in zip(paths, reasons, strict=True) if reason)
    return _compact(pixels, [index for index, reason in enumerate(reasons) if not reason]), bad


@contextmanager
def _room(cache: ArrayCache, key: dict[str, Any] | None, count: int, preprocess: Preprocess) -> Iterator[Draft]:
    """An array for the pixels of ``count`` images."""
    shape = (count, preprocess.size, preprocess.size, 3)
    with ExitStack() as stack:
        try:
            draft = stack.enter_context(cache.draft(key, shape))
        except MemoryError:
            need = format_bytes(float(np.prod(shape, dtype=np.float64)))
            what = f"{count} images of {preprocess.size} x {preprocess.size} pixels"
            raise StepFailed(f"{what} need {need} of memory", "use a smaller --image-size") from None
        yield draft


def _decode(
    paths: Sequence[Path],
    preprocess: Preprocess,
    threads: int,
    pixels: Pixels,
    advance: Callable[[int], None],
    least: Sequence[int],
) -> tuple[list[str], list[str]]:
    """Fill in the pixels; sha256 and reason (empty for a good file; else its row holds no image) of each file."""
    contract = preprocess.model_dump()
    hashes, reasons = [""] * len(paths), [""] * len(paths)
    budget = PixelBudget(IN_FLIGHT)

    def work(index: int) -> None:
        hashes[index], reasons[index] = _decode_one(paths[index], contract, pixels[index], least[index], budget)

    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    try:
        for done, future in enumerate(as_completed([pool.submit(work, index) for index in range(len(paths))]), start=1):
            future.result()
            advance(1)
            if done % RELEASE_EVERY == 0:
                release(pixels)
    finally:
        pool.shutdown(cancel_futures=True)  # on Ctrl-C, drop the files that were not started
    release(pixels)
    return hashes, reasons


def _decode_one(path: Path, contract: dict[str, Any], out: Pixels, least: int, budget: PixelBudget) -> tuple[str, str]:
    """Write one image into ``out`` (height, width, channel); its file's sha256, and why it is bad, or ""."""
    try:
        data = read_file(path)
    except (OSError, ValueError) as error:
        return "", f"cannot be read: {getattr(error, 'strerror', None) or error}"
    try:
        with budget.hold(decoded_pixels(data, least)):
            out[:] = prepare(io.BytesIO(data), contract, least)
    except BadImage as error:
        return "", str(error)
    return hashlib.sha256(data).hexdigest(), ""


def _compact(pixels: Pixels, kept: list[int]) -> Pixels:
    """Move the good rows to the front, without a second array."""
    for new, old in enumerate(kept):
        if new != old:
            pixels[new] = pixels[old]
    return pixels[: len(kept)]


def _check_classes(left: Listing, bad: tuple[tuple[str, str], ...]) -> None:
    trained = {entry.label for entry in left.entries if entry.part in (None, "train")}
    lost = [name for label, name in enumerate(left.classes) if label not in trained]
    if lost:
        raise InvalidFile(f"no training image is left of {few(lost)}; bad files:{_listed(bad)}", "repair the files, or remove the class")


def _listed(bad: tuple[tuple[str, str], ...]) -> str:
    indent = "\n  "
    return indent + few((f"{path}: {reason}" for path, reason in bad), indent)

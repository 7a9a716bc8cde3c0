"""Decode with Pillow: the reference for sections 1 to 3 of the image contract.

This file is copied into bundles unchanged: Python 3.6 syntax, Pillow 5.1 (Ubuntu 18.04 and JetPack 4) or newer.
"""

import contextlib
import functools
import io
import struct
import threading
import warnings
import zlib
from typing import TYPE_CHECKING

import numpy as np
import PIL
from PIL import Image

from .decoding import MAX_PIXELS, UNKNOWN, BadImage, cannot_read, special_format

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Dict, Tuple

# Only these: some of Pillow's formats start other programs (EPS runs Ghostscript). An MPO is a JPEG followed by more pictures.
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "DIB", "PPM", "WEBP", "TIFF")
# from Pillow 8 on, formats can be restricted before reading; earlier versions report the format after reading the header
_CHOOSES = int(PIL.__version__.split(".")[0]) >= 8

_TRANSPOSE = getattr(Image, "Transpose", Image)  # Pillow before 9.1 has these names on the module itself

_BAND = 2**20  # pixels composited onto the background at a time
_ORIENTATION = 0x0112  # EXIF tag; its values 2..8 define how to rotate and mirror the stored rows and columns
_UPRIGHT = {
    2: _TRANSPOSE.FLIP_LEFT_RIGHT,
    3: _TRANSPOSE.ROTATE_180,
    4: _TRANSPOSE.FLIP_TOP_BOTTOM,
    5: _TRANSPOSE.TRANSPOSE,
    6: _TRANSPOSE.ROTATE_270,  # Pillow turns counterclockwise
    7: _TRANSPOSE.TRANSVERSE,
    8: _TRANSPOSE.ROTATE_90,
}
# Errors of Pillow's readers on damaged files, besides the documented OSError.
_DAMAGED = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    struct.error,
    zlib.error,
)


# Pillow takes memory in blocks of 16 MB, which the C library keeps for each thread after an image is done. Those above 32 MB it
# returns to the system at once.
_core = vars(Image).get("core")  # not among the names that Pillow declares
if _core is not None and hasattr(_core, "set_block_size"):
    _core.set_block_size(2**26)


class _Quiet:
    """Hide Pillow's warnings (invalid metadata, large images) while at least one thread decodes.

    ``warnings.catch_warnings`` must not overlap between threads: it changes the process's global list of filters, and the last
    thread to leave would restore another thread's filters. Therefore the first thread saves the list, and the last restores it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = 0
        self._filters = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._threads == 0:
                self._filters.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._threads += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._threads -= 1
            if self._threads == 0:
                self._filters.close()


_quiet = _Quiet()


@contextlib.contextmanager
def _damage_reported() -> "Iterator[None]":
    """Convert Pillow's errors to BadImage."""
    try:
        yield
    except BadImage:
        raise
    except (Image.DecompressionBombError, MemoryError) as error:
        raise BadImage(f"too large: {error or 'out of memory'}") from None
    except _DAMAGED as error:
        raise BadImage(f"damaged: {str(error) or type(error).__name__}") from None


@functools.lru_cache(maxsize=None)
def _reads(name: str) -> bool:
    """Whether this Pillow reads AVIF (built in from 11.3) or HEIC (with the package pillow-heif)."""
    try:
        if name == "HEIC":
            import pillow_heif

            pillow_heif.register_heif_opener()
        else:
            from PIL import AvifImagePlugin

            return bool(AvifImagePlugin.SUPPORTED)
    except (ImportError, OSError, AttributeError):
        return False
    return True


def _formats(data: bytes) -> "Tuple[str, ...]":
    name = special_format(data)
    if not name:
        return FORMATS
    if name not in ("AVIF", "HEIC"):
        raise cannot_read(name)
    if not _reads(name):
        raise cannot_read(name, "pip install pillow-heif, or " if name == "HEIC" else "pip install 'Pillow>=11.3', or ")
    return ("HEIF",) if name == "HEIC" else ("AVIF",)


def _header(data: bytes, at_least: int) -> "Image.Image":
    """The image before its pixels are decoded."""
    formats = _formats(data)
    options = {"formats": [name for name in formats if name != "MPO"]} if _CHOOSES else {}  # type: Dict[str, Any]
    try:
        image = Image.open(io.BytesIO(data), **options)
    except OSError as error:
        if "cannot identify" not in str(error):  # its specific error class is newer than Pillow 5
            raise
        raise BadImage(UNKNOWN if formats == FORMATS else f"damaged: its {formats[0]} structure cannot be read") from None
    if image.format not in formats:
        raise BadImage(UNKNOWN)
    if image.width * image.height > MAX_PIXELS:
        raise BadImage(f"too large: {image.width} x {image.height} pixels, at most {MAX_PIXELS} are read")
    if at_least and image.format in ("JPEG", "MPO"):
        image.draft(None, (at_least, at_least))
    return image


def _open(data: bytes, at_least: int) -> "Image.Image":
    image = _header(data, at_least)
    image.load()  # an animation's first frame, a multi-page file's first page
    if 0 in image.size:
        raise BadImage("the image has no pixels")
    return image


def _orientation(image: "Image.Image") -> int:
    """EXIF orientation of the loaded pixels, 1..8; 1 if the EXIF block is damaged."""
    if image.format in ("TIFF", "HEIF"):
        return 1  # already rotated while loading; some versions of Pillow keep the tag, and HEIC's own properties replace it
    try:
        value = (image.getexif() if hasattr(image, "getexif") else _old_exif(image)).get(_ORIENTATION)
    except _DAMAGED:
        return 1
    return value if value in _UPRIGHT else 1


def _old_exif(image: "Any") -> "Dict[int, Any]":
    """The EXIF tags in Pillow before 6, which reads them only from JPEG files."""
    return (image._getexif() if hasattr(image, "_getexif") else None) or {}


def _from_16_bit(image: "Image.Image") -> "Image.Image":
    """16-bit grey to L, or to LA if one grey value is declared transparent."""
    values = np.asarray(image).astype(np.int32)
    if values.min() < 0 or values.max() > 65535:
        raise BadImage(f"grey values from {values.min()} to {values.max()}: only 0 to 65535 are valid")
    grey = Image.fromarray(((values + 128) // 257).astype(np.uint8))  # round(value * 255 / 65535)
    if "transparency" in image.info:
        alpha = np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)
        grey.putalpha(Image.fromarray(alpha))
    return grey


def _laid_over(image: "Image.Image", background: "tuple[int, int, int]") -> "Image.Image":
    """Composite a transparent image onto its background in bands, which saves five times the memory of its pixels."""
    whole = Image.new("RGB", image.size)
    rows = max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height))).convert("RGBA")
        # rounds (colour * alpha + background * (255 - alpha)) / 255 to the nearest integer
        flat = Image.composite(band.convert("RGB"), Image.new("RGB", band.size, tuple(background)), band.getchannel("A"))
        whole.paste(flat, (0, top))
    return whole


def _to_rgb(image: "Image.Image", background: "tuple[int, int, int]") -> "Image.Image":
    if image.mode == "F":
        raise BadImage("floating-point pixels: their range is not known")
    if image.mode.startswith("I"):
        image = _from_16_bit(image)
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        return _laid_over(image, background)
    return image if image.mode == "RGB" else image.convert("RGB")


def decode(data: bytes, background: "tuple[int, int, int]", at_least: int) -> "Image.Image":
    """Decode the bytes of a file to RGB, upright; see :func:`tlexport.device.inputs.image.decode`."""
    with _quiet, _damage_reported():
        image = _open(data, at_least)
        orientation = _orientation(image)
        image = _to_rgb(image, background)
        return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def decoded_pixels(data: bytes, at_least: int) -> int:
    """Number of pixels that :func:`decode` will allocate, read from the header; 0 for a file that it refuses."""
    try:
        with _quiet, _damage_reported():
            image = _header(data, at_least)
            return image.width * image.height
    except BadImage:
        return 0

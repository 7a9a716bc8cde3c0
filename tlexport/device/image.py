"""The reference implementation of the image contract: from a file to the pixels that enter the graph.

Training, evaluation, export and the device all call this file, so they agree to the pixel; the contract in words, with the
formulas, is docs/image-contract.md. It is copied into bundles as it is: Python 3.6 syntax, numpy and Pillow 8.0 or newer.
"""

import contextlib
import io
import struct
import threading
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any, BinaryIO

    import numpy.typing as npt

# Only these: Pillow also knows formats that start other programs (EPS runs Ghostscript).
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "PPM", "WEBP", "TIFF")
MAX_PIXELS = 178956970  # of a file: Pillow's own limit against decompression bombs, 2 * (2^30 / 4 / 3)
MAX_RESIZED_PIXELS = 2**26  # after resizing, before cropping: bounds the memory; a strip of 1024 : 1 at 256 pixels

# Pillow before 9.1 has these names on the module itself
_RESAMPLING = getattr(Image, "Resampling", Image)
_TRANSPOSE = getattr(Image, "Transpose", Image)

FILTERS = {"bilinear": _RESAMPLING.BILINEAR, "bicubic": _RESAMPLING.BICUBIC}  # both are antialiased when they shrink

_ORIENTATION = 0x0112  # EXIF tag; its values 2..8 say how to turn the stored rows and columns to the scene's
_UPRIGHT = {
    2: _TRANSPOSE.FLIP_LEFT_RIGHT,
    3: _TRANSPOSE.ROTATE_180,
    4: _TRANSPOSE.FLIP_TOP_BOTTOM,
    5: _TRANSPOSE.TRANSPOSE,
    6: _TRANSPOSE.ROTATE_270,  # Pillow turns counterclockwise
    7: _TRANSPOSE.TRANSVERSE,
    8: _TRANSPOSE.ROTATE_90,
}
# What Pillow's readers raise on damaged files, beyond the OSError that it documents: they parse as they go.
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


class BadImage(ValueError):
    """A file that is not an image, or not one that can be used. The text is the reason, without the file's name."""


class _Quiet:
    """Hides Pillow's warnings (odd metadata, big images) while at least one thread is decoding.

    ``warnings.catch_warnings`` alone must not overlap between threads: it changes the process's one list of filters, and
    the last to leave would put back what another had put in. Hence the count: the first thread in saves, the last restores.
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
    """Turn what Pillow raises into BadImage."""
    try:
        yield
    except BadImage:
        raise
    except (Image.DecompressionBombError, MemoryError) as error:
        raise BadImage(f"too large: {error or 'out of memory'}") from None
    except _DAMAGED as error:
        raise BadImage(f"damaged: {str(error) or type(error).__name__}") from None


def _read(source: "str | Path | BinaryIO") -> bytes:
    try:
        data = source.read() if hasattr(source, "read") else Path(source).read_bytes()
    except OSError as error:
        raise BadImage(f"cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # a path with a null byte
        raise BadImage(f"cannot be read: {error}") from None
    if not data:
        raise BadImage("the file is empty")
    return data


def _open(data: bytes, at_least: int) -> "Image.Image":
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise BadImage("not recognised as an image: JPEG, PNG, GIF, BMP, PPM, WebP and TIFF are") from None
    if image.width * image.height > MAX_PIXELS:
        raise BadImage(f"too large: {image.width} x {image.height} pixels, at most {MAX_PIXELS} are read")
    if at_least and image.format == "JPEG":
        image.draft(None, (at_least, at_least))
    image.load()  # an animation's first frame, a multi-page file's first page
    if 0 in image.size:
        raise BadImage("the image has no pixels")
    return image


def _orientation(image: "Image.Image") -> int:
    """How the loaded pixels lie, 1..8. A damaged EXIF block says nothing, and the image is taken as it is stored."""
    if image.format == "TIFF":
        return 1  # Pillow has turned it while loading; some versions leave the tag behind
    try:
        value = image.getexif().get(_ORIENTATION)
    except _DAMAGED:
        return 1
    return value if value in _UPRIGHT else 1


def _from_16_bit(image: "Image.Image") -> "Image.Image":
    """16-bit grey to L, or to LA where one grey value is declared transparent."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise BadImage(f"grey values from {values.min()} to {values.max()}: only 0 to 65535 have a meaning here")
    grey = Image.fromarray(((values + 128) // 257).astype(np.uint8))  # round(value * 255 / 65535)
    if "transparency" in image.info:
        alpha = np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)
        grey.putalpha(Image.fromarray(alpha))
    return grey


def _to_rgb(image: "Image.Image", background: "tuple[int, int, int]") -> "Image.Image":
    if image.mode == "F":
        raise BadImage("floating-point pixels: their range is not known")
    if image.mode.startswith("I"):
        image = _from_16_bit(image)
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        # rounds (colour * alpha + background * (255 - alpha)) / 255 to the nearest integer
        return Image.composite(image.convert("RGB"), Image.new("RGB", image.size, tuple(background)), image.getchannel("A"))
    return image if image.mode == "RGB" else image.convert("RGB")


def decode(source: "str | Path | BinaryIO", background: "tuple[int, int, int]", at_least: int = 0) -> "Image.Image":
    """Decode one image file to RGB, upright.

    Args:
        source: a path, or a binary file object (read to its end).
        background: RGB 0..255 that shows through transparent pixels.
        at_least: 0, or for training images alone: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as long as both sides keep
            so many pixels. Much faster; the pixels are no longer exactly the contract's.

    Returns:
        A Pillow image of mode RGB: the first frame, EXIF orientation applied.

    Raises:
        BadImage: the file cannot be read, is empty, not an image, damaged, truncated, or too large.
    """
    data = _read(source)
    with _quiet, _damage_reported():
        image = _open(data, at_least)
        orientation = _orientation(image)
        image = _to_rgb(image, background)
        return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def resized_size(width: int, height: int, resize: int) -> "tuple[int, int]":
    """Width and height when the shorter side becomes ``resize`` pixels; the longer one is rounded down."""
    if width <= height:
        return resize, resize * height // width
    return resize * width // height, resize


def resize_and_crop(image: "Image.Image", resize: int, size: int, interpolation: str) -> "npt.NDArray[np.uint8]":
    """Resize the shorter side and cut the centre.

    Equal to the pixel to torchvision's Resize and CenterCrop on Pillow images, as long as Pillow filters along x first. From
    Pillow 13 on it begins with y where an image more than twice as tall as wide shrinks; here the order is always x, then y, so
    that every version of Pillow, and the device's, gives the same pixels.

    Args:
        image: Pillow image of mode RGB.
        resize: shorter side after resizing, pixels.
        size: side of the square that is cut out, pixels; not more than ``resize``.
        interpolation: "bilinear" or "bicubic", both antialiased.

    Returns:
        uint8 array (height, width, channel) = (size, size, 3), RGB 0..255.

    Raises:
        BadImage: the sides differ so much that the resized image would have more than MAX_RESIZED_PIXELS.
        ValueError: an unknown interpolation, or ``size`` exceeds ``resize``.
    """
    if interpolation not in FILTERS:
        raise ValueError(f"interpolation {interpolation!r} is not one of {', '.join(FILTERS)}")
    if size > resize:
        raise ValueError(f"size {size} exceeds resize {resize}")
    width, height = resized_size(image.width, image.height, resize)
    if width * height > MAX_RESIZED_PIXELS:
        raise BadImage(f"too narrow: {image.width} x {image.height} pixels would become {width} x {height}")
    # round() takes a half to the even neighbour, as torchvision does
    left, top = round((width - size) / 2), round((height - size) / 2)
    along_x = image.resize((width, image.height), FILTERS[interpolation])
    columns = along_x.crop((left, 0, left + size, image.height))  # before filtering along y: the same pixels, for less work
    along_y = columns.resize((size, height), FILTERS[interpolation])
    return np.array(along_y.crop((0, top, size, top + size)))


def prepare(source: "str | Path | BinaryIO", preprocess: "Mapping[str, Any]", at_least: int = 0) -> "npt.NDArray[np.uint8]":
    """Everything that lies before the graph: decode, resize, crop.

    Args:
        source: a path, or a binary file object.
        preprocess: the record ``preprocess`` as plain data; ``size``, ``resize``, ``interpolation`` and ``background`` are
            read. The normalisation by ``mean`` and ``std`` is inside the graph.
        at_least: as for :func:`decode`.

    Returns:
        uint8 array (height, width, channel) = (size, size, 3), RGB 0..255.

    Raises:
        BadImage: the file cannot be used; the text says why.
    """
    image = decode(source, tuple(preprocess["background"]), at_least)
    return resize_and_crop(image, preprocess["resize"], preprocess["size"], preprocess["interpolation"])

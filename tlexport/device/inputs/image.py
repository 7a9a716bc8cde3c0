"""The reference implementation of the image contract, from a file to the input pixels of the graph.

Training, evaluation, export and the device all call this file, so their pixels are identical. docs/image-contract.md specifies the
contract with its formulas. The file is copied into bundles unchanged: Python 3.6 syntax and numpy. Pillow decodes and resizes if it
is installed; otherwise OpenCV decodes, and numpy resizes to the same bits. Without both, callers can provide raw pixels.
"""

import importlib.util
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import MissingDependency
from . import resize as in_numpy
from .decoding import BadImage

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, BinaryIO

    import numpy.typing as npt
    from PIL import Image

MAX_BYTES = 2**30  # of a file; larger than any file with MAX_PIXELS
MAX_RESIZED_PIXELS = 2**26  # after resizing, before cropping: bounds the memory; a strip of 1024 : 1 at 256 pixels


def decoder() -> str:
    """The available decoder: "Pillow", "OpenCV", or "" if there is none. Imports neither."""
    for module, name in (("PIL", "Pillow"), ("cv2", "OpenCV")):
        if sys.modules.get(module) or importlib.util.find_spec(module):
            return name
    return ""


def decode(source: "str | Path | BinaryIO", background: "tuple[int, int, int]", at_least: int = 0) -> "Image.Image | npt.NDArray[np.uint8]":
    """Decode one image file to RGB, upright.

    Args:
        source: a path, or a binary file object (read to its end).
        background: RGB 0..255 that shows through transparent pixels.
        at_least: 0; or, for training images only, the smallest side in pixels to which a JPEG may be reduced by decoding at 1/2,
            1/4 or 1/8 of its size. Much faster, but the pixels differ from the contract. Only Pillow supports it.

    Returns:
        A Pillow image of mode RGB, or from OpenCV uint8 (height, width, channel): the first frame, EXIF orientation applied.

    Raises:
        BadImage: the file cannot be read, is empty, not an image, damaged, truncated, or too large.
        MissingDependency: neither Pillow nor OpenCV is installed.
    """
    data = _read(source)
    name = decoder()
    if name == "Pillow":
        from . import decode_pillow

        return decode_pillow.decode(data, background, at_least)
    if name == "OpenCV":
        from . import decode_opencv

        return decode_opencv.decode(data, background)
    raise MissingDependency(
        "decoding image files requires Pillow or OpenCV, and neither is installed",
        "pip install Pillow (Debian, JetPack: apt install python3-pil); or give raw RGB pixels: --raw WIDTHxHEIGHT, Model.predict_raw",
    )


def _read(source: "str | Path | BinaryIO") -> bytes:
    try:
        data = source.read() if hasattr(source, "read") else read_file(Path(source))
    except OSError as error:
        raise BadImage(f"cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # a path with a null byte
        raise BadImage(f"cannot be read: {error}") from None
    if not data:
        raise BadImage("the file is empty")
    return data


def read_file(path: Path) -> bytes:
    """The bytes of an image file. Raises BadImage: not a regular file, or too large; and OSError."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a FIFO would block; a device may be endless
        raise BadImage("not a regular file; use - for standard input")
    if status.st_size > MAX_BYTES:
        raise BadImage(f"too large: {status.st_size} bytes, at most {MAX_BYTES} are read")
    return path.read_bytes()


def resized_size(width: int, height: int, resize: int) -> "tuple[int, int]":
    """Width and height when the shorter side becomes ``resize`` pixels; the longer one is rounded down."""
    if width <= height:
        return resize, resize * height // width
    return resize * width // height, resize


def resize_and_crop(image: "Image.Image | npt.NDArray[np.uint8]", resize: int, size: int, interpolation: str) -> "npt.NDArray[np.uint8]":
    """Resize the shorter side and cut the centre.

    Identical to torchvision's Resize and CenterCrop on Pillow images if Pillow filters along x first. From Pillow 13 on, Pillow
    filters along y first when it shrinks an image more than twice as tall as wide. Here the order is always x, then y, so that
    every version of Pillow gives the same pixels.

    Args:
        image: Pillow image of mode RGB, resized by Pillow; or uint8 (height, width, channel), resized by numpy.
        resize: shorter side after resizing, pixels.
        size: side of the central square, pixels; at most ``resize``.
        interpolation: "bilinear" or "bicubic", both antialiased.

    Returns:
        uint8 array (height, width, channel) = (size, size, 3), RGB 0..255.

    Raises:
        BadImage: the sides differ so much that the resized image would have more than MAX_RESIZED_PIXELS.
        ValueError: an unknown interpolation, or ``size`` exceeds ``resize``.
    """
    if interpolation not in in_numpy.RADIUS:
        raise ValueError(f"interpolation {interpolation!r} is not one of {', '.join(in_numpy.RADIUS)}")
    if size > resize:
        raise ValueError(f"size {size} exceeds resize {resize}")
    full_width, full_height = image.shape[1::-1] if isinstance(image, np.ndarray) else image.size
    width, height = resized_size(full_width, full_height, resize)
    if width * height > MAX_RESIZED_PIXELS:
        raise BadImage(f"too narrow: {full_width} x {full_height} pixels would become {width} x {height}")
    # round() rounds half to even, as in torchvision
    left, top = round((width - size) / 2), round((height - size) / 2)
    if isinstance(image, np.ndarray):
        return in_numpy.square(image, (width, height), (left, top), size, interpolation)
    filter_ = {"bilinear": 2, "bicubic": 3}[interpolation]  # Pillow's values; the names differ between its versions
    along_x = image.resize((width, full_height), filter_)
    columns = along_x.crop((left, 0, left + size, full_height))  # crop before filtering along y: the same pixels with less work
    along_y = columns.resize((size, height), filter_)
    return np.array(along_y.crop((0, top, size, top + size)))


def prepare(source: "str | Path | BinaryIO", preprocess: "Mapping[str, Any]", at_least: int = 0) -> "npt.NDArray[np.uint8]":
    """Preprocess an image outside the graph: decode, resize, crop.

    Args:
        source: a path, or a binary file object.
        preprocess: the record ``preprocess`` as plain data; reads ``size``, ``resize``, ``interpolation`` and
            ``background``. The normalisation by ``mean`` and ``std`` is part of the graph.
        at_least: as for :func:`decode`.

    Returns:
        uint8 array (height, width, channel) = (size, size, 3), RGB 0..255.

    Raises:
        BadImage: the file is unusable; the message gives the reason.
        MissingDependency: neither Pillow nor OpenCV is installed.
    """
    image = decode(source, tuple(preprocess["background"]), at_least)
    return resize_and_crop(image, preprocess["resize"], preprocess["size"], preprocess["interpolation"])


def prepare_pixels(pixels: "npt.NDArray[np.uint8]", preprocess: "Mapping[str, Any]") -> "npt.NDArray[np.uint8]":
    """As :func:`prepare`, for decoded pixels: resize and crop in numpy.

    Args:
        pixels: uint8 (height, width, channel), RGB 0..255, upright.
        preprocess: the record ``preprocess`` as plain data.

    Raises:
        BadImage: another type or shape, no pixels, or too narrow.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise BadImage(f"{pixels.dtype} {pixels.shape}; uint8 (height, width, 3), RGB 0 to 255, was expected")
    return resize_and_crop(pixels, preprocess["resize"], preprocess["size"], preprocess["interpolation"])

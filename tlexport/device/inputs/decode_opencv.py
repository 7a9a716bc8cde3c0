"""Decode with OpenCV if Pillow is missing: sections 1 to 3 of the image contract, as far as OpenCV supports them.

Lossless files give exactly the pixels of the contract. A JPEG may differ by a few levels because of OpenCV's libjpeg; the golden
vectors of a bundle measure the difference. EXIF orientation is applied to JPEG files, not to PNG, WebP and TIFF.

Python 3.6 syntax: this file is copied into bundles unchanged.
"""

import os
import re
from typing import TYPE_CHECKING

import numpy as np

from .decoding import MAX_PIXELS, UNKNOWN, BadImage, cannot_read, special_format

# read when OpenCV decodes its first image; larger files are refused before allocation
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))

import cv2

if TYPE_CHECKING:
    from typing import Any

    import numpy.typing as npt

_JPEG = b"\xff\xd8\xff"
_MARKER = re.compile(b"\xff[^\x00\x01\xd0-\xd8\xff]")  # JPEG markers, except those without content and stuffed bytes
_END = 0xD9


def decode(data: bytes, background: "tuple[int, int, int]") -> "npt.NDArray[np.uint8]":
    """Decode the bytes of a file to RGB; see :func:`tlexport.device.inputs.image.decode`.

    Returns:
        uint8 (height, width, channel), RGB 0..255.

    Raises:
        BadImage: as there.
    """
    jpeg = data.startswith(_JPEG)
    if special_format(data):
        raise cannot_read(special_format(data), "Pillow reads AVIF and HEIC (pip install Pillow pillow-heif); or ")
    if jpeg and not _is_complete(data):
        raise BadImage("damaged: a JPEG that is cut short")  # OpenCV would fill the missing part with grey
    try:
        # unchanged, except for JPEG: only IMREAD_COLOR applies the EXIF orientation, and JPEG has no transparency
        stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR if jpeg else cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise BadImage(f"damaged, or too large: {' '.join(str(error).split())}") from None
    if stored is None:
        raise BadImage(UNKNOWN)
    if stored.shape[0] * stored.shape[1] > MAX_PIXELS:
        raise BadImage(f"too large: {stored.shape[1]} x {stored.shape[0]} pixels, at most {MAX_PIXELS} are read")
    return _to_rgb(_to_8_bit(stored), background)


def _is_complete(data: bytes) -> bool:
    """Whether the first picture of a JPEG is complete. Phones and drones append more pictures (MPO) or a video."""
    place = 2
    while True:
        found = _MARKER.search(data, place)
        if found is None:
            return False
        end = found.end()
        if data[end - 1] == _END:
            return True
        place = end + max(2, int.from_bytes(data[end : end + 2], "big"))


def _to_8_bit(stored: "npt.NDArray[Any]") -> "npt.NDArray[np.uint8]":
    if stored.dtype == np.uint8:
        return stored
    if stored.dtype != np.uint16:
        raise BadImage(f"pixels of {stored.dtype}: their range is not known")
    if stored.ndim == 2:
        return ((stored.astype(np.int64) + 128) // 257).astype(np.uint8)  # round(value * 255 / 65535)
    return (stored >> 8).astype(np.uint8)


def _to_rgb(stored: "npt.NDArray[np.uint8]", background: "tuple[int, int, int]") -> "npt.NDArray[np.uint8]":
    if stored.ndim == 2:
        return np.repeat(stored[..., None], 3, axis=2)
    rgb = np.ascontiguousarray(stored[..., 2::-1])  # OpenCV stores BGR
    if stored.shape[2] == 3:
        return rgb
    alpha = stored[..., 3:].astype(np.int64)
    laid_over = rgb * alpha + np.array(background) * (255 - alpha)
    return ((2 * laid_over + 255) // 510).astype(np.uint8)  # round(value / 255)

"""Thumbnails of preprocessed images for a page."""

from __future__ import annotations

import io

from PIL import Image

from tlexport.ports import Pixels
from tlexport.report.text import data_link

SIDE = 112  # of a thumbnail, pixels


def thumbnail(pixels: Pixels) -> str:
    """Encode pixels uint8 (height, width, channel) as a small JPEG. No metadata of the original file remains."""
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=85)
    return data_link(stream.getvalue(), "image/jpeg")

"""Width and height of image files, read from their headers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from tlexport.device.inputs.decode_pillow import FORMATS

HEADERS = tuple(name for name in FORMATS if name != "MPO")  # Pillow opens an MPO as a JPEG


def image_sizes(files: Sequence[Path]) -> npt.NDArray[np.int64]:
    """Width and height as stored, before EXIF orientation, in pixels: int64 (image, 2); 0 for a file whose header is not read."""
    sizes = np.zeros((len(files), 2), np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # large images and damaged metadata: decoding reports what matters
        for index, file in enumerate(files):
            try:
                with Image.open(file, formats=HEADERS) as image:
                    sizes[index] = image.size
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                continue
    return sizes

"""Perceptual hashes of images: images that look alike have hashes that differ in few bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from tlexport.ports import Pixels
from tlexport.storage.cache import release

SIDE = 32  # pixels of the grey image that the hash is computed from
LOW = 8  # lowest frequencies along each axis
BITS = LOW * LOW
COARSE = 8  # side of a thumbnail of colours alone, pixels
FLAT = 0.5  # grey levels; a coefficient below this carries rounding noise
RELEASE_EVERY = 256  # images after which the memory of their pixels is released


@dataclass(frozen=True)
class Looks:
    """The appearance of each image."""

    bits: npt.NDArray[np.float32]  # (image, BITS), each -1 or 1: the product of two rows is BITS minus twice their Hamming distance
    small: Pixels  # uint8 RGB 0..255, (image, SIDE, SIDE, 3), which confirm that two images are alike

    def __len__(self) -> int:
        return len(self.bits)


def appearance(pixels: Pixels, advance: Callable[[int], None] = lambda amount: None) -> Looks:
    """Hash and reduced copy of each image.

    The hash is the DCT hash of Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010): a 32 x 32 grey
    image, its two-dimensional DCT-II, the lowest 8 x 8 coefficients compared with their median. Two changes: the median excludes
    the mean brightness (coefficient 0, 0), as in the library ``imagehash``, and a coefficient below ``FLAT`` counts as 0, so that
    rounding does not decide the bits of flat images.

    Args:
        pixels: uint8 (image, height, width, channel), RGB 0..255.
        advance: called with the number of images that were finished.
    """
    grey = np.empty((len(pixels), SIDE, SIDE), np.float32)
    small = np.empty((len(pixels), SIDE, SIDE, 3), np.uint8)
    for index in range(len(pixels)):
        reduced = Image.fromarray(pixels[index]).resize((SIDE, SIDE), Image.Resampling.BOX)
        grey[index] = np.asarray(reduced.convert("L"))
        small[index] = np.asarray(reduced)
        if (index + 1) % RELEASE_EVERY == 0:
            release(pixels)
            advance(RELEASE_EVERY)
    advance(len(pixels) % RELEASE_EVERY)
    release(pixels)
    return Looks(_bits(grey), small)


def colours(pixels: Pixels) -> npt.NDArray[np.float32]:
    """Coarse thumbnails.

    Args:
        pixels: uint8 (image, height, width, channel), RGB 0..255.

    Returns:
        RGB 0..255, float32 (image, COARSE * COARSE * 3).
    """
    found = np.empty((len(pixels), COARSE * COARSE * 3), np.float32)
    for index in range(len(pixels)):
        found[index] = np.asarray(Image.fromarray(pixels[index]).resize((COARSE, COARSE), Image.Resampling.BOX)).reshape(-1)
        if (index + 1) % RELEASE_EVERY == 0:
            release(pixels)
    release(pixels)
    return found


def _bits(grey: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Grey images (image, SIDE, SIDE) -> -1 or 1, (image, BITS)."""
    basis = _dct_basis()
    low = (basis @ grey @ basis.T).reshape(len(grey), BITS)
    low[np.abs(low) < FLAT] = 0
    median = np.median(low[:, 1:], axis=1, keepdims=True) if len(low) else np.zeros((0, 1), np.float32)
    bits: npt.NDArray[np.float32] = np.where(low > median, 1, -1).astype(np.float32)
    return bits


def _dct_basis() -> npt.NDArray[np.float32]:
    """The first LOW rows of the orthonormal DCT-II of length SIDE, float32 (LOW, SIDE)."""
    frequency, place = np.mgrid[0:LOW, 0:SIDE]
    basis = np.cos(np.pi * frequency * (2 * place + 1) / (2 * SIDE)) * np.sqrt(2 / SIDE)
    basis[0] /= np.sqrt(2)
    found: npt.NDArray[np.float32] = basis.astype(np.float32)
    return found

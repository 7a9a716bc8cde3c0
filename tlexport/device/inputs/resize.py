"""Pillow's antialiased resize of 8-bit images in plain numpy, equal to the last bit; the formulas are in docs/image-contract.md, section 4.

For devices without Pillow. Every output pixel is a sum of integers (a pixel times a coefficient with 22 fractional bits), and sums are
exact in floating point while every partial sum fits into the mantissa. The sums are therefore computed by matrix multiplication in
numpy's BLAS: each coefficient is split into a high and a low part, so that both sums stay below 2^24 in float32. Only the rows and
columns of the central square are computed. Python 3.6 syntax: this file is copied into bundles unchanged.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from typing import Any, Iterator, List, Tuple

    import numpy.typing as npt

    Pixels = npt.NDArray[np.uint8]
    Numbers = npt.NDArray[Any]

RADIUS = {"bilinear": 1.0, "bicubic": 2.0}  # radius of each filter, in pixels of the smaller image
BITS = 22  # fractional bits of a coefficient: Pillow's PRECISION_BITS, 32 - 8 - 2
LOW_BITS = 8  # bits in the low part of a coefficient
EXACT = {np.float32: 2**24, np.float64: 2**53}  # integers below this are exact in float32
BLOCK = 8  # output pixels of one matrix multiplication: more would multiply more zeros
ROWS = 64  # rows filtered at a time: bounds the memory, and fits into a cache


class _Band(NamedTuple):
    """BLOCK neighbouring output pixels in one direction, and their input pixels."""

    begin: int  # input pixels [begin, end)
    end: int
    weights: "Numbers"  # (input pixel, high or low part, output pixel), whole numbers


def square(pixels: "Pixels", resized: "Tuple[int, int]", corner: "Tuple[int, int]", size: int, interpolation: str) -> "Pixels":
    """Resize along x, then along y, and crop a square.

    Args:
        pixels: uint8 (height, width, channel).
        resized: width and height of the resized image.
        corner: left and top of the square in it.
        size: side of the square.
        interpolation: "bilinear" or "bicubic".

    Returns:
        uint8 (size, size, channel).
    """
    (width, height), (left, top) = resized, corner
    if pixels.shape[:2] == (height, width):
        return pixels[top : top + size, left : left + size].copy()
    across = _bands(pixels.shape[1], width, left, left + size, interpolation)
    down = _bands(pixels.shape[0], height, top, top + size, interpolation)
    begin, end = min(band.begin for band in down), max(band.end for band in down)
    columns = _along_x(pixels[begin:end], across, size)
    return _along_y(columns, [band._replace(begin=band.begin - begin, end=band.end - begin) for band in down], size)


def _coefficients(n: int, m: int, start: int, stop: int, interpolation: str) -> "Tuple[Numbers, Numbers, Numbers]":
    """First input pixel, one past the last, and whole coefficients (output pixel, tap), of the output pixels [start, stop).

    ``n`` pixels become ``m``. The order of operations is that of Pillow's ``precompute_coeffs`` (src/libImaging/Resample.c).
    """
    scale = n / m
    stretch = max(scale, 1.0)
    support = RADIUS[interpolation] * stretch
    center = (np.arange(start, stop) + 0.5) * scale
    first = np.maximum(np.trunc(center - support + 0.5), 0).astype(np.int64)
    last = np.minimum(np.trunc(center + support + 0.5), n).astype(np.int64)
    tap = np.arange(int((last - first).max()))[None]
    k = _filter(np.abs((tap + first[:, None] - center[:, None] + 0.5) * (1.0 / stretch)), interpolation)
    k[tap >= (last - first)[:, None]] = 0.0
    k /= np.cumsum(k, axis=1)[:, -1:]  # sequentially, in Pillow's order of addition
    return first, last, np.trunc(k * 2.0**BITS + np.where(k < 0, -0.5, 0.5)).astype(np.int64)


def _filter(t: "Numbers", interpolation: str) -> "Numbers":
    """The filter at distances ``t``, 0 or more."""
    if interpolation == "bilinear":
        return np.where(t < 1.0, 1.0 - t, 0.0)
    near = (1.5 * t - 2.5) * t * t + 1.0
    far = -0.5 * (((t - 5.0) * t + 8.0) * t - 4.0)
    return np.where(t < 1.0, near, np.where(t < 2.0, far, 0.0))


def _bands(n: int, m: int, start: int, stop: int, interpolation: str) -> "List[_Band]":
    first, last, whole = _coefficients(n, m, start, stop, interpolation)
    high = (whole + (1 << (LOW_BITS - 1))) >> LOW_BITS
    parts = np.stack([high, whole - (high << LOW_BITS)])  # (part, output pixel, tap)
    largest = 255 * int(np.abs(parts).sum(axis=2).max())  # bound of every partial sum, in any order
    dtype = np.float32 if largest < EXACT[np.float32] else np.float64
    bands = []
    for i in range(0, stop - start, BLOCK):
        inside = slice(i, min(i + BLOCK, stop - start))
        begin, end = int(first[inside].min()), int(last[inside].max())
        weights = np.zeros((end - begin, 2, BLOCK), dtype)  # equal sizes: the last block may contain surplus pixels, which are dropped
        for j in range(i, inside.stop):
            taps = int(last[j] - first[j])
            weights[first[j] - begin : last[j] - begin, :, j - i] = parts[:, j, :taps].T
        bands.append(_Band(begin, end, weights))
    return bands


def _along_x(pixels: "Pixels", bands: "List[_Band]", length: int) -> "Pixels":
    height, _, channels = pixels.shape
    left, right = min(band.begin for band in bands), max(band.end for band in bands)
    out = np.empty((height, length * channels), np.uint8)
    matrices = [_for_each_channel(band.weights, channels) for band in bands]
    kept = np.empty((len(bands), min(ROWS, height), matrices[0].shape[1]), matrices[0].dtype)
    half = matrices[0].shape[1] // 2
    for rows in _chunks(height):
        count = rows.stop - rows.start
        flat = pixels[rows, left:right].astype(kept.dtype).reshape(count, -1)
        sums = kept[:, :count]
        for band, matrix, target in zip(bands, matrices, sums):
            np.dot(flat[:, (band.begin - left) * channels : (band.end - left) * channels], matrix, out=target)
        whole = _rounded(sums[:, :, :half], sums[:, :, half:])  # (band, row, pixel and channel)
        out[rows] = whole.transpose(1, 0, 2).reshape(count, -1)[:, : length * channels]
    return out.reshape(height, length, channels)


def _along_y(pixels: "Pixels", bands: "List[_Band]", length: int) -> "Pixels":
    _, width, channels = pixels.shape
    flat = pixels.reshape(len(pixels), -1).astype(bands[0].weights.dtype)
    sums = np.stack([np.dot(band.weights.reshape(len(band.weights), -1).T, flat[band.begin : band.end]) for band in bands])
    whole = _rounded(sums[:, :BLOCK], sums[:, BLOCK:])  # (band, row, pixel and channel)
    return whole.reshape(-1, width, channels)[:length]


def _chunks(height: int) -> "Iterator[slice]":
    return (slice(i, min(i + ROWS, height)) for i in range(0, height, ROWS))


def _for_each_channel(weights: "Numbers", channels: int) -> "Numbers":
    """Weights for interleaved channels: (input pixel and channel, part and output pixel and channel)."""
    inputs, parts, outputs = weights.shape
    matrix = np.zeros((inputs, channels, parts, outputs, channels), weights.dtype)
    for channel in range(channels):
        matrix[:, channel, :, :, channel] = weights
    return matrix.reshape(inputs * channels, -1)


def _rounded(high: "Numbers", low: "Numbers") -> "Pixels":
    """Integer sums, rounded to 8 bits like Pillow's clip8. The sums of both parts together fit into 32 bits."""
    total = high.astype(np.int32)
    total <<= LOW_BITS
    total += low.astype(np.int32)
    total += 1 << (BITS - 1)
    total >>= BITS
    np.maximum(total, 0, out=total)
    np.minimum(total, 255, out=total)
    return total.astype(np.uint8)

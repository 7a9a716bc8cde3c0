"""Groups of images that look alike: re-encoded, resized, brightened or slightly cropped copies."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

from tlexport.data.perceptual_hash import BITS, SIDE, Looks

MOST_BITS = 12  # Hamming distance of the hashes of a candidate pair
ALIKE = 0.98  # least correlation of the thumbnails of a confirmed pair
ALIKE_COARSE = 0.995  # the same, if one of the two files has few pixels: handwritten digits of 8 x 8 pixels often reach ALIKE
WORTH_ALIGNING = 0.8  # least correlation before the thumbnails are aligned
MARGINS = (0.02, 0.04)  # cropped from each side of one image, as a fraction, to align it with a cropped copy
THUMBNAIL = SIDE // 2  # side of a thumbnail, pixels
BRIGHTER = 40.0  # largest difference in mean brightness, grey levels
FLAT = 2.0  # standard deviation of an image without structure, grey levels
SAME_COLOUR = 2.0  # largest difference of the colours of two flat images, grey levels
BLOCK = 512  # rows of the distance matrix computed at a time

Thumbnails = npt.NDArray[np.float32]  # (image, values)


def near_duplicates(looks: Looks, coarse: npt.NDArray[np.bool_], advance: Callable[[int], None] = lambda amount: None) -> list[list[int]]:
    """Group the images that look alike.

    Candidates are pairs whose hashes differ in at most ``MOST_BITS`` of 64 bits. A candidate is confirmed if the correlation of the
    two thumbnails is at least ``ALIKE``, with one of them cropped by each of ``MARGINS``. Confirmed pairs are joined to groups, so two
    members of a group may be alike only through a third one. A crop to one side, a rotation and a mirror image are not found.

    Hamming distances come from matrix products of blocks: 20,000 images take a few seconds. Images that are already in one group are
    not compared again, so a set of identical images takes no longer.

    Args:
        looks: the appearance of the images.
        coarse: bool (image,), whether the shorter side of the file is below ``SIDE`` pixels. Such an image is compared as a whole
            only, and must correlate to ``ALIKE_COARSE``.
        advance: called with the number of images that were compared.

    Returns:
        The groups of two or more images, as rising indices; the largest group first.
    """
    groups = _Groups(len(looks))
    compare = _Comparison(looks, coarse)
    for start in range(0, len(looks), BLOCK):
        rows = looks.bits[start : start + BLOCK]
        near = rows @ looks.bits[start:].T >= BITS - 2 * MOST_BITS
        near &= np.abs(compare.brightness[start : start + BLOCK, None] - compare.brightness[None, start:]) <= BRIGHTER
        for place in np.flatnonzero(near.sum(axis=1) > 1).tolist():
            one = start + place
            others = one + 1 + np.flatnonzero(near[place, place + 1 :])
            others = others[groups.of[others] != groups.of[one]]
            for other in others[compare.alike(one, others)].tolist():
                groups.join(one, other)
        advance(len(rows))
    return groups.several()


class _Groups:
    """Disjoint groups of images. The smaller of two groups joins the larger one."""

    def __init__(self, count: int) -> None:
        self.of = np.arange(count)
        self._members: dict[int, list[int]] = {}

    def join(self, one: int, other: int) -> None:
        """Join the groups of two images."""
        small, large = sorted((int(self.of[one]), int(self.of[other])), key=lambda name: len(self._members.get(name, [name])))
        if small != large:
            moved = self._members.pop(small, [small])
            self._members[large] = self._members.get(large, [large]) + moved
            self.of[moved] = large

    def several(self) -> list[list[int]]:
        """Groups of two or more images, the largest first."""
        return sorted((sorted(members) for members in self._members.values()), key=lambda group: (-len(group), group))


class _Comparison:
    """Compares thumbnails, whole and cropped."""

    def __init__(self, looks: Looks, coarse: npt.NDArray[np.bool_]) -> None:
        self.small, self.coarse = looks.small, coarse
        values = _reduced(looks.small)
        self.brightness = values.mean(axis=1)
        channels = values.reshape(len(values), -1, 3)
        self.colours = channels.mean(axis=1)  # (image, channel)
        self.flat = channels.std(axis=1).max(axis=1, initial=0) < FLAT
        self.whole = _normalised(values)
        self.zoomed = functools.lru_cache(maxsize=4096)(self._zoomed)

    def alike(self, one: int, others: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
        """Whether each of the other images looks like the first one."""
        colours = np.abs(self.colours[others] - self.colours[one]).max(axis=1) <= SAME_COLOUR
        correlation = self.whole[others] @ self.whole[one]
        coarse = self.coarse[others] | self.coarse[one]
        for place in np.flatnonzero(~coarse & (correlation >= WORTH_ALIGNING) & (correlation < ALIKE)).tolist():
            other = int(others[place])
            correlation[place] = max((self.zoomed(one) @ self.whole[other]).max(), (self.zoomed(other) @ self.whole[one]).max())
        both, neither = self.flat[others] & self.flat[one], ~self.flat[others] & ~self.flat[one]
        found: npt.NDArray[np.bool_] = (both & colours) | (neither & (correlation >= np.where(coarse, ALIKE_COARSE, ALIKE)))
        return found

    def _zoomed(self, index: int) -> Thumbnails:
        """One image, cropped by each margin: normalised thumbnails."""
        image = Image.fromarray(self.small[index])
        sides = [(SIDE * margin, SIDE * (1 - margin)) for margin in MARGINS]
        cropped = [image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX, (low, low, high, high)) for low, high in sides]
        return _normalised(np.stack([np.asarray(each, np.float32).reshape(-1) for each in cropped]))


def _reduced(small: npt.NDArray[np.uint8]) -> Thumbnails:
    """uint8 (image, SIDE, SIDE, 3) -> mean of each square, float32 (image, THUMBNAIL * THUMBNAIL * 3)."""
    rows = small[:, ::2].astype(np.float32) + small[:, 1::2]
    found: Thumbnails = ((rows[:, :, ::2] + rows[:, :, 1::2]) / 4).reshape(len(small), -1).astype(np.float32)
    return found


def _normalised(values: Thumbnails) -> Thumbnails:
    """Each row with mean 0 and norm 1, so that a product of two rows is their correlation."""
    centred = values - values.mean(axis=1, keepdims=True)
    normalised: Thumbnails = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6)
    return normalised

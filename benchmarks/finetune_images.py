"""Realistic images without a download: handwritten digits on crops of photographs, in files of mixed sizes and formats.

The photographs come from scikit-learn and matplotlib, the digits from scikit-learn (1,797). Each image shows nine handwritten digits of
one class, its label; the photograph is independent of it. No digit is in both parts. Nine digits per image match the scale of the embedded
trunk, which was trained on letters of about 60 pixels.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib.cbook
import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

CLASSES = 10
VAL_EVERY = 5  # every fifth image of a class is for validation
GRID = 3  # digits along each side
SIDES = (300, 801)  # pixels; width and height are drawn independently
KEPT = 0.875  # share of the shorter side inside the usual centre crop (224 of 256 pixels), which contains the digits
MARKER = "images.json"  # written last: marks a complete folder
VERSION = 1  # increase it if the same seed would give other images


class Painter:
    """Makes image number ``i`` of a seed, independent of the number of images."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        hopper = matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
        self.photographs = [*(Image.fromarray(pixels) for pixels in load_sample_images().images), Image.open(hopper).convert("RGB")]
        digits = load_digits()
        self.ink = np.round(digits.images * (255 / 16)).astype(np.uint8)  # (digit, 8, 8), white on black
        self.digits = [np.flatnonzero(digits.target == label) for label in range(CLASSES)]

    def write(self, number: int, folder: Path) -> None:
        """Write one image below ``folder/PART/CLASS``."""
        draw = np.random.default_rng((self.seed, number))
        label, turn = number % CLASSES, number // CLASSES
        part = "val" if turn % VAL_EVERY == VAL_EVERY - 1 else "train"
        image = self._noisy(self._written(self._background(draw), label, part, draw), draw)
        path = folder / part / str(label) / f"{number:06}"
        if turn % 2:
            image.save(path.with_suffix(".png"), compress_level=3)
        else:
            image.save(path.with_suffix(".jpg"), quality=90)

    def _background(self, draw: np.random.Generator) -> Image.Image:
        """A crop of a photograph, mirrored or not, at a size drawn from SIDES."""
        width, height = (int(side) for side in draw.integers(*SIDES, 2))
        photograph = self.photographs[draw.integers(len(self.photographs))]
        scale = draw.uniform(0.5, 1) * min(photograph.width / width, photograph.height / height)
        left, top = draw.uniform(0, photograph.width - scale * width), draw.uniform(0, photograph.height - scale * height)
        box = (left, top, left + scale * width, top + scale * height)
        crop = photograph.resize((width, height), Image.Resampling.BICUBIC, box)
        return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if draw.random() < 0.5 else crop

    def _digit(self, label: int, part: str, draw: np.random.Generator) -> npt.NDArray[np.uint8]:
        """A handwritten digit of a class, uint8 (8, 8): scikit-learn's first four fifths are for training, the rest for validation."""
        all_of_class = self.digits[label]
        border = len(all_of_class) * (VAL_EVERY - 1) // VAL_EVERY
        ink: npt.NDArray[np.uint8] = self.ink[draw.choice(all_of_class[:border] if part == "train" else all_of_class[border:])]
        return ink

    def _written(self, image: Image.Image, label: int, part: str, draw: np.random.Generator) -> Image.Image:
        """Digits of one class in one colour, each slightly shifted and rotated, on the photograph faded towards white or black."""
        light = draw.random() < 0.5  # dark ink on a light page, or the reverse
        page = Image.new("RGB", image.size, (255, 255, 255) if light else (0, 0, 0))
        image = Image.blend(image, page, draw.uniform(0.2, 0.6))
        colour = tuple(int(level) for level in (draw.integers(0, 80, 3) if light else draw.integers(176, 256, 3)))
        cell = KEPT * min(image.size) / GRID
        for cell_x in np.arange(GRID) - (GRID - 1) / 2:  # from the centre
            for cell_y in np.arange(GRID) - (GRID - 1) / 2:
                side = round(draw.uniform(0.8, 1) * cell)
                ink = Image.fromarray(self._digit(label, part, draw)).resize((side, side), Image.Resampling.BICUBIC)
                ink = ink.rotate(draw.uniform(-12, 12), Image.Resampling.BICUBIC)
                x, y = cell * (np.array([cell_x, cell_y]) + draw.uniform(-0.05, 0.05, 2)) + (np.array(image.size) - side) / 2
                image.paste(colour, (round(x), round(y)), ink)
        return image

    @staticmethod
    def _noisy(image: Image.Image, draw: np.random.Generator) -> Image.Image:
        """Add sensor noise: enlarged crops are smoother than photographs and would be decoded faster."""
        noise = draw.normal(0, 2, (image.height, image.width, 1)).astype(np.float32)
        return Image.fromarray(np.clip(np.rint(np.asarray(image) + noise), 0, 255).astype(np.uint8))


def images_folder(count: int, seed: int) -> Path:
    """The folder with ``count`` images in train/ and val/, created in the system's temporary folder if missing.

    Args:
        count: total number of images; at least 50, so that every class is in both parts.
        seed: of all random choices.
    """
    into = Path(tempfile.gettempdir()) / f"tlexport-digits-on-photographs-v{VERSION}-{count}-{seed}"
    if (into / MARKER).is_file():
        return into
    shutil.rmtree(into, ignore_errors=True)
    for part in ("train", "val"):
        for label in range(CLASSES):
            (into / part / str(label)).mkdir(parents=True)
    painter = Painter(seed)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(lambda number: painter.write(number, into), range(count)):
            pass
    (into / MARKER).write_text(json.dumps({"images": count, "seed": seed}) + "\n", encoding="utf-8")
    return into

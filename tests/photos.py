"""Images that resemble photographs: smooth colours, shapes and texture, different for every seed; and ways to copy them."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageEnhance


def photo(seed: int, width: int = 160, height: int = 120) -> Image.Image:
    """Noise at several scales, the coarsest strongest, as in the spectrum of photographs."""
    random = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    for side in (3, 6, 12, 24, 48):
        noise = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
        total += np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC), np.float32) * 3 / side
    total = 255 * (total - total.min()) / (total.max() - total.min())
    return Image.fromarray(total.astype(np.uint8))


def _cropped(image: Image.Image) -> Image.Image:
    left, top = round(0.03 * image.width), round(0.03 * image.height)
    return image.crop((left, top, image.width - left, image.height - top))


def _as_jpeg(image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=50)
    return Image.open(stream)


COPIES: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    "jpeg": _as_jpeg,
    "smaller": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.BILINEAR),
    "larger": lambda image: image.resize((image.width * 3 // 2, image.height * 3 // 2), Image.Resampling.BICUBIC),
    "cropped": _cropped,
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.08),
}

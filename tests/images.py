"""Image files of unusual kinds, generated for the tests that read images."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

ORIENTATION = 0x0112  # the EXIF tag
WIDTH, HEIGHT = 40, 24


def scene(width: int = WIDTH, height: int = HEIGHT, seed: int = 0) -> npt.NDArray[np.uint8]:
    """An RGB picture (height, width, channel) with gradients, an edge and noise, different in every corner."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    red = 255 * x / max(width - 1, 1)
    green = 255 * y / max(height - 1, 1)
    blue = np.where(x + y < (width + height) / 3, 230.0, 20.0)
    noise = random.integers(-12, 13, (height, width, 3))
    return np.clip(np.stack([red, green, blue], axis=-1) + noise, 0, 255).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """A file's bytes."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _rgba() -> Image.Image:
    alpha = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
    return Image.fromarray(np.dstack([scene(), alpha]))


def _grey16() -> Image.Image:
    return Image.fromarray(np.linspace(0, 65535, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(np.uint16))


def _palette() -> Image.Image:
    return Image.fromarray(scene()).quantize(16)


def oriented(orientation: int) -> bytes:
    """A PNG of :func:`scene` stored turned, with the EXIF tag that turns it back: decoded, all eight are equal."""
    # the inverse of what each tag value asks a reader to do
    stored_as = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = Image.fromarray(scene())
    if orientation in stored_as:
        image = image.transpose(stored_as[orientation])
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encoded(image, "PNG", exif=exif)


def oriented_jpeg(orientation: int) -> bytes:
    """A JPEG of :func:`scene`, unrotated, with an EXIF orientation."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encoded(Image.fromarray(scene()), "JPEG", quality=95, exif=exif)


def good() -> Mapping[str, bytes]:
    """File name -> bytes of odd images that must decode."""
    rgb = Image.fromarray(scene())
    other = Image.fromarray(scene(seed=9)[::-1].copy())
    files = {
        "rgb.png": encoded(rgb, "PNG"),
        "rgb.jpg": encoded(rgb, "JPEG", quality=95),
        "rgba.png": encoded(_rgba(), "PNG"),
        "rgba.webp": encoded(_rgba(), "WEBP", lossless=True, exact=True),
        "la.png": encoded(_rgba().convert("LA"), "PNG"),
        "grey.png": encoded(rgb.convert("L"), "PNG"),
        "grey.jpg": encoded(rgb.convert("L"), "JPEG"),
        "grey16.png": encoded(_grey16(), "PNG"),
        "grey16.tif": encoded(_grey16(), "TIFF"),
        "grey16.pgm": f"P5 {WIDTH} {HEIGHT} 65535\n".encode() + np.asarray(_grey16()).astype(">u2").tobytes(),
        "one_bit.png": encoded(rgb.convert("1"), "PNG"),
        "palette.png": encoded(_palette(), "PNG"),
        "palette_one_transparent.png": encoded(_palette(), "PNG", transparency=3),
        "palette_alphas.png": encoded(_palette(), "PNG", transparency=bytes(range(0, 256, 16))),
        "cmyk.jpg": encoded(rgb.convert("CMYK"), "JPEG", quality=95),
        "cmyk.tif": encoded(rgb.convert("CMYK"), "TIFF"),
        "rgb.bmp": encoded(rgb, "BMP"),
        "rgb.ppm": encoded(rgb, "PPM"),
        "animated.gif": encoded(rgb.quantize(64), "GIF", save_all=True, append_images=[other.quantize(64)], duration=100),
        "animated.webp": encoded(rgb, "WEBP", save_all=True, append_images=[other], duration=100, lossless=True),
        "two_pages.tif": encoded(rgb, "TIFF", save_all=True, append_images=[other]),
        "one_pixel.png": encoded(Image.new("RGB", (1, 1), (200, 100, 50)), "PNG"),
    }
    for value in range(1, 9):
        files[f"exif_{value}.png"] = oriented(value)
        files[f"exif_{value}.jpg"] = oriented_jpeg(value)
    return files


def handmade_png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG put together by hand, for what Pillow does not write. ``rows``: each row's filter byte and samples."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def bad() -> Mapping[str, bytes]:
    """File name -> bytes of files that must be refused."""
    jpeg = encoded(Image.fromarray(scene(400, 300)), "JPEG", quality=95)
    png = encoded(Image.fromarray(scene(400, 300)), "PNG")
    return {
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "truncated.png": png[: len(png) // 2],
        "empty.jpg": b"",
        "text.jpg": b"this is not an image\n",
        "bomb.png": handmade_png(30000, 30000, 8, 0, b"\0"),  # promises 900 million pixels
        "postscript.jpg": encoded(Image.fromarray(scene()), "EPS"),
        "floats.tif": encoded(Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)), "TIFF"),
        "beyond_16_bit.tif": encoded(Image.fromarray(np.array([[0, 70000]], dtype=np.int32)), "TIFF"),
    }


def write(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write files into a folder (made if need be); their paths, in the mapping's order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in files]
    for path, data in zip(paths, files.values(), strict=True):
        path.write_bytes(data)
    return paths


def class_folders(root: Path, counts: Mapping[str, int], seed: int = 0, side: int = 16) -> Path:
    """Class folders of small PNG images; no two images are alike, and each class has a hue of its own."""
    random = np.random.default_rng(seed)
    for index, (name, count) in enumerate(counts.items()):
        hue = np.array([(40 + 90 * index) % 256, (200 - 70 * index) % 256, (60 * index) % 256])
        images = {}
        for number in range(count):
            pixels = np.clip(hue + random.integers(-30, 31, (side, side, 3)), 0, 255).astype(np.uint8)
            images[f"{number:03}.png"] = encoded(Image.fromarray(pixels), "PNG")
        write(root / name, images)
    return root

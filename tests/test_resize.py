"""The numpy resize, bit-identical to Pillow's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import environment
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from tlexport.device.inputs import resize
from tlexport.device.inputs.decoding import BadImage
from tlexport.device.inputs.image import prepare_pixels, resize_and_crop, resized_size

FILTERS = sorted(resize.RADIUS)


def pixels_of(width: int, height: int, seed: int, harsh: bool = False) -> np.ndarray:
    """Noise, which reveals any error in a filter; ``harsh``: only black and white, where bicubic overshoots and is clipped."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return (noise > 127).astype(np.uint8) * 255 if harsh else noise


def same(width: int, height: int, shorter: int, size: int, interpolation: str, seed: int = 0, harsh: bool = False) -> None:
    pixels = pixels_of(width, height, seed, harsh)
    by_pillow = resize_and_crop(Image.fromarray(pixels), shorter, size, interpolation)
    np.testing.assert_array_equal(resize_and_crop(pixels, shorter, size, interpolation), by_pillow)


@settings(max_examples=300)
@given(
    width=st.integers(1, 500),
    height=st.integers(1, 500),
    shorter=st.integers(1, 260),
    crop=st.floats(0, 1),
    interpolation=st.sampled_from(FILTERS),
    harsh=st.booleans(),
)
@example(width=1, height=1, shorter=224, crop=1, interpolation="bicubic", harsh=True)
@example(width=1, height=500, shorter=64, crop=1, interpolation="bicubic", harsh=False)
@example(width=500, height=1, shorter=64, crop=1, interpolation="bilinear", harsh=False)
@example(width=224, height=300, shorter=224, crop=0.9, interpolation="bicubic", harsh=False)  # nothing to resize
def test_equals_pillow(width: int, height: int, shorter: int, crop: float, interpolation: str, harsh: bool) -> None:
    full_width, full_height = resized_size(width, height, shorter)
    if full_width * full_height <= 2**21:  # larger ones only take longer
        same(width, height, shorter, max(1, round(crop * shorter)), interpolation, harsh=harsh)


def test_equals_pillow_for_thousands_of_sizes() -> None:
    draw = np.random.default_rng(1)
    for number in range(3000):
        width, height = (int(side) for side in np.exp(draw.uniform(0, np.log(300), 2)))
        shorter = int(np.exp(draw.uniform(0, np.log(120))))
        if np.prod(resized_size(width, height, shorter)) <= 2**18:
            same(width, height, shorter, int(draw.integers(1, shorter + 1)), FILTERS[number % 2], number, number % 3 == 0)


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(("width", "height"), [(1920, 1080), (1080, 1920), (4001, 33), (5, 3001), (1281, 719)])
def test_equals_pillow_for_frames_and_strips(width: int, height: int, interpolation: str) -> None:
    same(width, height, 32 if min(width, height) < 100 else 256, 30 if min(width, height) < 100 else 224, interpolation)


@pytest.mark.parametrize("interpolation", FILTERS)
def test_equals_pillow_where_the_sums_need_double_precision(interpolation: str) -> None:
    """So many taps that float32 could no longer hold a sum: shown by the bands, not supposed."""
    side = 6000
    [band, *_] = resize._bands(side, 2, 0, 2, interpolation)
    assert band.weights.dtype == np.float64
    same(side, 64, 2, 2, interpolation, harsh=True)
    same(64, side, 2, 1, interpolation)


@given(n=st.integers(1, 4000), m=st.integers(1, 300), interpolation=st.sampled_from(FILTERS))
def test_no_sum_leaves_what_its_type_holds_exactly(n: int, m: int, interpolation: str) -> None:
    for band in resize._bands(n, m, 0, m, interpolation):
        assert 255 * np.abs(band.weights.astype(np.float64)).sum(axis=0).max() < resize.EXACT[band.weights.dtype.type]


def test_images_without_a_decoder_are_told_from_others() -> None:
    contract = {"size": 8, "resize": 8, "interpolation": "bilinear"}
    good = pixels_of(9, 8, 0)
    assert prepare_pixels(good, contract).shape == (8, 8, 3)
    for bad in (good[..., 0], good[..., :2], good.astype(np.float32), good[:0]):
        with pytest.raises(BadImage, match="was expected"):
            prepare_pixels(bad, contract)


def test_it_is_loaded_without_pillow(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['PIL'] = None; sys.modules['cv2'] = None\n"
        "import numpy as np, io\n"
        "from tlexport.device import errors; from tlexport.device.inputs import image\n"
        "print(image.resize_and_crop(np.zeros((5, 9, 3), np.uint8), 4, 4, 'bicubic').shape)\n"
        "try: image.decode(io.BytesIO(b'x'), (0, 0, 0))\n"
        "except errors.MissingDependency as error: print(error.message)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[0] == "(4, 4, 3)", done.stderr
    assert "Pillow or OpenCV" in done.stdout

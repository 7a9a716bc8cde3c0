"""Memory of decoding: bounded for all threads together, with the same pixels as without the bound."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import images
import numpy as np
import pytest
from commands import environment
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tlexport.data.pixel_budget import PixelBudget
from tlexport.device.inputs.decode_pillow import decoded_pixels
from tlexport.device.inputs.image import decode

PEAK = """
import json, resource, sys
import tlexport.data.decode as module
from tlexport.contract import Preprocess
from tlexport.data.source import read_source
module.IN_FLIGHT = 10 * 10**6
listing, preprocess = read_source(sys.argv[1]), Preprocess(size=32, resize=32)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
module.decode_all(listing, preprocess, None, 8, lambda amount: None)
print(json.dumps((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024))
"""


@given(st.lists(st.integers(0, 30), min_size=1, max_size=40))
def test_threads_hold_no_more_than_the_budget_or_one_image(sizes: list[int]) -> None:
    budget, lock, held, most = PixelBudget(20), threading.Lock(), [0], [0]

    def work(size: int) -> int:
        with budget.hold(size):
            with lock:
                held[0] += size
                most[0] = max(most[0], held[0])
            with lock:
                held[0] -= size
        return size

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, sizes)) == sizes
    assert most[0] <= max(20, *sizes, 0)


def test_an_error_gives_its_pixels_back() -> None:
    budget = PixelBudget(10)
    for _ in range(3):
        with pytest.raises(ValueError, match="bad"), budget.hold(8):
            raise ValueError("bad")
    with budget.hold(10):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss differs")
def test_eight_threads_do_not_hold_eight_large_images(tmp_path: Path) -> None:
    large = Image.new("RGBA", (3000, 3000), (10, 200, 30, 128))
    data = images.encoded(large, "PNG", compress_level=1)
    for name in "ab":
        images.write(tmp_path / name, {f"{number}.png": data + b"%d" % number for number in range(3)})
    done = subprocess.run([sys.executable, "-c", PEAK, tmp_path], env=environment(), capture_output=True, encoding="utf-8", check=True)
    one = large.width * large.height * 8  # stored, and laid over its background
    assert json.loads(done.stdout) < 2.5 * one


def test_the_pixels_of_a_header(tmp_path: Path) -> None:
    photo = images.encoded(Image.fromarray(images.scene(800, 600)), "JPEG")
    assert decoded_pixels(photo, 0) == 480_000
    assert decoded_pixels(photo, 100) == 480_000 / 16
    assert {decoded_pixels(data, 0) for name, data in images.bad().items() if name in ("text.jpg", "bomb.png", "empty.jpg")} == {0}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_large_transparent_image_is_the_same_in_bands(mode: str) -> None:
    random = np.random.default_rng(0)
    values = random.integers(0, 256, (1300, 1700, 4), dtype=np.uint8)
    if mode == "P":
        image = Image.fromarray(values[..., 0]).convert("P")
        data = images.encoded(image, "PNG", transparency=bytes(range(256)))
    else:
        image = Image.fromarray(values if mode == "RGBA" else values[..., :2].copy(), mode=None)
        data = images.encoded(image, "PNG")
    found = np.asarray(decode(io.BytesIO(data), (10, 100, 200)))
    rgba = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA")).astype(int)
    alpha = rgba[..., 3:]
    expected = (2 * (rgba[..., :3] * alpha + np.array([10, 100, 200]) * (255 - alpha)) + 255) // 510
    np.testing.assert_array_equal(found, expected)

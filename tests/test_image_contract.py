"""The reference implementation, compared with the document's formulas and torchvision, and on damaged files."""

from __future__ import annotations

import io
import json
import math
import threading
import warnings
from pathlib import Path

import images
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from tlexport.contract import Preprocess
from tlexport.device.inputs.decoding import BadImage
from tlexport.device.inputs.image import decode, prepare, resize_and_crop

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
WHITE = (255, 255, 255)
GOOD = images.good()
BAD = images.bad()
SCENE = images.scene()


def pixels(data: bytes, background: tuple[int, int, int] = WHITE) -> np.ndarray:
    """Decoded pixels (height, width, channel), wide enough for arithmetic."""
    return np.asarray(decode(io.BytesIO(data), background)).astype(np.int64)


def div255(x: np.ndarray) -> np.ndarray:
    return (2 * x + 255) // 510


# ---- decoding ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["rgb.png", "rgb.bmp", "rgb.ppm", "animated.webp", "two_pages.tif", *(f"exif_{value}.png" for value in range(1, 9))],
)
def test_lossless_files_give_the_scene(name: str) -> None:
    np.testing.assert_array_equal(pixels(GOOD[name]), SCENE)


def test_the_first_frame_of_a_gif() -> None:
    first = Image.fromarray(SCENE).quantize(64).convert("RGB")
    np.testing.assert_array_equal(pixels(GOOD["animated.gif"]), np.asarray(first))


@pytest.mark.parametrize("name", sorted(GOOD))
def test_every_odd_image_becomes_a_square_of_bytes(name: str) -> None:
    square = prepare(io.BytesIO(GOOD[name]), Preprocess(size=32, resize=36).model_dump())
    assert square.shape == (32, 32, 3)
    assert square.dtype == np.uint8


@pytest.mark.parametrize("value", range(1, 9))
def test_exif_orientation_follows_the_table(value: int) -> None:
    stored = pixels(GOOD["exif_1.jpg"])
    height, width = stored.shape[:2]
    source = {  # the document's table: row and column of the stored image for row y and column x of the upright one
        1: lambda y, x: (y, x),
        2: lambda y, x: (y, width - 1 - x),
        3: lambda y, x: (height - 1 - y, width - 1 - x),
        4: lambda y, x: (height - 1 - y, x),
        5: lambda y, x: (x, y),
        6: lambda y, x: (height - 1 - x, y),
        7: lambda y, x: (height - 1 - x, width - 1 - y),
        8: lambda y, x: (x, width - 1 - y),
    }[value]
    y, x = np.indices((width, height) if value > 4 else (height, width))
    np.testing.assert_array_equal(pixels(GOOD[f"exif_{value}.jpg"]), stored[source(y, x)])


@pytest.mark.parametrize("value", range(1, 9))
def test_orientation_of_a_tiff(value: int) -> None:
    exif = Image.Exif()
    exif[images.ORIENTATION] = value
    png = pixels(images.encoded(Image.fromarray(SCENE), "PNG", exif=exif))
    tiff = pixels(images.encoded(Image.fromarray(SCENE), "TIFF", exif=exif))
    np.testing.assert_array_equal(tiff, png)


def test_an_orientation_that_does_not_exist_leaves_the_image() -> None:
    exif = Image.Exif()
    exif[images.ORIENTATION] = 9
    np.testing.assert_array_equal(pixels(images.encoded(Image.fromarray(SCENE), "PNG", exif=exif)), SCENE)


@pytest.mark.parametrize("block", [b"II*\0 this is no directory of tags", b"not even its header"])
def test_a_damaged_exif_block_leaves_the_image(block: bytes) -> None:
    data = images.encoded(Image.fromarray(SCENE), "PNG", exif=b"Exif\0\0" + block)
    np.testing.assert_array_equal(pixels(data), SCENE)


@pytest.mark.parametrize("name", ["grey16.png", "grey16.tif", "grey16.pgm"])
def test_16_bit_grey_is_rounded_to_8(name: str) -> None:
    stored = np.linspace(0, 65535, SCENE.shape[0] * SCENE.shape[1]).reshape(SCENE.shape[:2]).astype(np.uint16)
    exact = np.array([math.floor(value * 255 / 65535 + 0.5) for value in stored.ravel().tolist()]).reshape(stored.shape)
    np.testing.assert_array_equal(pixels(GOOD[name]), np.repeat(exact[..., None], 3, axis=2))


def test_every_16_bit_grey_value() -> None:
    every = np.arange(65536).reshape(256, 256)
    decoded = pixels(images.encoded(Image.fromarray(every.astype(np.uint16)), "PNG"))
    np.testing.assert_array_equal(decoded[..., 0], np.floor(every * 255 / 65535 + 0.5))


def test_a_transparent_16_bit_grey_value_shows_the_background() -> None:
    stored = np.array([[0, 1000], [1001, 65535]], dtype=np.uint16)
    decoded = pixels(images.encoded(Image.fromarray(stored), "PNG", transparency=1000), (10, 20, 30))
    assert decoded.tolist() == [[[0, 0, 0], [10, 20, 30]], [[4, 4, 4], [255, 255, 255]]]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_transparent_colour_shows_the_background(mode: str) -> None:
    stored = Image.fromarray(np.array([[7, 8]], dtype=np.uint8)).convert(mode)
    data = images.encoded(stored, "PNG", transparency=7 if mode == "L" else (7, 7, 7))
    assert pixels(data, (10, 20, 30)).tolist() == [[[10, 20, 30], [8, 8, 8]]]


def test_transparency_is_laid_over_the_background_for_every_colour_and_alpha() -> None:
    alpha, colour = np.indices((256, 256))
    rgba = np.dstack([colour, 255 - colour, colour // 2, alpha]).astype(np.uint8)
    background = (255, 0, 77)
    expected = div255(rgba[..., :3].astype(np.int64) * alpha[..., None] + np.array(background) * (255 - alpha[..., None]))
    np.testing.assert_array_equal(pixels(images.encoded(Image.fromarray(rgba), "PNG"), background), expected)


@pytest.mark.parametrize("name", ["rgba.png", "rgba.webp", "la.png", "palette_one_transparent.png", "palette_alphas.png"])
def test_files_with_transparency(name: str) -> None:
    rgba = np.asarray(Image.open(io.BytesIO(GOOD[name])).convert("RGBA")).astype(np.int64)
    alpha = rgba[..., 3:]
    assert alpha.min() < 255
    expected = div255(rgba[..., :3] * alpha + np.array([9, 99, 199]) * (255 - alpha))
    np.testing.assert_array_equal(pixels(GOOD[name], (9, 99, 199)), expected)


def test_one_bit_and_grey() -> None:
    assert set(np.unique(pixels(GOOD["one_bit.png"]))) == {0, 255}
    grey = np.asarray(Image.fromarray(SCENE).convert("L"))
    np.testing.assert_array_equal(pixels(GOOD["grey.png"]), np.repeat(grey[..., None], 3, axis=2))


def test_16_bit_colour_keeps_the_high_byte() -> None:
    values = np.random.default_rng(3).integers(0, 65536, (5, 4, 3))
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    np.testing.assert_array_equal(pixels(images.handmade_png(4, 5, 16, 2, raw)), values // 256)


def test_cmyk_by_the_formula() -> None:
    ink, black = np.indices((256, 256))
    cmyk = np.dstack([ink, 255 - ink, ink // 3, black]).astype(np.uint8)
    data = images.encoded(_cmyk(cmyk), "TIFF")
    white = 255 - black[..., None]
    np.testing.assert_array_equal(pixels(data), white - div255(cmyk[..., :3].astype(np.int64) * white))


def _cmyk(values: np.ndarray) -> Image.Image:
    return Image.merge("CMYK", [Image.fromarray(values[..., channel].copy()) for channel in range(4)])


def test_a_cmyk_jpeg_is_not_inverted() -> None:
    smooth = Image.fromarray(SCENE).resize((8, 8)).resize((64, 64), Image.Resampling.BICUBIC).convert("CMYK")
    decoded = pixels(images.encoded(smooth, "JPEG", quality=98, subsampling=0))
    assert np.abs(decoded - np.asarray(smooth.convert("RGB"))).max() <= 12  # error of the compression; inverted, it is over 100


# ---- what is refused ---------------------------------------------------------------------------------------------------------

REASONS = {
    "truncated.jpg": "truncated",
    "truncated.png": "truncated",
    "empty.jpg": "empty",
    "text.jpg": "not recognised as an image",
    "bomb.png": "too large",
    "postscript.jpg": "not recognised as an image",
    "floats.tif": "floating-point",
    "beyond_16_bit.tif": "from 0 to 70000",
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_files_are_refused_with_the_reason(name: str) -> None:
    with pytest.raises(BadImage, match=REASONS[name]) as caught:
        decode(io.BytesIO(BAD[name]), WHITE)
    assert "0x" not in str(caught.value)  # no address of a Python object in a user's message


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadImage, match="cannot be read: No such file"):
        decode(tmp_path / "none.png", WHITE)


def test_our_limit_holds_where_pillow_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(BadImage, match="30000 x 30000 pixels, at most 178956970"):
        decode(io.BytesIO(BAD["bomb.png"]), WHITE)


@settings(unhurried, max_examples=300)
@given(data=st.data())
def test_damage_gives_an_image_or_a_reason_and_nothing_else(data: st.DataObject) -> None:
    file = bytearray(GOOD[data.draw(st.sampled_from(sorted(GOOD)))])
    for _ in range(data.draw(st.integers(0, 6))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    file = file[: data.draw(st.integers(0, len(file)) | st.just(len(file)))]
    try:
        image = decode(io.BytesIO(bytes(file)), WHITE)
    except BadImage as reason:
        assert str(reason)
    else:
        assert image.mode == "RGB"


def test_pillows_warnings_do_not_leak_and_filters_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    data = GOOD["rgb.png"]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SCENE.shape[0] * SCENE.shape[1] - 1)
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(io.BytesIO(data))
    before = list(warnings.filters)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(40):
                decode(io.BytesIO(data), WHITE)
        except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert warnings.filters == before


# ---- resizing and cropping ---------------------------------------------------------------------------------------------------


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), dtype=np.uint8))


def with_torchvision(image: Image.Image, resize: int, size: int, interpolation: str) -> np.ndarray:
    mode = v2.InterpolationMode(interpolation)
    return np.asarray(v2.Compose([v2.Resize(resize, interpolation=mode, antialias=True), v2.CenterCrop(size)])(image))


def with_torchvision_x_first(image: Image.Image, resize: int, size: int, interpolation: str) -> np.ndarray:
    mode = v2.InterpolationMode(interpolation)
    width, height = v2.Resize(resize, interpolation=mode)(image).size
    steps = [v2.Resize([image.height, width], mode), v2.Resize([height, width], mode), v2.CenterCrop(size)]
    return np.asarray(v2.Compose(steps)(image))


def one_direction(lines: np.ndarray, length: int, interpolation: str) -> np.ndarray:
    """The document's formulas along the first axis of (position, anything...)."""
    n = len(lines)
    if n == length:
        return lines

    def f(x: float) -> float:
        t = abs(x)
        if interpolation == "bilinear":
            return 1 - t if t < 1 else 0.0
        if t < 1:
            return (1.5 * t - 2.5) * t * t + 1
        return -0.5 * (((t - 5) * t + 8) * t - 4) if t < 2 else 0.0

    scale = n / length
    stretch = max(scale, 1.0)
    support = {"bilinear": 1, "bicubic": 2}[interpolation] * stretch
    out = np.empty((length, *lines.shape[1:]), dtype=np.int64)
    for i in range(length):
        center = (i + 0.5) * scale
        first, last = max(int(center - support + 0.5), 0), min(int(center + support + 0.5), n)
        k = [f((x + first - center + 0.5) * (1 / stretch)) for x in range(last - first)]
        total = sum(k)
        q = np.array([int(value / total * 2**22 + (0.5 if value >= 0 else -0.5)) for value in k])
        out[i] = np.clip((2**21 + np.tensordot(q, lines[first:last], axes=1)) >> 22, 0, 255)
    return out


def by_the_document(image: Image.Image, resize: int, size: int, interpolation: str) -> np.ndarray:
    w, h = image.size
    new_w, new_h = (resize, resize * h // w) if w <= h else (resize * w // h, resize)
    source = np.asarray(image).astype(np.int64)
    wide = one_direction(source.swapaxes(0, 1), new_w, interpolation).swapaxes(0, 1)
    resized = one_direction(wide, new_h, interpolation)
    left, top = ((d + (d // 2) % 2) // 2 for d in (new_w - size, new_h - size))
    return resized[top : top + size, left : left + size]


shapes = st.tuples(st.integers(1, 600), st.integers(1, 600))
interpolations = st.sampled_from(["bilinear", "bicubic"])


@settings(unhurried, max_examples=120)
@given(shape=shapes, resize=st.integers(8, 80), crop=st.floats(0, 1), interpolation=interpolations)
@example(shape=(1, 1), resize=80, crop=0.9, interpolation="bicubic")
@example(shape=(1, 600), resize=33, crop=0.5, interpolation="bilinear")
@example(shape=(600, 1), resize=33, crop=0.5, interpolation="bicubic")
@example(shape=(64, 64), resize=64, crop=1.0, interpolation="bilinear")
def test_equal_to_torchvision_to_the_pixel(shape: tuple[int, int], resize: int, crop: float, interpolation: str) -> None:
    image = noise(*shape)
    size = max(1, round(crop * resize))
    ours = resize_and_crop(image, resize, size, interpolation)
    np.testing.assert_array_equal(ours, with_torchvision_x_first(image, resize, size, interpolation))
    if shape[1] <= 2 * shape[0]:  # Pillow 13 filters taller images along y first when they shrink
        np.testing.assert_array_equal(ours, with_torchvision(image, resize, size, interpolation))


@pytest.mark.parametrize("shape", [(640, 480), (333, 517), (75, 100), (2000, 31)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_equal_to_torchvision_at_the_usual_size(shape: tuple[int, int], interpolation: str) -> None:
    image = noise(*shape)
    np.testing.assert_array_equal(resize_and_crop(image, 256, 224, interpolation), with_torchvision(image, 256, 224, interpolation))


@settings(unhurried, max_examples=60)
@given(shape=st.tuples(st.integers(1, 90), st.integers(1, 90)), resize=st.integers(8, 40), interpolation=interpolations)
def test_equal_to_the_documents_formulas(shape: tuple[int, int], resize: int, interpolation: str) -> None:
    image = noise(*shape)
    np.testing.assert_array_equal(resize_and_crop(image, resize, 8, interpolation), by_the_document(image, resize, 8, interpolation))


@pytest.mark.parametrize("shape", [(1, 20000), (20000, 1)])
def test_an_extreme_strip_is_refused_before_it_takes_memory(shape: tuple[int, int]) -> None:
    with pytest.raises(BadImage, match="too narrow"):
        resize_and_crop(noise(*shape), 256, 224, "bilinear")


def test_a_crop_larger_than_the_image_and_an_unknown_filter_are_errors() -> None:
    with pytest.raises(ValueError, match="size 40 exceeds resize 32"):
        resize_and_crop(noise(9, 9), 32, 40, "bilinear")
    with pytest.raises(ValueError, match="'nearest' is not one of bilinear, bicubic"):
        resize_and_crop(noise(9, 9), 32, 32, "nearest")


def test_prepare_reads_the_record_as_json(tmp_path: Path) -> None:
    record = Preprocess(size=24, resize=28, interpolation="bicubic", background=(1, 2, 3))
    path = images.write(tmp_path, {"rgba.png": GOOD["rgba.png"]})[0]
    expected = resize_and_crop(decode(path, (1, 2, 3)), 28, 24, "bicubic")
    np.testing.assert_array_equal(prepare(path, json.loads(record.model_dump_json())), expected)

"""Formats of phones and drones: MPO is read as its first picture; AVIF and HEIC are read, or refused with a remedy."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import images
import numpy as np
import pytest
from PIL import Image, features

from tlexport.contract import Preprocess
from tlexport.data.decode import decode_all
from tlexport.data.source import read_source
from tlexport.device.inputs import decode_pillow
from tlexport.device.inputs.decoding import BadImage, special_format
from tlexport.device.inputs.image import decode
from tlexport.device.inputs.image_files import EXTENSIONS, is_image
from tlexport.export.write_bundle import golden_positions

WHITE = (255, 255, 255)
FIRST = Image.fromarray(images.scene(320, 240))
SECOND = Image.fromarray(images.scene(320, 240, seed=9)[::-1].copy())
HEIC_START = b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf"


def mpo(orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[images.ORIENTATION] = orientation
    return images.encoded(FIRST, "MPO", save_all=True, append_images=[SECOND], quality=95, exif=exif)


def jpeg(orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[images.ORIENTATION] = orientation
    return images.encoded(FIRST, "JPEG", quality=95, exif=exif)


def pixels(data: bytes, at_least: int = 0) -> np.ndarray:
    return np.asarray(decode(io.BytesIO(data), WHITE, at_least))


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("at_least", [0, 60])
def test_an_mpo_is_read_as_its_first_picture(orientation: int, at_least: int) -> None:
    assert Image.open(io.BytesIO(mpo())).format == "MPO"
    np.testing.assert_array_equal(pixels(mpo(orientation), at_least), pixels(jpeg(orientation), at_least))


@pytest.mark.parametrize("behind", [b"", b"\0" * 10_000, b"\0\0\0\x18ftypmp42" + b"film" * 5_000])
def test_what_lies_behind_a_jpeg_does_not_matter(behind: bytes) -> None:
    np.testing.assert_array_equal(pixels(jpeg() + behind), pixels(jpeg()))


@pytest.mark.parametrize("orientation", [1, 6])
def test_opencv_reads_the_same_files(orientation: int) -> None:
    pytest.importorskip("cv2")
    from tlexport.device.inputs import decode_opencv

    for data in (mpo(orientation), jpeg(orientation), jpeg(orientation) + b"\0" * 10_000):
        found = decode_opencv.decode(data, WHITE).astype(int)
        assert np.abs(found - pixels(data)).mean() < 2  # levels; another libjpeg
    for data, reason in ((jpeg()[:-300], "cut short"), (HEIC_START, "HEIC cannot be read here"), (b"no image", "not recognised")):
        with pytest.raises(BadImage, match=reason):
            decode_opencv.decode(data, WHITE)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow is built without AVIF")
@pytest.mark.parametrize("orientation", [1, 6])
def test_avif(orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[images.ORIENTATION] = orientation
    data = images.encoded(FIRST, "AVIF", quality=95, exif=exif)
    assert np.abs(pixels(data).astype(int) - pixels(jpeg(orientation))).mean() < 6
    with pytest.raises(BadImage, match="damaged"):
        pixels(data[: len(data) // 2])
    monkeypatch.setattr("PIL.AvifImagePlugin.SUPPORTED", False)
    decode_pillow._reads.cache_clear()
    with pytest.raises(BadImage, match=r"AVIF cannot be read here: pip install 'Pillow>=11.3', or convert the file"):
        pixels(data)
    decode_pillow._reads.cache_clear()


def test_heic_without_its_reader_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    decode_pillow._reads.cache_clear()
    with pytest.raises(BadImage, match="HEIC cannot be read here: pip install pillow-heif, or convert the file to JPEG or PNG"):
        pixels(HEIC_START)
    decode_pillow._reads.cache_clear()


def test_heic() -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    data = images.encoded(FIRST, "HEIF", quality=95)
    assert special_format(data) == "HEIC"
    assert np.abs(pixels(data).astype(int) - pixels(jpeg())).mean() < 6
    with pytest.raises(BadImage, match="damaged"):
        pixels(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (HEIC_START, "HEIC"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "AVIF"),
        (b"\0\0\0\x18ftypmsf1\0\0\0\0heix", "HEIC"),
        (b"\0\0\0\x18ftypisom\0\0\0\0mp42", ""),
        (b"\xff\x0a123", "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n", "JPEG 2000"),
        (b"\0\0", ""),
        (b"\xff\xff\xff\xffftyp", ""),
    ],
)
def test_special_formats_are_known_by_their_start(start: bytes, name: str) -> None:
    assert special_format(start) == name
    with pytest.raises(BadImage, match=f"{name} cannot be read here|damaged" if name else "not recognised|damaged"):
        pixels(start)


def test_photos_of_phones_are_listed_and_each_unreadable_one_is_named(tmp_path: Path) -> None:
    images.class_folders(tmp_path, {"cat": 20, "dog": 20})
    images.write(tmp_path / "cat", {"drone.MPO": mpo(), "drone.jpg": mpo(), "phone.HEIC": HEIC_START})
    listing = read_source(str(tmp_path))
    assert len(listing.entries) == 43
    result = decode_all(listing, Preprocess(size=16, resize=18), None, 1, lambda amount: None)
    assert [path for path, _ in result.bad] == ["cat/phone.HEIC"]
    assert "HEIC" in result.bad[0][1] or "HEIF" in result.bad[0][1]


def test_image_names() -> None:
    assert all(is_image(f"a{extension.upper()}") and is_image(f"a{extension}") for extension in EXTENSIONS)
    assert not any(map(is_image, ["._1.jpg", ".hidden.png", "a.txt", "jpg", "a.jpg.part", "Thumbs.db"]))


def test_golden_images_are_those_that_every_device_decodes() -> None:
    paths = ["a.heic", "b.jpg", "c.AVIF", "d.png", "e.jpg"]
    assert golden_positions([0, 0, 1, 1, 0], paths)[:3] == [1, 3, 4]
    assert golden_positions([0], ["a.heic"]) == [0]

"""Decoding a listing: order, hashes, unreadable files."""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

import images
import numpy as np
import pytest
from PIL import Image

from tlexport.contract import Preprocess
from tlexport.data.decode import Decoded, decode_all, decode_files, exact_pixels
from tlexport.data.source import Listing, read_source
from tlexport.dataset import Sample
from tlexport.device.inputs.image import prepare
from tlexport.errors import InvalidFile, StepFailed
from tlexport.storage.cache import ArrayCache
from tlexport.storage.files import sha256_of

SMALL = Preprocess(size=16, resize=18)


def silent(amount: int) -> None:
    """No progress."""


def mixed(root: Path, good: int, bad: int) -> Listing:
    """Class folders with so many images in all, the bad ones in the first class."""
    images.class_folders(root, {"cat": good // 2, "dog": good - good // 2})
    images.write(root / "cat", {f"bad{number}.jpg": b"no image" for number in range(bad)})
    return read_source(str(root))


def decoded(listing: Listing, on_error: str | None = None, threads: int = 2) -> Decoded:
    return decode_all(listing, SMALL, on_error, threads, silent)  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", [1, 4])
def test_every_odd_image_lands_in_its_row(tmp_path: Path, threads: int) -> None:
    images.write(tmp_path / "odd", images.good())
    images.class_folders(tmp_path, {"plain": 3})
    listing = read_source(str(tmp_path))
    result = decoded(listing, "fail", threads)
    assert result.listing == listing
    assert result.pixels.dtype == np.uint8
    assert result.pixels.shape == (len(images.good()) + 3, 16, 16, 3)
    for entry, pixels, digest in zip(listing.entries, result.pixels, result.sha256, strict=True):
        np.testing.assert_array_equal(pixels, prepare(listing.file(entry), SMALL.model_dump()), err_msg=entry.path)
        assert digest == sha256_of(listing.file(entry))


def test_the_background_of_the_contract_is_used(tmp_path: Path) -> None:
    images.write(tmp_path, {"clear.png": images.good()["rgba.png"]})
    blue, _ = decode_files([tmp_path / "clear.png"], SMALL.model_copy(update={"background": (0, 0, 255)}))
    white, _ = decode_files([tmp_path / "clear.png"], SMALL)
    assert blue[0, :, 0, 0].max() < 30 < white[0, :, 0, 0].min()  # the left edge is transparent; its red is the background's


def test_progress_moves_on_by_one_for_each_file(tmp_path: Path) -> None:
    seen: list[int] = []
    decode_all(mixed(tmp_path, 20, 1), SMALL, None, 3, seen.append)
    assert seen == [1] * 21


def test_an_error_in_progress_stops_the_work(tmp_path: Path) -> None:
    def interrupt(amount: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode_all(mixed(tmp_path, 20, 0), SMALL, None, 2, interrupt)


def test_bad_files_up_to_5_percent_are_left_out(tmp_path: Path) -> None:
    result = decoded(mixed(tmp_path, 38, 2))
    assert [path for path, _ in result.bad] == ["cat/bad0.jpg", "cat/bad1.jpg"]
    assert all("not recognised as an image" in reason for _, reason in result.bad)
    assert len(result.listing.entries) == len(result.pixels) == len(result.sha256) == 38
    for entry, pixels, digest in zip(result.listing.entries, result.pixels, result.sha256, strict=True):
        data = result.listing.file(entry).read_bytes()
        assert digest == hashlib.sha256(data).hexdigest()
        np.testing.assert_array_equal(pixels, prepare(result.listing.file(entry), SMALL.model_dump()))


def test_more_than_5_percent_are_an_error_that_names_the_way_out(tmp_path: Path) -> None:
    listing = mixed(tmp_path, 38, 3)
    with pytest.raises(InvalidFile) as caught:
        decoded(listing)
    assert "3 of 41 images cannot be used (more than 5%)" in caught.value.message
    assert "cat/bad2.jpg: not recognised as an image" in caught.value.message
    assert "--on-error skip" in caught.value.hint
    assert len(decoded(listing, "skip").bad) == 3


def test_fail_takes_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="1 of 100 images cannot be used"):
        decoded(mixed(tmp_path, 99, 1), "fail")


def test_ten_bad_files_are_named_and_the_others_counted(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile) as caught:
        decoded(mixed(tmp_path, 20, 14))
    assert caught.value.message.count("not recognised") == 10
    assert caught.value.message.endswith("and 4 more")


def test_each_kind_of_bad_file_has_its_reason(tmp_path: Path) -> None:
    images.class_folders(tmp_path, {"cat": 2, "dog": 2})
    images.write(tmp_path / "dog", images.bad())
    (tmp_path / "dog" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    bad = dict(decoded(read_source(str(tmp_path)), "skip").bad)
    assert set(bad) == {f"dog/{name}" for name in (*images.bad(), "gone.png")}
    assert "empty" in bad["dog/empty.jpg"]
    assert "truncated" in bad["dog/truncated.jpg"]
    assert "No such file" in bad["dog/gone.png"]


@pytest.mark.parametrize("part", ["", "train/"])
def test_a_class_that_lost_all_its_training_images_is_an_error(tmp_path: Path, part: str) -> None:
    images.class_folders(tmp_path / part, {"cat": 2, "dog": 2})
    images.write(tmp_path / part / "bird", {"x.jpg": b"", "y.jpg": b"no image"})
    if part:
        images.class_folders(tmp_path / "val", {"cat": 1, "bird": 2})
    with pytest.raises(InvalidFile) as caught:
        decoded(read_source(str(tmp_path)), "skip")
    assert "no training image is left of bird" in caught.value.message
    assert f"{part}bird/x.jpg: the file is empty" in caught.value.message


def test_rows_of_samples(tmp_path: Path) -> None:
    result = decoded(mixed(tmp_path, 6, 0))
    picked = [result.listing.entries[index] for index in (4, 0, 2)]
    samples = [Sample(path=entry.path, label=entry.label, part="train", sha256="") for entry in picked]
    assert result.rows(samples).tolist() == [4, 0, 2]
    assert result.rows([]).shape == (0,)
    assert result.pixels[result.rows([])].shape == (0, 16, 16, 3)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a process to RLIMIT_AS")
def test_too_many_pixels_for_the_memory(tmp_path: Path) -> None:
    import resource

    listing = mixed(tmp_path, 4, 0)
    many = Listing("", tmp_path, listing.classes, listing.entries * 100, 0, ())
    in_use = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (in_use + 10**9, before[1]))
    try:
        with pytest.raises(StepFailed, match=r"400 images of 2048 x 2048 pixels need 5\.03 GB of memory"):
            decode_all(many, Preprocess(size=2048, resize=2048), None, 1, silent)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_decode_files_keeps_order_and_reports_the_bad(tmp_path: Path) -> None:
    good = images.write(tmp_path, {name: images.good()[name] for name in ("cmyk.jpg", "exif_6.jpg", "grey16.png")})
    bad = images.write(tmp_path, {"bad.jpg": images.bad()["truncated.jpg"]})
    pixels, reasons = decode_files([good[2], bad[0], tmp_path / "none.jpg", good[0], good[1]], SMALL)
    assert [path for path, _ in reasons] == [str(bad[0]), str(tmp_path / "none.jpg")]
    expected = [prepare(path, SMALL.model_dump()) for path in (good[2], good[0], good[1])]
    np.testing.assert_array_equal(pixels, np.stack(expected))


def test_inputs_are_not_changed(tmp_path: Path) -> None:
    listing = mixed(tmp_path / "data", 6, 1)
    shutil.copytree(tmp_path / "data", tmp_path / "before")
    decoded(listing, "skip")
    files = sorted(path.relative_to(tmp_path / "before") for path in (tmp_path / "before").rglob("*.*"))
    assert files == sorted(path.relative_to(tmp_path / "data") for path in (tmp_path / "data").rglob("*.*"))
    assert all((tmp_path / "before" / file).read_bytes() == (tmp_path / "data" / file).read_bytes() for file in files)


@pytest.mark.parametrize("kept", [True, False])
def test_large_jpegs_are_reduced_for_training_and_exact_for_validation(tmp_path: Path, kept: bool) -> None:
    large, small = (Image.fromarray(images.scene(side * 8, side * 5)) for side in (40, 8))
    for part, name in ((part, name) for part in ("train", "val") for name in "ab"):
        files = {"large.jpg": images.encoded(large, "JPEG"), "large.png": images.encoded(large, "PNG")}
        images.write(tmp_path / "data" / part / name, files | {"small.jpg": images.encoded(small, "JPEG")})
    listing = read_source(str(tmp_path / "data"))
    cache = ArrayCache(tmp_path / "cache" if kept else None, 10**8)
    exact = np.stack([prepare(listing.file(entry), SMALL.model_dump()) for entry in listing.entries]).astype(int)
    for _ in range(2):  # the second time from the cache
        pixels = decode_all(listing, SMALL, None, 2, silent, cache, reduced=True).pixels
        off = np.abs(pixels - exact)
        for entry, amount in zip(listing.entries, off, strict=True):
            if entry.part == "train" and entry.path.endswith("large.jpg"):
                assert 0 < amount.mean() < 3, entry.path  # levels of 255
            else:
                assert amount.max() == 0, entry.path
        np.testing.assert_array_equal(decode_all(listing, SMALL, None, 2, silent, cache).pixels, exact)
        chosen = [index for index, entry in enumerate(listing.entries) if entry.part == "train"]
        again = exact_pixels([listing.file(listing.entries[index]) for index in chosen], SMALL, 2, cache)
        assert again is not None
        np.testing.assert_array_equal(again, exact[chosen])
    untouched = [listing.file(entry) for entry in listing.entries if not entry.path.endswith("large.jpg")]
    assert exact_pixels(untouched, SMALL, 2, cache) is None

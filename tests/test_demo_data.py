"""The demo's digits as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tlexport.data.demo import digits_folder
from tlexport.errors import UsageError
from tlexport.storage.cache import cache_folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_folder(tmp_path_factory.mktemp("demo") / "digits")


def test_the_files_hold_scikit_learns_digits(digits: Path) -> None:
    from sklearn.datasets import load_digits

    truth = load_digits()
    paths = sorted(digits.glob("*/*.png"), key=lambda path: path.name)
    assert [path.name for path in paths] == [f"{number:04}.png" for number in range(1797)]
    assert [int(path.parent.name) for path in paths] == truth.target.tolist()
    with Image.open(paths[0]) as first:
        assert (first.mode, first.size) == ("L", (8, 8))
    # the grey values come back: value -> round(value * 255 / 16) can be undone
    read = np.stack([np.asarray(Image.open(path)) for path in paths])
    np.testing.assert_array_equal(np.round(read / 255 * 16), truth.images)
    assert (read.min(), read.max()) == (0, 255)


def test_a_complete_folder_is_reused(digits: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in digits.rglob("*")}
    assert digits_folder(digits) == digits
    assert {path: path.stat().st_mtime_ns for path in digits.rglob("*")} == before
    assert [path.name for path in digits.parent.iterdir()] == ["digits"]  # nothing temporary is left


def test_an_incomplete_folder_of_ours_is_made_again(tmp_path: Path) -> None:
    folder = digits_folder(tmp_path / "digits")
    lost = folder / "0" / "0000.png"
    lost.unlink()
    digits_folder(folder)
    assert lost.is_file()


def test_somebody_elses_folder_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "digits" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("keep", encoding="utf-8")
    with pytest.raises(UsageError, match="was not written by tlx"):
        digits_folder(mine.parent)
    assert [path.name for path in mine.parent.iterdir()] == ["mine.txt"]


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.delenv("TLX_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / "home" / ".cache" / "tlexport"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "tlexport"
    monkeypatch.setenv("TLX_CACHE", str(tmp_path / "chosen"))
    assert cache_folder() == tmp_path / "chosen"

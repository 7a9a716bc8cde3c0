"""The array cache: bounded, safe to share, and damaged entries are not used."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from commands import environment, here
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tlexport.errors import UsageError
from tlexport.storage.cache import ArrayCache, cache_folder, limit_from_environment, release


def array(fill: int, items: int = 100) -> np.ndarray:
    return np.full((items, 4), fill, dtype=np.float32)


def test_what_was_kept_comes_back_mapped_and_equal(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path / "cache", 10**6)
    cache.keep({"a": 1}, array(7))
    found = cache.get({"a": 1})
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, array(7))
    assert cache.get({"a": 2}) is None
    assert not found.flags.writeable


def test_without_a_folder_nothing_is_kept() -> None:
    cache = ArrayCache(None)
    cache.keep({"a": 1}, array(7))
    assert cache.get({"a": 1}) is None


def damage_truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def damage_flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1  # of a record: a digit of the hash
    path.write_bytes(bytes(data))


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [damage_truncate, damage_flip, damage_empty, Path.unlink])
@pytest.mark.parametrize("suffix", [".npy", ".json"])
def test_a_damaged_entry_counts_as_absent_and_can_be_kept_again(tmp_path: Path, damage: object, suffix: str) -> None:
    cache = ArrayCache(tmp_path, 10**6)
    cache.keep({"a": 1}, array(7))
    (path,) = tmp_path.glob(f"*{suffix}")
    damage(path)  # type: ignore[operator]
    assert cache.get({"a": 1}) is None
    cache.keep({"a": 1}, array(8))
    np.testing.assert_array_equal(cache.get({"a": 1}), array(8))


def test_the_least_recently_used_entries_go_first(tmp_path: Path) -> None:
    size = array(0).nbytes
    cache = ArrayCache(tmp_path, 3 * size + 600)  # .npy files have a header of 128 bytes
    for number in range(3):
        cache.keep({"number": number}, array(number))
        (newest,) = [p for p in tmp_path.glob("*.npy") if p.stat().st_mtime > 10**9 + 10]
        os.utime(newest, (10**9 + number, 10**9 + number))
    assert cache.get({"number": 0}) is not None  # used: no longer the oldest
    cache.keep({"number": 3}, array(3))
    assert cache.get({"number": 1}) is None
    assert [cache.get({"number": n}) is not None for n in (0, 2, 3)] == [True, True, True]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(1, 400), min_size=1, max_size=12))
def test_the_bound_holds_whatever_is_kept(tmp_path_factory: pytest.TempPathFactory, sizes: list[int]) -> None:
    folder, limit = tmp_path_factory.mktemp("cache"), 5000
    cache = ArrayCache(folder, limit)
    for number, items in enumerate(sizes):
        cache.keep({"number": number}, array(number, items))
        assert sum(path.stat().st_size for path in folder.glob("*.npy")) <= limit + 128


def test_an_array_above_the_bound_is_not_kept_and_evicts_nothing(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path, 2000)
    cache.keep({"small": 1}, array(1, 10))
    cache.keep({"large": 1}, array(1, 1000))
    assert cache.get({"large": 1}) is None
    assert cache.get({"small": 1}) is not None


def keep_many(folder: Path, fill: int) -> None:
    cache = ArrayCache(folder, 10**6)
    for _ in range(30):
        cache.keep({"shared": 1}, array(fill, 2000))
        found = cache.get({"shared": 1})
        if found is not None and len(set(found.ravel().tolist())) != 1:
            raise SystemExit(1)


def test_two_processes_that_share_it_never_see_half_an_entry(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=keep_many, args=(tmp_path, fill)) for fill in (1, 2)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0, 0]


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    cache = ArrayCache(file / "below", 10**6)
    cache.keep({"a": 1}, array(7))
    assert cache.get({"a": 1}) is None


def test_folder_and_bound_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TLX_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.setenv("TLX_CACHE_GB", "0.5")
    assert limit_from_environment() == 500_000_000
    monkeypatch.setenv("TLX_CACHE_GB", "0")
    assert limit_from_environment() == 0


@pytest.mark.parametrize("value", ["abc", "-1", "nan", "inf", "-inf", "1e300", "10GB"])
def test_a_bound_that_is_none_is_named(value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TLX_CACHE_GB", value)
    with pytest.raises(UsageError, match=f"TLX_CACHE_GB is '{value}'; expected a number of GB") as raised:
        ArrayCache(tmp_path)
    assert "TLX_CACHE_GB=20" in raised.value.hint
    ArrayCache(None)  # which keeps nothing, and so asks for no bound


def test_a_wrong_bound_is_an_error_of_a_command_and_none_of_its_help(
    digits: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("TLX_CACHE_GB", "abc")
    assert here(capfd, "finetune", "--help").code == 0
    ended = here(capfd, "finetune", digits, "--weights", "none", "--image-size", "32", "--epochs", "1", "-o", tmp_path / "run")
    assert ended.code == 2
    assert "error: TLX_CACHE_GB is 'abc'" in ended.err
    assert not list(tmp_path.iterdir())


def resident(path: Path) -> int:
    """Bytes of a file's mapping in this process's resident memory."""
    return sum(region.rss for region in psutil.Process().memory_maps() if region.path == str(path))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell which mapped pages are resident")
def test_a_draft_needs_no_memory_for_what_is_done(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path, 10**9)
    with cache.draft({"a": 1}, (64, 1000, 1000)) as draft:
        (file,) = tmp_path.glob("*.part")
        for number in range(64):
            draft.array[number] = number
        assert resident(file) >= 60 * 10**6
        release(draft.array)
        assert resident(file) < 10**6
        draft.keep()
    assert [int(image.min()) for image in draft.array] == [int(image.max()) for image in draft.array] == list(range(64))
    found = cache.get({"a": 1})
    assert found is not None
    np.testing.assert_array_equal(found, draft.array)
    release(draft.array)
    release(found[3:5])  # also through a view
    assert resident(next(tmp_path.glob("*.npy"))) < 10**6


@pytest.mark.parametrize("why", ["not wanted", "interrupted", "too large", "no folder", "no key"])
def test_a_draft_that_is_not_kept_leaves_nothing(tmp_path: Path, why: str) -> None:
    cache = ArrayCache(None if why == "no folder" else tmp_path, 10 if why == "too large" else 10**6)
    with contextlib.suppress(KeyboardInterrupt), cache.draft(None if why == "no key" else {"a": 1}, (4, 10)) as draft:
        draft.array[:] = 7
        if why == "interrupted":
            raise KeyboardInterrupt
        if why != "not wanted":
            draft.keep()
    assert list(tmp_path.iterdir()) == []
    assert draft.array.shape == (4, 10) and int(draft.array.min()) == 7  # it can be used all the same
    assert cache.get({"a": 1}) is None


def test_a_draft_on_a_full_disk_lies_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with ArrayCache(tmp_path, 10**6).draft({"a": 1}, (4, 10)) as draft:
        draft.array[:] = 7
        draft.keep()
    assert int(draft.array.min()) == 7
    assert list(tmp_path.iterdir()) == []


DRAFTING = """
import sys
from pathlib import Path
from tlexport.storage.cache import ArrayCache
with ArrayCache(Path(sys.argv[1]), 10**6).draft({"a": 1}, (100, 1000)) as draft:
    print("drafting", flush=True)
    sys.stdin.read()
"""


def test_what_a_dead_process_left_is_swept_and_what_a_living_one_writes_is_counted(tmp_path: Path) -> None:
    left = subprocess.Popen([sys.executable, "-c", "pass"])
    left.wait()
    for name in (f"{'0' * 32}.{left.pid}.part", ".abc.npy.partial-0123abcd", ".abc.npy.lock-0123abcd", f"{'0' * 32}.{os.getpid()}.part"):
        (tmp_path / name).write_bytes(b"x")
    child = subprocess.Popen(
        [sys.executable, "-c", DRAFTING, str(tmp_path)], env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout
    assert child.stdout.readline() == "drafting\n"
    (mine,) = tmp_path.glob(f"*.{os.getpid()}.part")  # that of an earlier version, which is running
    mine.unlink()
    cache = ArrayCache(tmp_path, 150_000)
    (file,) = tmp_path.glob("*.part")
    cache.keep({"small": 1}, array(1, 1_250))
    cache.keep({"small": 2}, array(2, 2_500))  # with the draft of 100 kB there is room for one of them
    assert file.exists()
    assert cache.get({"small": 1}) is None
    assert cache.get({"small": 2}) is not None
    child.kill()
    child.communicate()
    assert file.exists()
    ArrayCache(tmp_path, 150_000)
    assert {path.suffix for path in tmp_path.iterdir()} == {".npy", ".json"}

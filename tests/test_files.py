"""Files and directories are written completely or not at all."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from commands import environment

from tlexport.errors import StepFailed, UsageError
from tlexport.storage.files import REPLACEABLE, new_directory, new_file, temporary_folder


def written(path: Path, text: str) -> None:
    with new_directory(path) as temporary:
        (temporary / REPLACEABLE[0]).write_text(text, encoding="utf-8")


def test_a_directory_of_ours_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    for text in ("old", "new"):
        written(tmp_path / "out", text)
    assert (tmp_path / "out" / REPLACEABLE[0]).read_text(encoding="utf-8") == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_error_leaves_the_old_directory(tmp_path: Path) -> None:
    written(tmp_path / "out", "old")
    with pytest.raises(ZeroDivisionError), new_directory(tmp_path / "out"):
        raise ZeroDivisionError
    assert (tmp_path / "out" / REPLACEABLE[0]).read_text(encoding="utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_when_the_new_one_cannot_take_the_place_the_old_one_is_put_back(tmp_path: Path) -> None:
    written(tmp_path / "out", "old")
    with pytest.raises(StepFailed, match="out"), new_directory(tmp_path / "out") as temporary:
        temporary.rmdir()  # as if it had gone: its renaming fails after the old one was moved away
    assert (tmp_path / "out" / REPLACEABLE[0]).read_text(encoding="utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_not_ours_is_refused(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
        (out / "diary.txt").write_text("mine", encoding="utf-8")
    else:
        out.write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="out"), new_directory(out):
        pass
    assert (out / "diary.txt" if kind == "folder" else out).read_text(encoding="utf-8") == "mine"


WRITING = """
import sys
from pathlib import Path
from tlexport.storage.files import new_directory, new_file, temporary_folder
with temporary_folder("tlx-test-") as folder, new_file(Path(sys.argv[1]) / "file"), new_directory(Path(sys.argv[1]) / "folder") as other:
    (folder / "x").touch()
    (other / "x").touch()
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_is_swept_but_not_what_a_living_one_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    command = [sys.executable, "-c", WRITING, str(tmp_path)]

    def left() -> list[str]:
        return sorted(path.name for path in tmp_path.iterdir() if path.name not in ("file", "folder"))

    def write() -> None:
        written(tmp_path / "folder", "mine")
        with new_file(tmp_path / "file") as file:
            file.touch()
        with temporary_folder("tlx-test-"):
            pass

    child = subprocess.Popen(command, env=environment(TMPDIR=str(tmp_path)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout
    assert child.stdout.readline() == "writing\n"
    before = left()
    assert len(before) == 5  # a temporary folder, a directory, and the three locks; nothing was written to the file yet
    write()
    assert left() == before
    child.kill()
    child.communicate()
    assert left() == before
    write()
    assert left() == []

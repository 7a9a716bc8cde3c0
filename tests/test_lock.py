"""One writer at a time: of two processes with the same destination, one is refused with a message that names the other."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import environment, here, start

from tlexport.checkpoint import read_checkpoint, snapshot
from tlexport.errors import UsageError
from tlexport.storage.files import new_directory
from tlexport.storage.lock import claim, is_claimed, lock_of
from tlexport.train.resume import REQUEST, STATE, resume_folder

QUICK = ("--weights", "embedded", "--image-size", "32", "--epochs", "1", "--no-flip", "--device", "cpu", "--tracker", "none")
HOLDER = """
import sys
from pathlib import Path
from tlexport.storage.lock import claim
with claim(Path(sys.argv[1]), "tlx finetune"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that is writing a path."""
    command = [sys.executable, "-c", HOLDER, str(path)]
    child = subprocess.Popen(command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout
    assert child.stdout.readline() == "held\n"
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def test_a_second_writer_is_refused_and_told_about_the_first(tmp_path: Path) -> None:
    out = tmp_path / "run"
    link = tmp_path / "link"
    link.symlink_to(out)
    with held(out) as child:
        assert is_claimed(out)
        for path in (out, link, tmp_path / "x" / ".." / "run"):
            with pytest.raises(UsageError) as caught, claim(path, "tlx export"):
                pass
            assert f"tlx finetune, process {child.pid} on {socket.gethostname()}, since 20" in caught.value.message
            assert str(path) in caught.value.message
            assert "another --out" in caught.value.hint
        with claim(tmp_path / "other", "tlx export"):
            pass
    assert not is_claimed(out)


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "run"
    with held(out) as child:
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert lock_of(out).exists()
        assert not is_claimed(out)
        with claim(out, "tlx export"):
            assert json.loads(lock_of(out).read_text())["pid"] == os.getpid()
        assert not lock_of(out).exists()


@pytest.mark.parametrize("content", [b"", b"\0" * 9, b'{"pid": ' + b"9" * 5000 + b"}", b"[" * 5000, b'{"pid": "x", "host": 3}'])
def test_a_lock_file_that_holds_anything_is_only_a_file(tmp_path: Path, content: bytes) -> None:
    lock_of(tmp_path / "run").write_bytes(content)
    with claim(tmp_path / "run", "tlx export"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_where_nothing_was_written(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), claim(tmp_path / "a" / "b" / "run", "tlx export"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_every_command_that_writes_a_directory_asks_first(
    digits: Path, checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with held(out) as child:
        for command in (
            ("finetune", digits, *QUICK, "--out", out),
            ("export", checkpoint, "--target", "cpu-x86", "--out", out),
            ("demo", "--out", out),
        ):
            ended = here(capfd, *command)
            assert (ended.code, ended.out) == (2, "")
            assert f"process {child.pid} on" in ended.err
        with held(tmp_path / "out.zip"):
            assert here(capfd, "export", checkpoint, "--target", "cpu-x86", "--out", tmp_path / "out.zip").code == 2
        assert {path.name for path in tmp_path.iterdir()} == {".out.lock", ".out.zip.lock"}  # of the two that write


def test_two_runs_begun_together_get_two_names(digits: Path, tmp_path: Path) -> None:
    children = [
        start("finetune", digits, *QUICK, "--threads", "1", cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    ended = [child.communicate(timeout=300) for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], ended
    found = sorted(out.splitlines()[-1] for out, _ in ended)
    assert found == [f"runs/mobilenet_v3_small-{number}" for number in (1, 2, 3)]
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"latest", *(Path(name).name for name in found)}
    assert len({read_checkpoint(tmp_path / name).weights_sha256 for name in found}) == 1
    assert read_checkpoint(tmp_path / "runs" / "latest")


def test_a_new_run_takes_no_name_of_one_that_runs_or_can_be_resumed(
    digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs"
    for number, name in ((2, STATE), (2, REQUEST), (3, "left.txt")):
        folder = resume_folder(runs / f"mobilenet_v3_small-{number}")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    with held(runs / "mobilenet_v3_small-1"):
        ended = here(capfd, "finetune", digits, *QUICK)
    assert ended.code == 0
    assert ended.out.splitlines()[-1] == "runs/mobilenet_v3_small-3"  # what had been left there was no run any more
    assert not resume_folder(runs / "mobilenet_v3_small-3").exists()
    assert (resume_folder(runs / "mobilenet_v3_small-2") / STATE).exists()


def test_a_checkpoint_that_is_replaced_all_the_time_is_copied_whole(checkpoint: Path, tmp_path: Path) -> None:
    """A training that ends while an export begins."""
    out = Path(shutil.copytree(checkpoint, tmp_path / "run"))
    script = """
import json, sys, time
from pathlib import Path
from tlexport.checkpoint import RECORD, WEIGHTS
from tlexport.storage.files import new_directory, sha256_of
source, out = Path(sys.argv[1]), Path(sys.argv[2])
for number in range(10 ** 6):
    with new_directory(out) as folder:
        for file in source.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        with (folder / WEIGHTS).open("ab") as stream:
            stream.write(b"%d" % number)
        record = json.loads((folder / RECORD).read_text())
        record["weights_sha256"] = sha256_of(folder / WEIGHTS)
        (folder / RECORD).write_text(json.dumps(record))
    print(number, flush=True)
    time.sleep(0.2)
"""
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(checkpoint), str(out)], env=environment(), stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout
        child.stdout.readline()
        seen = set()
        for number in range(10):
            read_checkpoint(out)
            copied = snapshot(out, tmp_path / str(number))
            seen.add(read_checkpoint(copied).weights_sha256)
            assert copied.name == "run"
            time.sleep(0.1)
    finally:
        child.kill()
        child.communicate()
    assert len(seen) > 1


def test_a_reader_never_misses_a_directory_that_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    reader = """
import sys
from pathlib import Path
file = Path(sys.argv[1])
print("reading", flush=True)
while not (file.parent.parent / "stop").exists():
    file.read_bytes()
"""
    with new_directory(out) as folder:
        (folder / "manifest.json").write_text("{}")
    child = subprocess.Popen(
        [sys.executable, "-c", reader, str(out / "manifest.json")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout
    assert child.stdout.readline() == "reading\n"
    for number in range(300):
        with new_directory(out) as folder:
            (folder / "manifest.json").write_text(str(number))
    (tmp_path / "stop").touch()
    assert child.communicate(timeout=60)[1] == ""
    assert child.returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {"out", "stop"}
    assert (out / "manifest.json").read_text() == "299"


def test_the_message_names_what_to_type(digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A plain run never removes what another one can be continued from."""
    out = tmp_path / "my run"
    folder = resume_folder(out)
    folder.mkdir()
    (folder / REQUEST).write_text("{}")
    (folder / STATE).write_bytes(b"of somebody")
    ended = here(capfd, "finetune", digits, *QUICK, "--out", out)
    assert ended.code == 2
    assert re.search(r"hint: continue it: tlx finetune \S+ --out '[^']*my run' --resume; or discard it: .*--restart", ended.err)
    assert (folder / STATE).read_bytes() == b"of somebody"
    again = here(capfd, "finetune", digits, *QUICK, "--out", out, "--restart")
    assert again.code == 0, again.err
    assert "discarding the state" in again.err
    assert {path.name for path in tmp_path.iterdir()} == {"my run"}

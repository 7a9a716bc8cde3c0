"""``--resume`` completes a run killed at any write after training, bit-identical to an unbroken run."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tlexport.api.finetune import FinetuneSettings, Trained, finetune
from tlexport.checkpoint import RECORD, REPORT, WEIGHTS, read_checkpoint
from tlexport.errors import StepFailed
from tlexport.recipe import Recipe
from tlexport.train.resume import STATE, resume_folder

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked and killed")

RECIPE = Recipe(weights="embedded", image_size=32, epochs=2, lr=3e-3, flip=False)
WRITES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "os.symlink"}


def train(digits: Path, out: Path, **options: Any) -> Trained:
    return finetune(str(digits), RECIPE, out, FinetuneSettings(device="cpu", threads=1, tracker="none", **options))


def in_a_process(work: Callable[[], object]) -> int:
    """Do it in a process of its own; its exit code, or minus the number of the signal that ended it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def at_write(number: int, folder: Path, action: Callable[[], object]) -> list[int]:
    """Call a hook before the given change number to the file system within a folder; returns the count. A process keeps its hook."""
    count = [0]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event in WRITES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if writes and str(folder) in " ".join(str(argument) for argument in arguments):
            count[0] += 1
            if count[0] == number:
                action()

    sys.addaudithook(hook)
    return count


def killed_at(number: int, folder: Path, work: Callable[[], object]) -> int:
    def doomed() -> None:
        at_write(number, folder, lambda: os.kill(os.getpid(), signal.SIGKILL))
        work()

    return in_a_process(doomed)


def contents(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unbroken run."""
    return train(digits, tmp_path_factory.mktemp("whole") / "run").path


@pytest.fixture(scope="module")
def after_training(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a run was killed at its first write after training."""
    folder = tmp_path_factory.mktemp("killed")

    def work() -> None:
        def kill_after_training(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "os.mkdir" and ".run.partial-" in str(arguments[0]):
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(kill_after_training)
        train(digits, folder / "run")

    assert in_a_process(work) == -signal.SIGKILL
    assert (resume_folder(folder / "run") / STATE).is_file()
    assert not (folder / "run").exists()
    return folder


def is_the_run(path: Path, whole: Path) -> bool:
    """The same weights and the same record, and nothing missing."""
    same = all((path / name).read_bytes() == (whole / name).read_bytes() for name in (WEIGHTS, RECORD))
    return same and contents(path) == contents(whole)


def test_killed_at_any_write_after_training_it_is_completed(digits: Path, whole: Path, after_training: Path, tmp_path: Path) -> None:
    seen, number, step = set(), 1, int(os.environ.get("TLX_TEST_KILL_STEP", "5"))
    while True:
        folder = Path(shutil.copytree(after_training, tmp_path / str(number)))
        out = folder / "run"
        code = killed_at(number, folder, lambda out=out: train(digits, out, resume=True))  # type: ignore[misc]
        assert code in (0, -signal.SIGKILL)
        assert not out.exists() or is_the_run(out, whole)  # whole or absent
        seen.add((out.exists(), resume_folder(out).exists()))
        train(digits, out, resume=True)
        assert is_the_run(out, whole)
        assert contents(folder) == {"run"}  # and what the dead process left is gone
        if code == 0:
            break
        number += step
    assert number > 20
    assert {(False, True), (True, True)} <= seen  # before and after the checkpoint was there


def test_a_run_that_was_killed_twice_is_completed(digits: Path, whole: Path, after_training: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(after_training, tmp_path / "twice")) / "run"
    for number in (9, 3):
        assert killed_at(number, out.parent, lambda: train(digits, out, resume=True)) == -signal.SIGKILL
    train(digits, out, resume=True)
    assert is_the_run(out, whole)


def test_ctrl_c_or_a_full_disk_after_training_loses_nothing(digits: Path, whole: Path, after_training: Path, tmp_path: Path) -> None:
    import errno

    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name, action, raised in (("full", full, StepFailed), ("ctrl-c", lambda: signal.raise_signal(signal.SIGINT), KeyboardInterrupt)):
        out = Path(shutil.copytree(after_training, tmp_path / name)) / "run"

        def work(out: Path = out, action: Callable[[], object] = action, raised: type[BaseException] = raised) -> None:
            at_write(12, out.parent, action)
            with pytest.raises(raised):
                train(digits, out, resume=True)

        assert in_a_process(work) == 0
        assert contents(out.parent) == {".run.resume"}
        train(digits, out, resume=True)
        assert is_the_run(out, whole)


def test_a_checkpoint_without_its_report_is_completed(digits: Path, whole: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "run"))
    (out / REPORT).unlink()
    train(digits, out, resume=True)
    assert is_the_run(out, whole)
    assert read_checkpoint(out) == read_checkpoint(whole)

"""Runs `tlx` commands of one source tree for compare_trees.py, each in a fork of a process that has imported the libraries."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

SECONDS = 1800.0  # after which a command is stopped


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str
    seconds: float


class Worker:
    """A process whose ``tlexport`` is that of ``source``; commands run in ``folder``, with caches of their own."""

    def __init__(self, source: Path, folder: Path) -> None:
        self._source, self._folder = source, folder

    def __enter__(self) -> Self:
        home = self._folder / "home"
        home.mkdir(exist_ok=True)
        self._environment = os.environ | {"HOME": str(home), "TLX_CACHE": str(home / "cache"), "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
        self._environment.pop("PYTHONPATH", None)
        command, own = [sys.executable, __file__, str(self._source)], self._environment | {"PYTHONPATH": str(self._source)}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=own, cwd=self._folder)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, argv: list[str], runner: bool) -> Ended:
        """Run a command of the tree; with ``runner`` a bundle's own program, without the tree."""
        if runner:
            began = time.monotonic()
            done = subprocess.run(
                [sys.executable, *argv], capture_output=True, text=True, env=self._environment, cwd=self._folder, timeout=SECONDS
            )
            return Ended(done.returncode, done.stdout, done.stderr, time.monotonic() - began)
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: S101 - for the type checker
        self._process.stdin.write(json.dumps(argv) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))


def child(argv: list[str], out: int, err: int) -> None:
    """The command itself, in the fork; does not return."""
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    code = 1
    try:
        from tlexport.cli.main import run

        code = run(argv)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - as the interpreter does at the end of a program
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def answer(argv: list[str]) -> Ended:
    began = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if pid == 0:
            child(argv, out.fileno(), err.fileno())
        while not (found := os.waitpid(pid, os.WNOHANG))[0]:
            if time.monotonic() - began > SECONDS:
                os.killpg(pid, signal.SIGKILL)
            time.sleep(0.02)
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode("utf-8", "replace"))
    return Ended(os.waitstatus_to_exitcode(found[1]), texts[0], texts[1], time.monotonic() - began)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever an import prints is no answer
    import onnx
    import onnxruntime
    import onnxscript
    import torch
    import torchvision

    import tlexport

    assert all((onnx, onnxruntime, onnxscript, torch, torchvision))  # noqa: S101 - they are imported for the forks
    if not Path(tlexport.__file__).is_relative_to(sys.argv[1]):
        sys.exit(f"tlexport was imported from {tlexport.__file__}, not from {sys.argv[1]}")
    for line in sys.stdin:
        answers.write(json.dumps(asdict(answer(json.loads(line)))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()

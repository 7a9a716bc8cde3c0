"""Compiles the CUDA runtime that has no GPU, and talks to it from the other side."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

SOURCE = Path(__file__).with_name("cudart.c")
COMPILER = shutil.which("cc") or shutil.which("gcc")
Kernel = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def compile_cudart(path: Path, *flags: str) -> Path:
    """A shared library at ``path``. Needs COMPILER."""
    assert COMPILER
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([COMPILER, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", *flags, str(SOURCE), "-o", str(path)], check=True)
    return path


class Device:
    """The GPU's side of the stand-in: what fails next, what was not given back, and kernels."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))
        self._kept: list[object] = []  # callbacks must live as long as graphs that hold them
        self.raised: list[Exception] = []  # by kernels: C cannot pass it on

    def fail(self, function: str, code: int) -> None:
        """The next call of a function answers with a code."""
        self._library.standin_fail(function.encode(), code)

    def devices(self, count: int) -> None:
        """How many GPUs there are."""
        self._library.standin_devices(count)

    @property
    def live(self) -> int:
        """Memory and handles that were not given back."""
        return int(self._library.standin_live())

    @property
    def last(self) -> int:
        """The error that nobody has fetched."""
        return int(self._library.standin_last())

    def enqueue(self, stream: int, kernel: Callable[[], None], ms: float) -> None:
        """Have a stream call something when it comes to it."""

        def call(_: int | None) -> None:
            try:
                kernel()
            except Exception as error:  # noqa: BLE001 - whatever it is, a test looks at it
                self.raised.append(error)

        callback = Kernel(call)
        self._kept.append(callback)
        code = self._library.standin_enqueue(ctypes.c_void_p(stream), callback, None, ctypes.c_double(ms))
        assert code == 0, code

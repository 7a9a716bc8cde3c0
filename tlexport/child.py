"""Work in a process of its own: how it is started, what it may use, and how it answers or dies.

A runtime that opens a file from others may crash, hang or ask for more memory than there is. In a child that ends the child alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tlexport import errors
from tlexport.errors import StepFailed, TlxError, Unsupported
from tlexport.record import Record

PARENT = "TLX_PARENT_PID"  # in a child's environment: who started it
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGBUS, signal.SIGTRAP)
SHARE = 0.8  # of the memory that is free, for a model from others


class Failure(Record):
    """One of our errors, on its way from the child to us."""

    error: str
    message: str
    hint: str

    @classmethod
    def of(cls, error: TlxError) -> Failure:
        """An error, as plain data."""
        return cls(error=type(error).__name__, message=error.message, hint=error.hint)

    def as_error(self) -> TlxError:
        """The error that it was."""
        found: TlxError = getattr(errors, self.error)(self.message, self.hint)
        return found


def command(module: str) -> list[str]:
    """What starts a child."""
    # -P and our own search path (see environment): the child finds the modules that we found, be it in a checkout, an editable
    # installation or a wheel, and nothing that happens to lie in the working directory
    return [sys.executable, "-P", "-m", module]


def environment() -> dict[str, str]:
    """For a child."""
    search_path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    return os.environ | {"PYTHONPATH": search_path, "PYTHONIOENCODING": "utf-8", PARENT: str(os.getpid())}


def run(module: str, line: str) -> tuple[int, str, str]:
    """Start a child, send it a line, and keep its standard input open until it has ended: exit code, standard output, standard error.

    When this process is interrupted, the child is ended.
    """
    theirs, ours = os.pipe()
    pipe = subprocess.PIPE
    try:
        with subprocess.Popen(
            command(module), stdin=theirs, stdout=pipe, stderr=pipe, env=environment(), encoding="utf-8", errors="replace"
        ) as child:
            try:
                os.close(theirs)
                with contextlib.suppress(BrokenPipeError):  # it is dead: its exit code says how
                    os.write(ours, f"{line}\n".encode())
                answers, log = child.communicate()
            except BaseException:
                child.kill()
                raise
    finally:
        os.close(ours)
    return child.returncode, answers, log


def death(doing: str, code: int, log: str) -> TlxError:
    """What to say of a child that died: how, and the last lines that it wrote.

    Args:
        doing: what it was doing, such as "measuring model.onnx".
        code: its exit code; negative: the signal that ended it.
        log: its standard error.
    """
    if -code == signal.SIGALRM:
        return Unsupported(f"{doing} failed: opening it, or one run, takes too long", "take a smaller model or --shape")
    if -code in CRASHES:
        return Unsupported(
            f"{doing} failed: the runtime crashed on it, by signal {-code} ({signal.strsignal(-code)})",
            "export the model again, or with another opset",
        )
    end = f"was ended by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with exit code {code} and no answer"
    lines = [f"{doing} failed: its process {end}", *log.splitlines()[-10:]]
    return StepFailed("\n  ".join(lines), "it may have run out of memory; try a smaller batch" if code == -9 else "")


def limit_memory() -> None:
    """Let this process ask for no more memory than most of what is free now; beyond that an allocation fails, and is an error."""
    free = _free_bytes()
    if free is None:
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + int(SHARE * free)
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _free_bytes() -> int | None:
    """Memory that this machine, or the container that it is, has left; None where the system does not report it."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None
    try:
        group = Path("/sys/fs/cgroup")
        most, used = ((group / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current"))
        return min(free, int(most) - int(used))
    except (OSError, ValueError):  # no container, or one without a limit
        return free


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """End this process by SIGALRM when the block takes longer: C++ code cannot be interrupted in any other way."""
    if not hasattr(signal, "setitimer"):
        yield
        return
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)

"""Child processes: start, limits of memory and time, results and crashes.

A runtime that opens an untrusted file may crash, hang or exhaust the memory. In a child process, this ends only the child.
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

PARENT = "TLX_PARENT_PID"  # in a child's environment: process id of its parent
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGBUS, signal.SIGTRAP)
SHARE = 0.8  # of the free memory, for an external model


class Failure(Record):
    """An error of this package, as sent from the child to its parent."""

    error: str
    message: str
    hint: str

    @classmethod
    def of(cls, error: TlxError) -> Failure:
        """The error as plain data."""
        return cls(error=type(error).__name__, message=error.message, hint=error.hint)

    def as_error(self) -> TlxError:
        """The original error."""
        found: TlxError = getattr(errors, self.error)(self.message, self.hint)
        return found


def command(module: str) -> list[str]:
    """The command line that starts a child."""
    # -P and the parent's search path (see environment): the child imports the same modules as its parent, from a checkout, an
    # editable installation or a wheel, and nothing from the working directory
    return [sys.executable, "-P", "-m", module]


def environment() -> dict[str, str]:
    """The environment of a child."""
    search_path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    return os.environ | {"PYTHONPATH": search_path, "PYTHONIOENCODING": "utf-8", PARENT: str(os.getpid())}


def run(module: str, line: str) -> tuple[int, str, str]:
    """Start a child, send it a line, and keep its standard input open until it ends.

    If this process is interrupted, the child is killed.

    Returns:
        Exit code, standard output and standard error.
    """
    theirs, ours = os.pipe()
    pipe = subprocess.PIPE
    try:
        with subprocess.Popen(
            command(module), stdin=theirs, stdout=pipe, stderr=pipe, env=environment(), encoding="utf-8", errors="replace"
        ) as child:
            try:
                os.close(theirs)
                with contextlib.suppress(BrokenPipeError):  # the child has ended; its exit code gives the reason
                    os.write(ours, f"{line}\n".encode())
                answers, log = child.communicate()
            except BaseException:
                child.kill()
                raise
    finally:
        os.close(ours)
    return child.returncode, answers, log


def death(doing: str, code: int, log: str) -> TlxError:
    """The error for a child that crashed, with the last lines of its log.

    Args:
        doing: its task, such as "measuring model.onnx".
        code: its exit code; negative: the signal that ended it.
        log: its standard error.
    """
    if -code == signal.SIGALRM:
        return Unsupported(f"{doing} failed: opening the model, or one run, takes too long", "use a smaller model or --shape")
    if -code in CRASHES:
        return Unsupported(
            f"{doing} failed: the runtime crashed with signal {-code} ({signal.strsignal(-code)})",
            "export the model again, or with another opset",
        )
    end = f"was ended by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with exit code {code} and no answer"
    lines = [f"{doing} failed: its process {end}", *log.splitlines()[-10:]]
    return StepFailed("\n  ".join(lines), "it may have run out of memory; try a smaller batch" if code == -9 else "")


def limit_memory() -> None:
    """Limit the memory of this process to most of the memory that is free now. Allocations beyond that fail with an error."""
    free = _free_bytes()
    if free is None:
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + int(SHARE * free)
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _free_bytes() -> int | None:
    """Free memory of this machine or container, bytes; None if the system does not report it."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None
    try:
        group = Path("/sys/fs/cgroup")
        most, used = ((group / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current"))
        return min(free, int(most) - int(used))
    except (OSError, ValueError):  # not a container, or one without a limit
        return free


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """End this process with SIGALRM if the block takes longer. C++ code cannot be interrupted otherwise."""
    if not hasattr(signal, "setitimer"):
        yield
        return
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)

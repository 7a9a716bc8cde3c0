"""End a child process when its parent ends, for whatever reason. Python 3.6 syntax: this file is copied into bundles unchanged.

Linux sends a signal when the parent ends (prctl). Elsewhere a pipe closes when the last process that holds it ends.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import IO, Any, Callable, List, Sequence

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
GRACE = 60.0  # seconds for a child to end after a living parent has closed the pipe
LOOK = 0.2  # seconds between two checks of the parent

# A program that is not ours is started by this: the setting outlives exec, and the parent may have died before it was made.
_STARTER = """
import ctypes, os, signal, sys
try:
    ctypes.CDLL(None).prctl({}, signal.SIGKILL, 0, 0, 0)
except (OSError, AttributeError):
    pass
if os.getppid() != int(sys.argv[1]):
    os.kill(os.getpid(), signal.SIGKILL)
os.execvp(sys.argv[2], sys.argv[2:])
""".format(_PR_SET_PDEATHSIG)


def end_with_parent() -> None:
    """Ask the system to kill this process when its parent ends, if the system supports it."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):  # no prctl in this C library
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def bound(command: "Sequence[str]") -> "List[str]":
    """The command line of a program that ends with this process; unchanged on systems other than Linux.

    Args:
        command: the program's path, which exists, and its arguments.
    """
    if not sys.platform.startswith("linux"):
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _STARTER, str(os.getpid()), *command]


def follow(stream: "IO[Any]", hear: "Callable[[Any], None]", parent: int) -> None:
    """Read lines from the parent in a thread. End this process when the parent has ended, or some time after it closed the pipe.

    Args:
        stream: standard input, which the parent keeps open as long as the child is needed.
        hear: receives each line, and None at the end.
        parent: process id of the parent as passed by it, because it may have ended before this process starts.
    """

    def read() -> None:
        for line in stream:
            hear(line)
        hear(None)
        end = time.monotonic() + GRACE
        while os.getppid() == parent and time.monotonic() < end:
            time.sleep(LOOK)
        os._exit(1)

    threading.Thread(target=read, name="lifeline", daemon=True).start()

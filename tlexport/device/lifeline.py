"""A child process ends with its parent, however that one ends. Python 3.6 syntax: it is copied into bundles as it is.

Linux sends a signal when the parent dies (prctl). Elsewhere a pipe tells: it is closed when the last process that holds it is gone.
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
GRACE = 60.0  # seconds that a child has to end by itself after a parent that lives has closed the pipe
LOOK = 0.2  # seconds between two looks at whether it lives

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
    """Have the system kill this process when its parent dies; does nothing where the system cannot."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):  # no prctl in this C library
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def bound(command: "Sequence[str]") -> "List[str]":
    """The command of a program that ends with this process; as it is where the system is not Linux.

    Args:
        command: the program's path, which exists, and its arguments.
    """
    if not sys.platform.startswith("linux"):
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _STARTER, str(os.getpid()), *command]


def follow(stream: "IO[Any]", hear: "Callable[[Any], None]", parent: int) -> None:
    """Read the lines that a parent sends in a thread, and end this process when the parent has died, or long ago closed the pipe.

    Args:
        stream: standard input, which the parent keeps open as long as the child is needed.
        hear: is given each line, and None at the end.
        parent: its process id, which it told: it may have died before this process could ask for it.
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

"""Find and run the program trtexec. Python 3.6 syntax: this file is copied into bundles unchanged."""

import errno
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Optional, Tuple

from ..errors import MissingDependency
from ..lifeline import bound
from .build_options import parse_version
from .trtexec_log import last_lines, read_log

if TYPE_CHECKING:
    from typing import Callable, Sequence

    Report = Callable[[str], None]

JETPACK = "/usr/src/tensorrt/bin/trtexec"  # path in NVIDIA's Debian packages, outside of PATH
INSTALL = "install TensorRT (on a Jetson: sudo apt-get install tensorrt), or set its path: TRTEXEC=/path/to/trtexec"


class ProgramResult(NamedTuple):
    """Result of a run of the program."""

    status: int  # exit status; negative: the signal that ended it
    text: str  # standard output and standard error, interleaved
    peak_memory_bytes: Optional[int]  # largest resident size; None if unknown


def find_trtexec() -> str:
    """Path of the program: ``$TRTEXEC``, else JetPack's path, else ``PATH``.

    Raises:
        MissingDependency: not found, or ``$TRTEXEC`` is not a program.
    """
    named = os.environ.get("TRTEXEC")
    if named:
        found = shutil.which(named)
        if not found:
            raise MissingDependency("TRTEXEC is {}, which is not an executable program".format(named), INSTALL)
        return found
    found = shutil.which(JETPACK) or shutil.which("trtexec")
    if not found:
        raise MissingDependency("trtexec is neither {} nor on PATH".format(JETPACK), INSTALL)
    return found


def ask_version(program: str) -> Tuple[int, ...]:
    """TensorRT version of a trtexec. Without options it prints banner and help, which needs no GPU.

    Returns:
        ``(8, 2, 1)``; from 10.14 on with the build number.

    Raises:
        MissingDependency: it does not start (such as for a missing library) or prints no version.
    """
    ended = run(program, ())
    version = read_log(ended.text).tensorrt
    if version is None:
        lines = "".join("\n  " + line for line in last_lines(ended.text))
        raise MissingDependency("{} does not report its version (exit status {}){}".format(program, ended.status, lines), INSTALL)
    return parse_version(version)


def run(program: str, arguments: "Sequence[str]", report: "Optional[Report]" = None, folder: "Optional[str]" = None) -> ProgramResult:
    """Run trtexec and wait for it. It always ends with this process.

    Args:
        program: its path.
        arguments: its options.
        report: receives each line without the time stamp.
        folder: the working directory.

    Raises:
        MissingDependency: it cannot be started.
    """
    try:
        Path(program).stat()  # Popen does not report the reason with a wrapper
        if not os.access(program, os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        process = subprocess.Popen(
            bound([program, *arguments]), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder
        )
    except OSError as error:
        raise MissingDependency("{} cannot be started: {}".format(program, error.strerror or error), INSTALL) from None
    lines: "list[str]" = []
    with process:
        try:
            for raw in process.stdout or ():
                line = raw.decode("utf-8", "replace").rstrip("\r\n")
                lines.append(line)
                if report is not None:
                    for text in last_lines(line):
                        report(text)
            memory = _wait(process)
        except BaseException:
            process.kill()
            raise
    return ProgramResult(process.returncode, "\n".join(lines), memory)


def _wait(process: "subprocess.Popen[bytes]") -> Optional[int]:
    """Wait for the end. Returns the largest resident size, bytes."""
    if not hasattr(os, "wait4"):
        process.wait()
        return None
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    return usage.ru_maxrss * 1024  # Linux counts it in units of 1024 bytes

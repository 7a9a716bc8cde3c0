"""The program that runs on a board: keeps a temporary folder, receives files, and starts the runner of a bundle.

It is passed as text to ``python3 -c``, so nothing has to be installed. Standard library and Python 3.6 syntax only; older versions
can parse it and report their version.

    keep             create a folder, describe the board, wait; at the end of the connection, end the runner, remove the folder
    receive FOLDER   unpack the tar archive on standard input
    run FOLDER       start ``run.py`` of the bundle in FOLDER, with the arguments that are a JSON list on standard input
"""

import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

BEGIN = "tlx-begin"  # output before this line comes from start-up files of the shell
BUNDLE = "bundle"
RUNNING = "running"  # file with the process group of the runner
# files that identify the machine, the same as in tlexport/hardware/machine.py
FACTS = ("proc/cpuinfo", "proc/device-tree/model", "proc/device-tree/compatible", "proc/driver/nvidia/version")


def main(words: "list[str]") -> None:
    """Run the command named by the first argument."""
    if words[0] == "keep":
        keep()
    elif words[0] == "receive":
        receive(Path(words[1]))
    else:
        sys.exit(run(Path(words[1])))


def keep() -> None:
    """Hold a folder while standard input is open; a lost connection closes it."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(1))
    folder = Path(tempfile.mkdtemp(prefix="tlx-"))
    try:
        print("{}\n{}".format(BEGIN, json.dumps(about(folder))))
        sys.stdout.flush()
        sys.stdin.read()
    finally:
        clear(folder)
    if folder.exists():
        sys.exit("{} cannot be removed".format(folder))


def about(folder: Path) -> "dict[str, object]":
    """Description of this board for the other side."""
    files = {}
    for name in FACTS:
        try:
            with (Path("/") / name).open("rb") as stream:
                files[name] = stream.read(65536).decode("utf-8", "replace")
        except OSError:  # most boards lack one or the other
            continue
    return {
        "folder": str(folder),
        "python": platform.python_version(),
        "numpy": importlib.util.find_spec("numpy") is not None,
        "machine": platform.machine(),
        "files": files,
    }


def clear(folder: Path) -> None:
    """End the programs in the folder and remove it; repeated because a program may still write."""
    for _ in range(5):
        end(folder)
        shutil.rmtree(str(folder), ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.2)


def end(folder: Path) -> None:
    """End the runner and its children, first with SIGTERM."""
    try:
        group = int((folder / RUNNING).read_text())
    except (OSError, ValueError):  # nothing is running
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        for _ in range(20):
            try:
                os.killpg(group, number)
            except OSError:  # it has ended
                return
            time.sleep(0.1)


def receive(folder: Path) -> None:
    """Unpack regular files; the sender has checked their names."""
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
        for member in archive:
            source = archive.extractfile(member)
            if source is not None:
                target = folder / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as stream:
                    shutil.copyfileobj(source, stream)


def run(folder: Path) -> int:
    """Start the runner in a process group of its own; its exit code, or 128 and the number of the signal that ended it."""
    words = json.loads(sys.stdin.readline())
    print(BEGIN)
    sys.stdout.flush()
    temporary = folder / "temporary"  # temporary files of libraries, such as ONNX Runtime, are removed with the folder
    temporary.mkdir(exist_ok=True)
    engines = folder / "engines"  # outside the bundle, and removed with the folder
    engines.mkdir(mode=0o700, exist_ok=True)
    environment = dict(os.environ, PYTHONIOENCODING="utf-8", TMPDIR=str(temporary), TLX_ENGINES=str(engines))
    command = [sys.executable, "run.py", *words]
    child = subprocess.Popen(command, cwd=str(folder / BUNDLE), env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
    running = folder / RUNNING
    try:
        running.write_text(str(child.pid))
    except OSError:  # the folder has been removed: the connection ended
        os.killpg(child.pid, signal.SIGKILL)
    code = child.wait()
    if running.exists():
        running.unlink()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    main(sys.argv[1:])

"""Run `tlx` command lines for attack.py, each in a fork of a process with all imports done, with limits on time and memory.

Requests and answers are JSON objects, one per line, on standard input and output; see attack_ground.Request and Ended.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

FILE_LIMIT = 1 << 30  # bytes per file; stops a copy of an endless file
TEXT_LIMIT = 20_000  # characters of output in an answer


def import_all() -> None:
    import onnx
    import onnxruntime
    import onnxscript
    import torch
    import torchvision

    import tlexport.api.bench
    import tlexport.api.estimate
    import tlexport.api.evaluate
    import tlexport.api.export
    import tlexport.api.finetune
    import tlexport.api.predict
    import tlexport.api.verify
    import tlexport.train.resume

    assert all((onnx, onnxruntime, onnxscript, torch, torchvision))  # noqa: S101 - they are imported for the forks
    tlexport.train.resume.INTERVAL_S = 0.0  # save a state after every epoch, so that a short run has states to resume from


def child(request: dict[str, Any], out: int, err: int) -> None:
    """Run the command in the fork; does not return."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT, FILE_LIMIT))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.environ.update(request["env"])
    tempfile.tempdir = None  # recomputed from this TMPDIR
    code = 1
    try:
        os.chdir(request["cwd"])
        from tlexport.cli.main import run

        code = run(request["argv"])
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


def resident(pid: int) -> int:
    """Resident memory of a process in bytes; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def wait(pid: int, request: dict[str, Any]) -> tuple[int, str, float]:
    """Exit code (negative: the signal), reason if it was stopped (else ""), and seconds."""
    began, stopped, sent = time.monotonic(), "", False
    while True:
        found, status, _ = os.wait4(pid, os.WNOHANG)
        seconds = time.monotonic() - began
        if found:
            return os.waitstatus_to_exitcode(status), stopped, seconds
        if request["signal"] and not sent and seconds >= request["signal_after"]:
            os.kill(pid, request["signal"])
            sent = True
        if not stopped and seconds > request["seconds"]:
            stopped = "hang"
        if not stopped and resident(pid) > request["memory"]:
            stopped = "memory"
        if stopped:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if pid == 0:
            child(request, out.fileno(), err.fileno())
        code, stopped, seconds = wait(pid, request)
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode("utf-8", "replace")[-TEXT_LIMIT:])
    return {"code": code, "stopped": stopped, "seconds": seconds, "out": texts[0], "err": texts[1], "pid": pid}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # keep the output of imports out of the answers
    import_all()
    for line in sys.stdin:
        answers.write(json.dumps(answer(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()

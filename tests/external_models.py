"""Run `estimate` and `bench` on many ONNX files, in a process that is restarted if a file crashes it.

``python external_models.py < names``, one name per line. Prints one line each: the name and the outcomes of `estimate` and `bench`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from commands import ROOT, environment

SECONDS = 120  # of one command on one file, after which it hangs
Ends = dict[str, str]  # command -> "0", or the exit code, the message and the hint


def ends(paths: Iterable[Path]) -> Iterator[tuple[Path, Ends]]:
    """Outcome of both commands on each file; a crash or an unexpected exception is reported as such."""
    waiting = list(paths)
    while waiting:
        child = subprocess.run(
            [sys.executable, str(Path(__file__))],
            input="\n".join(map(str, waiting)),
            capture_output=True,
            encoding="utf-8",
            env=environment(PYTHONPATH=f"{ROOT}:{Path(__file__).parent}", OMP_NUM_THREADS="1"),
            check=False,
        )
        done = [json.loads(line) for line in child.stdout.splitlines()]
        partial: Ends = {}
        for name, command, end in done:
            partial[command] = end
            if command == "bench":
                yield Path(name), partial
                partial = {}
        finished = sum(command == "bench" for _, command, _ in done)
        waiting = waiting[finished:]
        if waiting and child.returncode:
            missing = "bench" if "estimate" in partial else "estimate"
            yield waiting.pop(0), partial | {missing: f"died with {child.returncode}: {child.stderr[-2000:]}"}


def _estimate(path: Path) -> None:
    from tlexport.estimate.process import Question, counted
    from tlexport.hardware.target import resolve
    from tlexport.loading.estimable import Estimable
    from tlexport.loading.estimate_on_target import estimate

    found = counted(Question(path=path, what=str(path), shapes={}))
    model = Estimable(str(path), found.precision, found.sha256, lambda profile: found.costs, found.note, found.batch)
    estimate(model, resolve("jetson-nano"))


def _bench(path: Path) -> None:
    from tlexport.bench import process
    from tlexport.loading.bench_request import BenchSettings, requests_for
    from tlexport.loading.model import load
    from tlexport.ports import Silent

    settings = BenchSettings(device="cpu", threads=1, min_runs=1, min_seconds=0.0)
    [request] = requests_for(load(path), settings, None, Silent(), path.parent)
    process._measure(request.model_copy(update={"warmup_seconds": 0.0, "max_runs": 1}))


def _end(run: Callable[[Path], None], path: Path) -> str:
    from tlexport.errors import TlxError

    try:
        run(path)
    except TlxError as error:
        return f"{error.exit_code} {error.message} | {error.hint}"
    except BaseException as error:  # noqa: BLE001  # whatever it is, the test shows it
        return f"raised {type(error).__name__}: {error}"
    return "0"


def _main() -> None:
    from tlexport import child

    child.limit_memory()
    warnings.simplefilter("ignore")
    for line in sys.stdin.read().splitlines():
        for name, run in (("estimate", _estimate), ("bench", _bench)):
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(SECONDS)
            print(json.dumps([line, name, _end(run, Path(line))]), flush=True)


if __name__ == "__main__":
    _main()

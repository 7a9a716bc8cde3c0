"""Test the repeatability, agreement and sensitivity of ``tlx bench``. Run it on a quiet machine; it takes about 25 minutes::

    python benchmarks/bench_quality.py tlx-demo/bundle/model.fp32.onnx
    python benchmarks/bench_quality.py tlx-demo/bundle/model.fp32.onnx --short --out /tmp/quality.json    # tests the script itself

- repeatability: range of the medians of five benches of one model, beside those of a bare loop in its own process, like
  onnxruntime_perf_test.
- agreement: the runner against a bare ONNX Runtime session with default settings, in turns as in ``--compare``.
- differences: an artificial slowdown of 10 % (bench_changed.py), and one of 0 %, in 20 comparisons each: how many are reported as
  significant?
- overhead: time that the clock and the runner add to a run, relative to the model's latency.

``--parts agreement,overhead`` repeats these parts and keeps the others in the file.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter_ns
from typing import Any, cast

import numpy as np
import onnx.parser
from bench_changed import RAW, raw_session

from tlexport import plugins
from tlexport.api.compare import Schedule
from tlexport.bench.compare import paired
from tlexport.bench.environment import describe_machine
from tlexport.bench.noise import noise
from tlexport.bench.process import BenchRequest, feeds_for, measure, run_options
from tlexport.bench.turns import play_round
from tlexport.child import command, environment
from tlexport.device.timing import time_runs
from tlexport.loading.bench_request import BenchSettings, requests_for
from tlexport.measurement import Interval
from tlexport.ports import RunOptions, Silent

RESULT = Path(__file__).parent / "results" / "bench_quality.json"
WITHIN = 0.03  # relative, of medians: for repeatability and agreement
OVERHEAD = 0.01
PLANTED = 10  # %
NOTHING = '<ir_version: 8, opset_import: ["" : 17]> nothing (float[N,4] x) => (float[N,4] y) { y = Relu(x) }'


def raw_loop(request: BenchRequest) -> float:
    """Median latency in ms in a new process, without this project's timing code."""
    done = subprocess.run(
        [*command("bench_quality"), "--raw"],
        input=request.absolute().model_dump_json(),
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def _raw(request: BenchRequest) -> float:
    """The bare loop: an ONNX Runtime session with default settings and the same inputs in turn."""
    session = raw_session(request)
    runtime = plugins.runtime(request.runtime)
    with runtime.open_model(request.path, run_options(request, runtime)) as runner:
        feeds, _ = feeds_for(request, runner.inputs)
    samples: list[int] = []
    begin = perf_counter_ns()
    while perf_counter_ns() - begin < (request.min_seconds + request.warmup_seconds) * 1e9:
        start = perf_counter_ns()
        session.run(None, feeds[len(samples) % len(feeds)])
        samples.append(perf_counter_ns() - start)
    return statistics.median(samples[len(samples) // 4 :]) / 1e6  # the first quarter is warm-up


def repeated(request: BenchRequest, times: int) -> dict[str, Any]:
    """Benches and bare loops in turn."""
    benches, raws, noises = [], [], []
    for _ in range(times):
        found = measure(request)
        benches.append(found.percentile_ms(50))
        noises.append(noise(found))
        raws.append(raw_loop(request))
        print(f"bench {benches[-1]:.4f} ms, raw loop {raws[-1]:.4f} ms  {noises[-1]}", flush=True)
    spread = max(benches) / min(benches) - 1
    return {"p50_ms": benches, "spread": spread, "noise": noises, "raw_p50_ms": raws, "passed": spread <= WITHIN}


def compared(request: BenchRequest, change: str, schedule: Schedule, settings: BenchSettings) -> Interval:
    """Compare a model with a modified copy of itself, with the rounds and statistics of ``--compare``."""
    play = functools.partial(play_round, module="bench_changed")
    other = request.model_copy(update={"what": request.what + change})
    taken = [play([request, other], schedule.turns, schedule.turn(settings), number) for number in range(schedule.rounds)]
    return paired([(one, two) for one, two in taken])


def agreement(request: BenchRequest, schedule: Schedule, settings: BenchSettings) -> dict[str, Any]:
    """Latency in the runner over latency in a bare session."""
    found = compared(request, RAW, schedule, settings)
    ours = Interval(1 / found.ratio, 1 / found.high, 1 / found.low)
    print(f"over the raw loop: {ours.ratio:.4f} ({ours.low:.4f} to {ours.high:.4f})", flush=True)
    return {"ratio": ours.ratio, "low": ours.low, "high": ours.high, "passed": abs(ours.ratio - 1) <= WITHIN}


def differences(request: BenchRequest, percent: float, trials: int, schedule: Schedule, settings: BenchSettings) -> dict[str, Any]:
    """Compare a model with a slowed-down copy of itself."""
    found = []
    for trial in range(trials):
        interval = compared(request, f"+{percent:g}%", schedule, settings)
        found.append({"ratio": interval.ratio, "low": interval.low, "high": interval.high, "real": interval.real})
        bounds = f"{interval.low:.4f} to {interval.high:.4f}"
        print(f"planted {percent:g} %, trial {trial + 1}: {interval.ratio:.4f} ({bounds}), {interval.in_words()}", flush=True)
    called_real = sum(bool(one["real"] and one["ratio"] > 1) for one in found) if percent else sum(bool(one["real"]) for one in found)
    right = called_real if percent else trials - called_real
    return {"planted": percent / 100, "trials": found, "right": right, "passed": right >= trials - trials // 20}


def overhead(request: BenchRequest, blocks: int) -> dict[str, Any]:
    """Time that the runner and the clock add to a run, relative to this model's latency.

    The overhead does not depend on the model, so it is measured with a nearly empty one: blocks of a bare loop and of measured runs in
    turn.
    """
    runtime, runs, added = plugins.runtime(request.runtime), 5000, []
    with tempfile.TemporaryDirectory(prefix="tlx-quality-") as folder:
        path = Path(folder) / "nothing.onnx"
        path.write_bytes(onnx.parser.parse_model(NOTHING).SerializeToString())
        with runtime.open_model(path, RunOptions(threads=1)) as runner:
            feed = {runner.inputs[0].name: np.zeros((1, 4), np.float32)}
            session, names = cast(Any, runner)._session, [spec.name for spec in runner.outputs]
            for _ in range(blocks):
                begin = perf_counter_ns()
                for _ in range(runs):
                    session.run(names, feed)
                bare = (perf_counter_ns() - begin) / runs
                _, samples = time_runs(runner.run, [feed], runs, 0, runs, 0)
                added.append(statistics.fmean(samples) - bare)
    model_ns, added_ns = measure(request).percentile_ms(50) * 1e6, statistics.median(added)
    print(f"overhead: {added_ns / 1e3:.2f} µs of {model_ns / 1e3:.1f} µs", flush=True)
    return {
        "added_ns": added_ns,
        "blocks_ns": added,
        "model_p50_ns": model_ns,
        "share": added_ns / model_ns,
        "passed": added_ns < OVERHEAD * model_ns,
    }


def main(arguments: Sequence[str]) -> None:
    if arguments == ["--raw"]:
        print(_raw(BenchRequest.model_validate_json(sys.stdin.read())))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path, help="any .onnx file, in a bundle or not")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--short", action="store_true", help="a quick run with two repetitions of everything")
    parser.add_argument("--parts", type=lambda text: text.split(","), help="default: all")
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args(arguments)
    settings = BenchSettings(runtime="onnxruntime", device="cpu", threads=asked.threads, min_seconds=0.1 if asked.short else 2.0)
    schedule, times, trials, blocks = (Schedule(4, 2), 2, 2, 3) if asked.short else (Schedule(), 5, asked.trials, 20)
    result = json.loads(asked.out.read_text(encoding="utf-8")) if asked.parts else {}
    with tempfile.TemporaryDirectory(prefix="tlx-quality-") as folder:
        [found] = requests_for(asked.model, settings, None, Silent(), Path(folder))
        request = found.model_copy(update={"what": asked.model.name, "images": ()})
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "repeatability": lambda: repeated(request, times),
            "agreement": lambda: agreement(request, replace(schedule, rounds=4 * schedule.rounds), settings),
            "slowdown": lambda: differences(request, PLANTED, trials, schedule, settings),
            "no_slowdown": lambda: differences(request, 0, trials, schedule, settings),
            "overhead": lambda: overhead(request, blocks),
        }
        result |= {"model": request.what, "sha256": request.artifact_sha256, "threads": asked.threads, "short": asked.short}
        result["environment"] = describe_machine().model_dump(mode="json")
        result |= {name: parts[name]() for name in asked.parts or parts}
    asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, part in result.items():
        if isinstance(part, dict) and "passed" in part:
            print(f"{name}: {'passed' if part['passed'] else 'FAILED'}")


if __name__ == "__main__":
    main(sys.argv[1:])

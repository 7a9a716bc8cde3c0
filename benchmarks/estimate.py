"""Calibrate this machine, predict torchvision's classifiers, measure them, and report the error::

    python benchmarks/estimate_networks.py /tmp/networks     # once: export them, FP32 and INT8
    python benchmarks/estimate.py /tmp/networks

For each precision and number of threads, the layers of probe networks are timed, as in ``tlx profiles calibrate``, and a model is fitted.
Every network is predicted without being run, and then measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tlexport import plugins
from tlexport.api.calibrate_profile import calibrate
from tlexport.bench.environment import describe_machine
from tlexport.device.timing import time_runs
from tlexport.estimate.cost import cost_of
from tlexport.estimate.graph import fused, read
from tlexport.estimate.layer_times import predict_from_layers
from tlexport.estimate.timing import VISITS
from tlexport.hardware.device_model import DeviceModel
from tlexport.hardware.target import load_profile
from tlexport.ports import RunOptions

RESULT = Path(__file__).parent / "results" / "estimate.json"


def networks(folder: Path, precision: str) -> dict[str, Path]:
    """Exported networks by name."""
    ending = ".int8.onnx" if precision == "int8" else ".onnx"
    files = {path.name.removesuffix(ending): path for path in sorted(folder.glob(f"*{ending}"))}
    return {name: path for name, path in files.items() if "." not in name}


def predictions(files: dict[str, Path], models: Sequence[DeviceModel]) -> dict[str, list[tuple[float, float, float]]]:
    """Prediction and interval in ms of each network with each model."""
    found = {}
    for name, path in files.items():
        graph = fused(read(path), layout=True)
        cost, nodes = cost_of(graph), len(graph.graph.node)
        answers = [predict_from_layers(cost, nodes, model) for model in models]
        found[name] = [(answer.p50_ms, answer.low_ms, answer.high_ms) for answer in answers]
    return found


def measured(path: Path, threads: Sequence[int]) -> dict[int, float]:
    """Median latency in ms per number of threads: the fastest of three visits in turn, as in calibration."""
    runtime = plugins.runtime("onnxruntime")
    with contextlib.ExitStack() as stack:
        runners = {count: stack.enter_context(runtime.open_model(path, RunOptions(threads=count, batch=1))) for count in threads}
        draw = np.random.default_rng(0)
        feeds = [{spec.name: draw.standard_normal(spec.shape, np.float32) for spec in runners[threads[0]].inputs}]
        visits = [
            {count: statistics.median(time_runs(runner.run, feeds, 5, 0.3, 500, 0.15)[1]) for count, runner in runners.items()}
            for _ in range(VISITS)
        ]
    return {count: min(visit[count] for visit in visits) / 1e6 for count in threads}


def summary(rows: dict[str, dict[str, float]]) -> dict[str, float]:
    """Shares within 10 and 25 %, coverage of the interval, median and worst error."""
    errors = np.array([abs(row["predicted_ms"] / row["measured_ms"] - 1) for row in rows.values()])
    inside = [row["low_ms"] <= row["measured_ms"] <= row["high_ms"] for row in rows.values()]
    return {
        "networks": len(rows),
        "within_10": round(float((errors <= 0.10).mean()), 3),
        "within_25": round(float((errors <= 0.25).mean()), 3),
        "median_error": round(float(np.median(errors)), 4),
        "worst_error": round(float(errors.max()), 3),
        "interval_covers": round(float(np.mean(inside)), 3),
    }


def run(folder: Path, precision: str, threads: Sequence[int], seconds: float) -> list[dict[str, Any]]:
    """Calibrate, predict, measure."""
    models = calibrate(load_profile("cpu-x86"), precision, threads, seconds)  # type: ignore[arg-type]  # one of the two
    files = networks(folder, precision)
    predicted = predictions(files, models)
    found = {}
    for name, path in files.items():
        found[name] = measured(path, threads)
        told = ", ".join(f"{ms:.2f} ms, predicted {p50:.2f}" for ms, (p50, _, _) in zip(found[name].values(), predicted[name], strict=True))
        print(f"{precision} {name}: {told}", flush=True)
    results = []
    for index, model in enumerate(models):
        rows = {}
        for name, answers in predicted.items():
            p50, low, high = answers[index]
            rows[name] = {"measured_ms": found[name][model.threads], "predicted_ms": p50, "low_ms": low, "high_ms": high}
        calibration = {"probes": model.probes, "error": model.error, "within_10": model.within_10, "low": model.low, "high": model.high}
        results.append({"precision": precision, "threads": model.threads, **summary(rows), "calibration": calibration, "rows": rows})
        print(json.dumps({k: v for k, v in results[-1].items() if k != "rows"}), flush=True)
    return results


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Plot predicted against measured latency, with a band of 10 %."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(results), figsize=(4 * len(results), 4), squeeze=False)
    for axis, result in zip(axes[0], results, strict=True):
        found = np.array([[row["measured_ms"], row["predicted_ms"]] for row in result["rows"].values()])
        ends = np.array([found.min(), found.max()])
        axis.fill_between(ends, 0.9 * ends, 1.1 * ends, alpha=0.2, label="±10 %")
        axis.loglog(found[:, 0], found[:, 1], ".", markersize=4)
        axis.set(title=f"{result['precision']}, {result['threads']} thread(s)", xlabel="measured, ms", ylabel="predicted, ms")
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--precision", nargs="+", default=["fp32", "int8"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    results = []
    for precision in options.precision:
        results += run(options.folder, precision, options.threads, options.seconds)
    environment = describe_machine("cpu").model_dump()
    what = "predicted and measured latency, ms, of torchvision's classifiers with random weights, batch 1; none was used in calibration"
    options.result.write_text(json.dumps({"what": what, "environment": environment, "results": results}, indent=1) + "\n", encoding="utf-8")
    plot(results, options.result.with_suffix(".png"))


if __name__ == "__main__":
    main()

"""The tables of README.md and docs/, made from the JSON files in benchmarks/results/. docs/generate.py inserts them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
TRAINED = {"frozen": "head", "last2": "last two stages and head", "full": "all"}
CONTENDERS = {"tlx": "`tlx finetune`", "plain": "PyTorch loop", "fastai": "fastai"}
TRANSFER = {"from scratch": "trained from scratch", "random trunk, its best stage": "linear classifier on a random trunk"}
FORMS = {
    "fp32": "FP32",
    "fp16": "FP16",
    "int8": "INT8",
    "onnxruntime": "`quantize_static`, U8S8",
    "onnxruntime_defaults": "`quantize_static`, S8S8 (default)",
    "openvino_fp32": "OpenVINO FP32",
    "nncf": "NNCF + OpenVINO",
}


def read_result(name: str) -> dict[str, Any]:
    """Read benchmarks/results/NAME.json."""
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return result


def _table(heading: str, alignment: str, rows: list[list[str]], note: str = "") -> str:
    """A Markdown table. ``alignment`` has one letter per column: l or r."""
    lines = [f"| {heading} |", "|" + "".join("---|" if side == "l" else "---:|" for side in alignment)]
    lines += [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join(lines + (["", note] if note else []))


def _percent(share: float) -> str:
    return f"{100 * share:.0f}"


def _onnxruntime(versions: dict[str, str]) -> str:
    return "ONNX Runtime " + (versions.get("onnxruntime") or versions["onnxruntime-gpu"])


def _machine(environment: dict[str, Any]) -> str:
    return f"{environment['cpu']} with {environment['cores']} cores"


def demo_table() -> str:
    """Size, accuracy and latency of the demo's models."""
    result = read_result("demo")
    where = result["environment"]
    rows = [
        [
            model["precision"].upper() + (" (chosen)" if model["chosen"] else ""),
            f"{model['size_bytes'] / 1e6:.2f}",
            f"{100 * model['top1']:.2f}",
            f"{model['p50_ms']:.3f}",
            f"{model['p95_ms']:.3f}",
        ]
        for model in result["models"]
    ]
    note = (
        f"Top-1 on {result['n']} validation images; latency at batch 1 with {result['threads']} thread, {_onnxruntime(where['versions'])}, "
        f"{_machine(where)}. The whole demo took {result['seconds']:.0f} s (`python benchmarks/demo.py`)."
    )
    return _table("model | size (MB) | top-1 (%) | p50 (ms) | p95 (ms)", "lrrrr", rows, note)


def transfer_table() -> str:
    """Accuracy with an embedded, a random and no frozen trunk."""
    result = read_result("transfer")
    seeds = len(next(iter(result["top1"].values())))
    rows = [
        [TRANSFER.get(name, name), *(f"{100 * value:.1f}" for value in (result["mean"][name], result["stdev"][name], *values))]
        for name, values in result["top1"].items()
    ]
    heading = " | mean top-1 (%) | standard deviation | " + " | ".join(f"seed {seed}" for seed in range(seeds))
    return _table(heading, "l" + "r" * (seeds + 2), rows)


def accuracy_table() -> str:
    """Top-1 accuracy of the strategies from one trunk."""
    result = read_result("accuracy")
    runs: dict[tuple[str, int], dict[str, Any]] = {}
    for run in result["runs"]:
        runs.setdefault((run["set"], run["per_class"]), {}).setdefault(run["method"], []).append(run)
    methods = list(dict.fromkeys(run["method"] for run in result["runs"]))
    rows = [
        [name, str(count), *(f"{100 * statistics.mean(run['top1'] for run in of[m]):.1f}" if m in of else "–" for m in methods)]
        for (name, count), of in runs.items()
    ]
    seeds, size = len({run["seed"] for run in result["runs"]}), result["image_size"]
    note = f"Top-1 in percent on held-out images; {result['backbone']} with ImageNet weights, {size} pixels, {seeds} seed(s) "
    note += "(`python benchmarks/accuracy.py`)."
    return _table(f"set | images a class | {' | '.join(methods)}", "lr" + "r" * len(methods), rows, note)


def speed_table() -> str:
    """Wall time, accuracy and memory of fine-tuning."""
    runs, rows = _speed_runs(), []
    for run in runs:
        ours = _wall_s(run["contenders"]["tlx"])
        for name, row in run["contenders"].items():
            factor = "" if name == "tlx" else f"{_wall_s(row) / ours:.1f}"
            figures = [f"{_wall_s(row):.1f}", factor, _top1(row), f"{max(row['peak_pss_bytes']) / 1e6:.0f}"]
            rows.append([f"{run['images']:,}", TRAINED[run["mode"]], str(run["epochs"]), CONTENDERS[name], *figures])
    heading = "images | trained layers | epochs | | wall time (s) | time / `tlx` | top-1 (%) | peak memory (MB)"
    note = f"{_speed_setup(runs[0])}. Memory shared between processes is counted once (`python benchmarks/finetune_speed.py`)."
    return _table(heading, "rlrlrrrr", rows, note)


def speed_summary() -> str:
    """Wall time and accuracy of fine-tuning, one row per job."""
    runs, rows = _speed_runs(), []
    for run in runs:
        found = [run["contenders"].get(name) for name in CONTENDERS]
        cells = ["–" if row is None else f"{_wall_s(row):.1f} s ({_top1(row)} %)" for row in found]
        rows.append([f"{run['images']:,}", TRAINED[run["mode"]], str(run["epochs"]), *cells])
    heading = "images | trained layers | epochs | " + " | ".join(CONTENDERS.values())
    return _table(heading, "rlr" + "r" * len(CONTENDERS), rows, f"{_speed_setup(runs[0])} (`python benchmarks/finetune_speed.py`).")


def _speed_runs() -> list[dict[str, Any]]:
    return sorted(read_result("finetune_speed")["runs"], key=lambda run: (run["mode"], run["images"]))


def _wall_s(row: dict[str, Any]) -> float:
    return statistics.median(row["wall_s"])


def _top1(row: dict[str, Any]) -> str:
    return f"{100 * statistics.fmean(row['top1']):.1f}"


def _speed_setup(run: dict[str, Any]) -> str:
    torch = run["contenders"]["tlx"]["versions"]["torch"]
    return f"{run['backbone']} at {run['image_size']} pixels, batch size {run['batch_size']}; torch {torch}, {_machine(run['environment'])}"


def calibrated_table() -> str:
    """Error of estimates for a calibrated machine."""
    result = read_result("estimate")
    measures = ("within_10", "within_25", "median_error", "worst_error", "interval_covers")
    rows = [
        [found["precision"].upper(), str(found["threads"]), str(found["networks"]), *(_percent(found[name]) for name in measures)]
        for found in result["results"]
    ]
    heading = " | threads | networks | within 10 % (%) | within 25 % (%) | median error (%) | worst (%) | in the 80 % interval (%)"
    where = result["environment"]
    return _table(heading, "lrrrrrrr", rows, f"{_onnxruntime(where['versions'])}, {_machine(where)} (`python benchmarks/estimate.py`).")


def estimates_summary() -> str:
    """Error of estimates, one row per case."""
    rows = []
    for found in read_result("estimate")["results"]:
        threads = f"{found['threads']} thread{'s' if found['threads'] > 1 else ''}"
        case = f"calibration of the same CPU, {found['precision'].upper()}, {threads}"
        figures = [_percent(found[name]) for name in ("median_error", "interval_covers")]
        rows.append([case, f"{found['networks']} measured networks", *figures])
    boards = read_result("boards")["left_out"]
    case = "latencies that others published for the board"
    rows.append([case, f"{boards['rows']} published latencies", _percent(boards["median_error"]), _percent(boards["coverage"])])
    return _table("estimated from | compared with | median error (%) | in the 80 % interval (%)", "llrr", rows)


def boards_table() -> str:
    """Error of the boards' figures for networks left out of the fit."""
    result = read_result("boards")
    kinds = {"**all**": result["left_out"]} | result["runtimes"] | {"all, leaving out the whole architecture": result["strangers"]}
    columns = "published latencies | median error (%) | in the 80 % interval (%)"
    total = _table(f" | {columns}", "lrrr", [[name, *_left_out(found)] for name, found in kinds.items()])
    rows = [[found["board"], found["runtime"], found["precision"].upper(), *_left_out(found)] for found in result["boards"]]
    return f"{total}\n\n" + _table(f"board | runtime | precision | {columns}", "lllrrr", rows)


def _left_out(found: dict[str, float]) -> list[str]:
    return [str(found["rows"]), _percent(found["median_error"]), _percent(found["coverage"])]


def quantization_table() -> str:
    """Accuracy, size and latency of each form of each network."""
    result = read_result("quantization")
    networks, rows = result["networks"], []
    forms = [name for name in FORMS if name in networks[0]["forms"]]
    figures: dict[str, Callable[[dict[str, float]], str]] = {
        "top-1 (%)": lambda row: f"{100 * row['top1']:.2f}",
        "size (MB)": lambda row: f"{row['size_bytes'] / 1e6:.2f}",
        "p50 (ms)": lambda row: f"{row['p50_ms']:.2f}",
    }
    for network in networks:
        for what, figure in figures.items():
            name = network["backbone"] if what == "top-1 (%)" else ""
            rows.append([name, what, *(figure(network["forms"][form]) for form in forms)])
    note = f"{_quantization_setup(result)} (`python benchmarks/quantization.py`)."
    mixed = [network["backbone"] for network in networks if "in float" in network["forms"]["int8"]["made_by"]]
    if mixed:
        note += f"\n\nThe INT8 models of {', '.join(mixed)} keep some layers in float because that is faster."
    return _table(" | | " + " | ".join(FORMS[name] for name in forms), "ll" + "r" * len(forms), rows, note)


def quantization_summary() -> str:
    """Latency and accuracy of INT8, one row per network."""
    result, rows = read_result("quantization"), []
    for network in result["networks"]:
        forms = network["forms"]
        times = [forms["fp32"]["p50_ms"], forms["int8"]["p50_ms"], _quantize_static_ms(forms), forms["nncf"]["p50_ms"]]
        accuracies = [forms[name]["top1"] for name in ("fp32", "int8")]
        rows.append([network["backbone"], *(f"{time:.2f}" for time in times), *(f"{100 * top1:.2f}" for top1 in accuracies)])
    heading = " | FP32 (ms) | INT8 (ms) | `quantize_static` (ms) | NNCF + OpenVINO (ms) | FP32 top-1 (%) | INT8 top-1 (%)"
    note = (
        f"{_quantization_setup(result)}. `quantize_static` is the faster of U8S8 and its default, S8S8 "
        "(`python benchmarks/quantization.py`)."
    )
    return _table(heading, "lrrrrrr", rows, note)


def _quantize_static_ms(forms: dict[str, Any]) -> float:
    return min(float(forms[name]["p50_ms"]) for name in ("onnxruntime", "onnxruntime_defaults"))


def _quantization_setup(result: dict[str, Any]) -> str:
    versions, first = result["timed_with"], result["networks"][0]
    peers = f", NNCF {versions['nncf']}, OpenVINO {versions['openvino']}" if "nncf" in first["forms"] else ""
    return (
        f"Top-1 on {first['val_images']} validation images of {first['data']} at {first['image_size']} pixels, calibrated on "
        f"{first['calibration_images']} training images; latency at batch 1 with one thread, all models timed in turn by one process; "
        f"{_onnxruntime(versions)}{peers}, {_machine(result['environment'])}"
    )


def peers_table() -> str:
    """Latency of the peers' INT8 models relative to tlexport's, with and without AMX."""
    runs = [read_result(name) for name in ("quantization", "quantization_without_amx")]
    rows = []
    for networks in zip(*(run["networks"] for run in runs), strict=True):
        ratios = []
        for forms in (network["forms"] for network in networks):
            ours = forms["int8"]["p50_ms"]
            ratios += [_quantize_static_ms(forms) / ours, forms["nncf"]["p50_ms"] / ours]
        rows.append([networks[0]["backbone"], *(f"{ratio:.2f}" for ratio in ratios)])
    first, second = runs
    note = (
        f"Latency relative to tlexport's INT8 at {first['networks'][0]['image_size']} pixels, one thread, all models timed in turn. "
        f"Two runs of `python benchmarks/quantization.py` on {_machine(first['environment'])} ({', '.join(first['instructions'])}); "
        f"the second with `ONEDNN_MAX_CPU_ISA={second['onednn_max_cpu_isa']}`."
    )
    heading = " | `quantize_static` | NNCF + OpenVINO | without AMX: `quantize_static` | without AMX: NNCF + OpenVINO"
    return _table(heading, "lrrrr", rows, note)


def families_table() -> str:
    """Latency of FP32 and INT8 for one network of each family."""
    result = read_result("int8_families")
    where = result["environment"]
    columns = ("fp32_ms", "int8_ms", "mixed_ms", "speedup")
    rows = [[found["backbone"], *(f"{found[name]:.2f}" for name in columns)] for found in result["networks"]]
    note = (
        f"Median latency at batch 1, {result['size']} pixels, one thread, all models timed in turn; random weights; "
        f"{_onnxruntime(where['versions'])}, {_machine(where)} (`python benchmarks/int8_families.py`)."
    )
    return _table(" | FP32 (ms) | INT8, every block (ms) | INT8, fastest mix (ms) | FP32 / fastest mix", "lrrrr", rows, note)


def quality_table() -> str:
    """Repeatability and sensitivity of ``tlx bench``."""
    result = read_result("bench_quality")
    again, raw, added, where = (result[name] for name in ("repeatability", "agreement", "overhead", "environment"))
    ratio = f"{raw['ratio'] - 1:+.1%} ({raw['low'] - 1:+.1%} to {raw['high'] - 1:+.1%})"
    rows = [
        [f"range of the medians of {len(again['p50_ms'])} benches of one model", "3 %", f"{again['spread']:.1%}"],
        ["latency in the runner over latency in a bare session (99 % interval)", "within 3 %", ratio],
    ]
    for name, what in (("slowdown", "reported as slower"), ("no_slowdown", "reported as no difference")):
        trials = len(result[name]["trials"])
        asked, right = f"{trials - trials // 20} of {trials}", f"{result[name]['right']} of {trials}"
        rows.append([f"artificial slowdown of {result[name]['planted']:.0%}: {what}", asked, right])
    rows.append(["overhead of the measurement per run", "1 %", f"{added['share']:.1%}"])
    noisy = sum(bool(text) for text in again["noise"])
    note = (
        f"{result['model']}, {result['threads']} thread, {_onnxruntime(where['versions'])}, {_machine(where)}; {noisy} of the "
        f"{len(again['noise'])} benches reported a noisy machine (`python benchmarks/bench_quality.py MODEL`)."
    )
    return _table(" | target | result", "lrr", rows, note)


def attack_table() -> str:
    """Outcome of fault injection and hostile input."""
    result = read_result("attack")
    columns = ("tries", "held", "traceback", "half-written", "code run", "leftover", "other")
    rows = [[row["group"], *(str(row[name]) for name in columns)] for row in result["rows"]]
    rows.append(["**all**", *(str(sum(row[name] for row in result["rows"])) for name in columns)])
    heading = "trial | runs | passed | traceback | partial output | code executed | leftovers | other"
    note = f"{_machine(result['environment'])}, seed {result['seed']} (`python benchmarks/attack.py`)."
    return _table(heading, "l" + "r" * len(columns), rows, note)


TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {
        "demo": demo_table,
        "speed": speed_summary,
        "quantization": quantization_summary,
        "estimates": estimates_summary,
    },
    "docs/training.md": {"accuracy": accuracy_table, "transfer": transfer_table, "speed": speed_table},
    "docs/estimates.md": {"calibrated": calibrated_table, "boards": boards_table},
    "docs/quantization.md": {"families": families_table, "quantization": quantization_table, "peers": peers_table},
    "docs/bench.md": {"quality": quality_table},
    "docs/verified.md": {"attack": attack_table},
}

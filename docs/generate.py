"""Writes what is generated: docs/cli.md from the commands, tables from benchmarks/results/, the JSON Schemas of profiles and manifests.

    python docs/generate.py

A test compares; run this when it says that they differ.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from tlexport.api.profiles import write_schema
from tlexport.bundle import MANIFEST, Manifest
from tlexport.cli.main import tlx
from tlexport.profile_schema import FILE

MANIFEST_SCHEMA = "manifest.schema.json"
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
TRAINED = {"frozen": "the head", "last2": "the last two stages and the head", "full": "everything"}
CONTENDERS = {"tlx": "`tlx finetune`", "plain": "plain torch loop", "fastai": "fastai"}

FORMS = {
    "fp32": "FP32",
    "fp16": "FP16",
    "int8": "INT8",
    "onnxruntime": "`quantize_static`, U8S8",
    "onnxruntime_defaults": "its defaults, S8S8",
    "openvino_fp32": "OpenVINO, FP32",
    "nncf": "NNCF, OpenVINO",
}


def cli_reference() -> str:
    """docs/cli.md: the help of every command, as it is printed at 100 columns."""
    parts = ["# The commands\n\nGenerated from the commands by `docs/generate.py`; do not edit.\n"]
    for context in _contexts(tlx, None, "tlx"):
        parts.append(f"## {context.command_path}\n\n```\n{context.command.get_help(context).rstrip()}\n```\n")
    return "\n".join(parts)


def _contexts(command: click.Command, parent: click.Context | None, name: str) -> Iterator[click.Context]:
    """A context for each command as the command line makes it: with its parent, whose settings it inherits."""
    context = click.Context(command, parent, name, max_content_width=100, terminal_width=100, **command.context_settings)
    yield context
    if isinstance(command, click.Group):
        for child_name in command.list_commands(context):
            child = command.get_command(context, child_name)
            if child is not None:
                yield from _contexts(child, context, child_name)


def manifest_schema() -> dict[str, Any]:
    """docs/manifest.schema.json: the JSON Schema of a bundle's manifest, from the records that read and write it."""
    heading = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"tlexport bundle, {MANIFEST}",
        "description": "docs/bundle-format.md explains it.",
    }
    return heading | {key: part for key, part in Manifest.model_json_schema().items() if key not in heading}


def demo_table() -> str:
    """The demo's table, from benchmarks/results/demo.json."""
    result = json.loads((RESULTS / "demo.json").read_text(encoding="utf-8"))
    lines = ["| model | size, MB | top-1, % | p50, ms | p95, ms |", "|---|---:|---:|---:|---:|"]
    for model in result["models"]:
        name = model["precision"].upper() + (" (chosen)" if model["chosen"] else "")
        figures = f"{model['size_bytes'] / 1e6:.2f} | {100 * model['top1']:.2f} | {model['p50_ms']:.3f} | {model['p95_ms']:.3f}"
        lines.append(f"| {name} | {figures} |")
    environment = result["environment"]
    lines.append(
        f"\nTop-1 of {result['n']} validation images; latency of one image, ONNX Runtime {_onnxruntime(environment['versions'])}, "
        f"{result['threads']} thread, {environment['cpu']} with {environment['cores']} cores; {result['seconds']:.0f} s for the whole demo "
        "(`python benchmarks/demo.py`)."
    )
    return "\n".join(lines)


def _onnxruntime(versions: dict[str, str]) -> str:
    return versions.get("onnxruntime") or versions["onnxruntime-gpu"]


def transfer_table() -> str:
    """The transfer table, from benchmarks/results/transfer.json."""
    result = json.loads((RESULTS / "transfer.json").read_text(encoding="utf-8"))
    seeds = len(next(iter(result["top1"].values())))
    lines = ["| | top-1, %, mean | standard deviation | " + " | ".join(f"seed {seed}" for seed in range(seeds)) + " |"]
    lines.append("|---|" + "---:|" * (seeds + 2))
    for name, values in result["top1"].items():
        cells = [f"{100 * value:.1f}" for value in (result["mean"][name], result["stdev"][name], *values)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def speed_table() -> str:
    """Wall times of fine-tuning, from benchmarks/results/finetune_speed.json."""
    runs = json.loads((RESULTS / "finetune_speed.json").read_text(encoding="utf-8"))["runs"]
    lines = [
        "| images | trained | epochs | | whole process, s | `tlx` is faster by | top-1, % | peak memory, MB |",
        "|---:|---|---:|---|---:|---:|---:|---:|",
    ]
    for run in sorted(runs, key=lambda run: (run["mode"], run["images"])):
        for name, row in run["contenders"].items():
            seconds, ours = (statistics.median(found["wall_s"]) for found in (row, run["contenders"]["tlx"]))
            factor = "" if name == "tlx" else f"{seconds / ours:.1f}"
            memory = max(row["peak_pss_bytes"]) / 1e6
            figures = f"{seconds:.1f} | {factor} | {100 * statistics.fmean(row['top1']):.1f} | {memory:.0f}"
            lines.append(f"| {run['images']:,} | {TRAINED[run['mode']]} | {run['epochs']} | {CONTENDERS[name]} | {figures} |")
    last = runs[-1]
    versions = last["contenders"]["tlx"]["versions"]
    lines.append(
        f"\n{last['backbone']} at {last['image_size']} pixels, batches of {last['batch_size']}; torch "
        f"{versions['torch']}, {last['environment']['cpu']} with {last['environment']['cores']} cores. Memory shared by several processes "
        "is counted once (`python benchmarks/finetune_speed.py`, whose first lines say what everyone is given)."
    )
    return "\n".join(lines)


def calibrated_table() -> str:
    """How far off a calibrated machine's predictions are, from benchmarks/results/estimate.json."""
    result = json.loads((RESULTS / "estimate.json").read_text(encoding="utf-8"))
    lines = ["| | threads | networks | within 10 %, % | within 25 %, % | median error, % | worst, % | in the 80 % interval, % |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|---:|")
    for found in result["results"]:
        shares = [found[name] for name in ("within_10", "within_25", "median_error", "worst_error", "interval_covers")]
        figures = " | ".join(f"{100 * share:.0f}" for share in shares)
        lines.append(f"| {found['precision'].upper()} | {found['threads']} | {found['networks']} | {figures} |")
    where = result["environment"]
    runtime = _onnxruntime(where["versions"])
    lines += ["", f"ONNX Runtime {runtime}, {where['cpu']} with {where['cores']} cores (`python benchmarks/estimate.py`)."]
    return "\n".join(lines)


def boards_table() -> str:
    """How far off the boards' figures are for networks left out, from benchmarks/results/boards.json."""
    result = json.loads((RESULTS / "boards.json").read_text(encoding="utf-8"))
    lines = ["| | published latencies | median error, % | in the 80 % interval, % |", "|---|---:|---:|---:|"]
    rows = {"**all**": result["left_out"]} | result["runtimes"]
    rows["all, with every network of the same architecture left out"] = result["strangers"]
    lines += [f"| {name} | {_left_out(found)} |" for name, found in rows.items()]
    lines += ["", "| board | runtime | | published latencies | median error, % | in the 80 % interval, % |", "|---|---|---|---:|---:|---:|"]
    lines += [
        f"| {found['board']} | {found['runtime']} | {found['precision'].upper()} | {_left_out(found)} |" for found in result["boards"]
    ]
    return "\n".join(lines)


def _left_out(found: dict[str, float]) -> str:
    return f"{found['rows']} | {100 * found['median_error']:.0f} | {100 * found['coverage']:.0f}"


def quantization_table() -> str:
    """Accuracy, size and latency of each form of each network, from benchmarks/results/quantization.json."""
    result = json.loads((RESULTS / "quantization.json").read_text(encoding="utf-8"))
    networks = result["networks"]
    forms = [name for name in FORMS if name in networks[0]["forms"]]
    lines = ["| | | " + " | ".join(FORMS[name] for name in forms) + " |", "|---|---|" + "---:|" * len(forms)]
    figures: dict[str, Callable[[dict[str, float]], str]] = {
        "top-1, %": lambda row: f"{100 * row['top1']:.2f}",
        "size, MB": lambda row: f"{row['size_bytes'] / 1e6:.2f}",
        "p50, ms": lambda row: f"{row['p50_ms']:.2f}",
    }
    for network in networks:
        for what, figure in figures.items():
            name = network["backbone"] if what == "top-1, %" else ""
            lines.append(f"| {name} | {what} | " + " | ".join(figure(network["forms"][form]) for form in forms) + " |")
    versions, where, first = result["timed_with"], result["environment"], networks[0]
    peers = f", NNCF {versions['nncf']}, OpenVINO {versions['openvino']}" if "nncf" in forms else ""
    lines.append(
        f"\nTop-1 of {first['val_images']} validation images of {first['data']} at {first['image_size']} pixels, "
        f"{first['calibration_images']} training images to calibrate with; latency of one image with one thread, all models timed in turn "
        f"by one process; ONNX Runtime {_onnxruntime(versions)}{peers}, {where['cpu']} with {where['cores']} cores "
        "(`python benchmarks/quantization.py`)."
    )
    mixed = [network["backbone"] for network in networks if "in float" in network["forms"]["int8"]["made_by"]]
    if mixed:
        lines.append(f"\nFor speed, INT8 has layers in float in {', '.join(mixed)}.")
    return "\n".join(lines)


def peers_table() -> str:
    """How many times as long the peers' INT8 takes, from benchmarks/results/quantization.json and quantization_without_amx.json."""
    runs = [json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")) for name in ("quantization", "quantization_without_amx")]
    lines = [
        "| | `quantize_static` | NNCF, OpenVINO | kept from AMX: `quantize_static` | NNCF, OpenVINO |",
        "|---|---:|---:|---:|---:|",
    ]
    for networks in zip(*(run["networks"] for run in runs), strict=True):
        ratios = []
        for forms in (network["forms"] for network in networks):
            static = min(forms[name]["p50_ms"] for name in ("onnxruntime", "onnxruntime_defaults"))
            ratios += [static / forms["int8"]["p50_ms"], forms["nncf"]["p50_ms"] / forms["int8"]["p50_ms"]]
        lines.append(f"| {networks[0]['backbone']} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |")
    first, second = runs
    where = f"{first['environment']['cpu']} with {first['environment']['cores']} cores ({', '.join(first['instructions'])})"
    lines.append(
        f"\nTime over that of this project's INT8, {first['networks'][0]['image_size']} pixels, one thread, all timed in turn; two runs of "
        f"`python benchmarks/quantization.py` on {where}, the second with `ONEDNN_MAX_CPU_ISA={second['onednn_max_cpu_isa']}`."
    )
    return "\n".join(lines)


def families_table() -> str:
    """INT8 against FP32 for a network of each family, from benchmarks/results/int8_families.json."""
    result = json.loads((RESULTS / "int8_families.json").read_text(encoding="utf-8"))
    lines = ["| | FP32, ms | INT8 throughout, ms | INT8 as is fastest, ms | FP32 / that |", "|---|---:|---:|---:|---:|"]
    for found in result["networks"]:
        times = " | ".join(f"{found[name]:.2f}" for name in ("fp32_ms", "int8_ms", "mixed_ms", "speedup"))
        lines.append(f"| {found['backbone']} | {times} |")
    where = result["environment"]
    lines.append(
        f"\nMedian of one image of {result['size']} pixels with one thread, all forms timed in turn; random weights; ONNX Runtime "
        f"{_onnxruntime(where['versions'])}, {where['cpu']} with {where['cores']} cores (`python benchmarks/int8_families.py`)."
    )
    return "\n".join(lines)


def quality_table() -> str:
    """What a bench's figures are worth, from benchmarks/results/bench_quality.json."""
    result = json.loads((RESULTS / "bench_quality.json").read_text(encoding="utf-8"))
    again, raw, added, where = (result[name] for name in ("repeatability", "agreement", "overhead", "environment"))
    rows = {
        f"the same model benched {len(again['p50_ms'])} times: the slowest median above the fastest": ("3 %", f"{again['spread']:.1%}"),
        "the runner over a raw session, in turn (99 % interval)": (
            "within 3 %",
            f"{raw['ratio'] - 1:+.1%} ({raw['low'] - 1:+.1%} to {raw['high'] - 1:+.1%})",
        ),
    }
    for name, what in (("slowdown", "called slower"), ("no_slowdown", "called no difference")):
        trials = len(result[name]["trials"])
        rows[f"{result[name]['planted']:.0%} planted: {what}"] = (
            f"{trials - trials // 20} of {trials}",
            f"{result[name]['right']} of {trials}",
        )
    rows["what measuring adds to a run"] = ("1 %", f"{added['share']:.1%}")
    lines = ["| | asked | found |", "|---|---:|---:|", *(f"| {what} | {asked} | {found} |" for what, (asked, found) in rows.items())]
    noisy = sum(bool(text) for text in again["noise"])
    lines.append(
        f"\n{result['model']}, {result['threads']} thread, ONNX Runtime {_onnxruntime(where['versions'])}, {where['cpu']} with "
        f"{where['cores']} cores; {noisy} of the {len(again['noise'])} benches said that the machine was not quiet "
        "(`python benchmarks/bench_quality.py MODEL`)."
    )
    return "\n".join(lines)


def attack_table() -> str:
    """How often promises held under attack, from benchmarks/results/attack.json."""
    result = json.loads((RESULTS / "attack.json").read_text(encoding="utf-8"))
    columns = ("tries", "held", "traceback", "half-written", "code run", "leftover", "other")
    lines = ["| | tries | held | tracebacks | half-written | code run | leftovers | other |", "|---|" + "---:|" * len(columns)]
    lines += [f"| {row['group']} | " + " | ".join(str(row[name]) for name in columns) + " |" for row in result["rows"]]
    lines.append("| **all** | " + " | ".join(str(sum(row[name] for row in result["rows"])) for name in columns) + " |")
    where = result["environment"]
    lines.append(f"\n{where['cpu']} with {where['cores']} cores, seed {result['seed']} (`python benchmarks/attack.py`).")
    return "\n".join(lines)


TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {
        "demo": demo_table,
        "transfer": transfer_table,
        "speed": speed_table,
        "quantization": quantization_table,
        "calibrated": calibrated_table,
    },
    "docs/estimates.md": {"boards": boards_table},
    "docs/quantization.md": {"families": families_table, "peers": peers_table},
    "docs/bench.md": {"quality": quality_table},
    "docs/verified.md": {"attack": attack_table},
}


def with_tables(path: str) -> str:
    """A file of TABLES with its generated parts made anew."""
    text = (ROOT / path).read_text(encoding="utf-8")
    for name, table in TABLES[path].items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        before, rest = text.split(begin)
        _, after = rest.split(end)
        text = f"{before}{begin}\n{table()}\n{end}{after}"
    return text


def main() -> None:
    """Write the files."""
    (ROOT / "docs" / "cli.md").write_text(cli_reference(), encoding="utf-8")
    write_schema(ROOT / "profiles" / FILE)
    (ROOT / "docs" / MANIFEST_SCHEMA).write_text(json.dumps(manifest_schema(), indent=1) + "\n", encoding="utf-8")
    for path in TABLES:
        (ROOT / path).write_text(with_tables(path), encoding="utf-8")


if __name__ == "__main__":
    main()

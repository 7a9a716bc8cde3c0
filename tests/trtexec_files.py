"""A stand-in for trtexec: knows the options of each version, and writes its logs and files.

As a program, it refuses options its version lacks, "builds" an engine, loads only its own engines, and computes a simple function of
the pixels. It uses only the standard library, so that it starts quickly.
"""

from __future__ import annotations

import hashlib
import os
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

Version = tuple[int, ...]
VERSIONS: tuple[Version, ...] = ((8, 2, 1), (8, 4, 1), (8, 5, 2), (8, 6, 2), (10, 3, 0), (10, 13, 3), (10, 16, 2, 10), (11, 1, 0, 30))
DEVICE, CAPABILITY = "NVIDIA Tegra X1 (nvgpu)/integrated", "5.3"
CLASSES = 3
WARMUP_MS = 200.0

# option -> the first version with it, and the first without; as sampleOptions.cpp of NVIDIA/TensorRT reads them at the release tags
EVER, NEVER = (8, 2), (99,)
OPTIONS: dict[str, tuple[Version, Version]] = {
    "onnx": (EVER, NEVER),
    "saveEngine": (EVER, NEVER),
    "loadEngine": (EVER, NEVER),
    "minShapes": (EVER, NEVER),
    "optShapes": (EVER, NEVER),
    "maxShapes": (EVER, NEVER),
    "shapes": (EVER, NEVER),
    "timingCacheFile": (EVER, NEVER),
    "workspace": (EVER, (10,)),
    "memPoolSize": ((8, 4), NEVER),
    "buildOnly": (EVER, (10,)),
    "skipInference": ((8, 6), NEVER),
    "fp16": (EVER, (11,)),
    "int8": (EVER, (11,)),
    "best": (EVER, (11,)),
    "noTF32": (EVER, NEVER),
    "stronglyTyped": ((10,), NEVER),
    "device": (EVER, NEVER),
    "iterations": (EVER, NEVER),
    "duration": (EVER, NEVER),
    "warmUp": (EVER, NEVER),
    "useCudaGraph": (EVER, (11,)),  # 11 still accepts these four, with a deprecation warning
    "useSpinWait": (EVER, (11,)),
    "noDataTransfers": (EVER, (11,)),
    "separateProfileRun": (EVER, (11,)),
    "includeDataTransfers": ((11,), NEVER),
    "noCudaGraph": ((11,), NEVER),
    "exportTimes": (EVER, NEVER),
    "exportProfile": (EVER, NEVER),
    "loadInputs": (EVER, NEVER),
    "exportOutput": (EVER, NEVER),
}


def has(version: Version, option: str) -> bool:
    since, gone = OPTIONS[option]
    return since <= version < gone


class Query(NamedTuple):
    """Times of one query, ms."""

    start: float
    enqueue: float
    h2d: float
    compute: float
    d2h: float

    @property
    def latency(self) -> float:
        return self.h2d + self.compute + self.d2h


def single(value: float) -> float:
    """Rounded to single precision."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def printed(value: float) -> str:
    """As a C++ stream prints a float by default."""
    return f"{value:.6g}"


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The rule of trtexec, step by step in single precision."""
    share = single(1.0 - single(single(percent) / 100.0))
    above = int(single(share * single(len(ordered))))
    return ordered[max(len(ordered) - 1 - above, 0)]


def queries(count: int, transfers: bool, first_ms: float = 0.0) -> list[Query]:
    """A steady run of which each time is another."""
    copy = 0.0625 if transfers else 0.0
    return [Query(first_ms + 4.0 * i, 0.125, copy, 2.0 + (i * 37 % 101) / 256, copy) for i in range(count)]


def number_of(version: Version) -> int:
    major, minor, patch = version[:3]
    return major * (1000 if major < 10 else 10000) + minor * 100 + patch


def stamp(severity: str, text: str) -> str:
    return f"[11/21/2026-18:47:34] [{severity}] {text}"


def banner(version: Version, word: str, command: str) -> str:
    build = f" [b{version[3]}]" if len(version) > 3 else ""  # since 10.14
    return f"&&&& {word} TensorRT.trtexec [TensorRT v{number_of(version)}]{build} # {command}"


def percents(version: Version) -> tuple[int, ...]:
    return (99,) if version < (8, 5) else (90, 95, 99)


def statistics(version: Version, values: Sequence[float]) -> str:
    ordered = sorted(values)
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    text = f"min = {printed(ordered[0])} ms, max = {printed(ordered[-1])} ms, mean = {printed(sum(ordered) / len(ordered))} ms, "
    tail = "".join(f", percentile({p}%) = {printed(percentile(ordered, p))} ms" for p in percents(version))
    return f"{text}median = {printed(median)} ms{tail}"


def head(version: Version, command: str, graph: bool, spin: bool, transfers: bool) -> list[str]:
    def told(on: bool) -> str:
        return "Enabled" if on else "Disabled"

    lines = ["=== Model Options ===", "Format: ONNX", "=== Inference Options ===", "Batch: Explicit"]
    lines += [f"Data transfers: {told(transfers)}", f"Spin-wait: {told(spin)}", "Multithreading: Disabled", f"CUDA Graph: {told(graph)}"]
    lines += ["=== Device Information ==="]
    if version >= (10,):
        lines += ["Available Devices: ", f'  Device 0: "{DEVICE}" UUID: GPU-00', f"Selected Device: {DEVICE}", "Selected Device ID: 0"]
    else:
        lines.append(f"Selected Device: {DEVICE}")
    lines += [f"Compute Capability: {CAPABILITY}", "SMs: 1", "", f"TensorRT version: {version[0]}.{version[1]}.{version[2]}"]
    return [banner(version, "RUNNING", command), *(stamp("I", line) for line in lines)]


def build_log(version: Version, command: str, seconds: float = 61.25, mebibytes: float = 2.5) -> list[str]:
    lines = ["Start parsing network model", "Finish parsing network model", f"Engine built in {printed(seconds)} sec."]
    if version >= (10,):
        lines.append(f"Created engine with size: {printed(mebibytes)} MiB")
    whole = head(version, command, graph=False, spin=False, transfers=True) + [stamp("I", line) for line in lines]
    whole.insert(-2, stamp("W", "[TRT] onnx2trt_utils.cpp:366: Your ONNX model has been generated with INT64 weights."))
    return [*whole, banner(version, "PASSED", command)]


def load_lines(version: Version) -> list[str]:
    if version < (8, 4):
        return [stamp("I", "Engine loaded in 0.75 sec.")]
    size = [stamp("I", "Loaded engine with size: 2.5 MiB")] if version >= (10,) else []
    return [stamp("I", "Engine loaded in 0.25 sec."), *size, stamp("I", "Engine deserialized in 0.5 sec.")]


def bench_log(
    version: Version,
    command: str,
    trace: Sequence[Query],
    warmup: int,
    *,
    graph: bool,
    spin: bool,
    transfers: bool,
    odd: Sequence[str] = (),
) -> list[str]:
    """A measurement's log; ``odd`` are warnings to print."""
    wall = (trace[-1].start + trace[-1].latency - trace[0].start) / 1e3
    lines = [f"Warmup completed {warmup} queries over 200 ms", f"Timing trace has {len(trace)} queries over {printed(wall)} s"]
    lines += ["", "=== Trace details ===", "Trace averages of 10 runs:", "Average on 10 runs - GPU latency: 2.1 ms - Host latency: 2.1 ms"]
    lines += ["", "=== Performance summary ===", f"Throughput: {printed(len(trace) / wall)} qps"]
    rows: list[tuple[str, Callable[[Query], float]]] = [("Latency", lambda q: q.latency)]
    if version < (8, 4):
        rows.append(("End-to-End Host Latency", lambda q: 2 * q.latency))
    rows += [("Enqueue Time", lambda q: q.enqueue), ("H2D Latency", lambda q: q.h2d)]
    rows += [("GPU Compute Time", lambda q: q.compute), ("D2H Latency", lambda q: q.d2h)]
    lines += [f"{name}: {statistics(version, [value(q) for q in trace])}" for name, value in rows]
    lines += [f"Total Host Walltime: {printed(wall)} s", f"Total GPU Compute Time: {printed(sum(q.compute for q in trace) / 1e3)} s"]
    after = [stamp("I", "Explanations of the performance metrics are printed in the verbose logs."), stamp("I", "")]
    begin = [*head(version, command, graph, spin, transfers), *load_lines(version)]
    return [*begin, *(stamp("I", line) for line in lines), *(stamp("W", line) for line in odd), *after, banner(version, "PASSED", command)]


def times_file(version: Version, warmup: Sequence[Query], trace: Sequence[Query]) -> str:
    """Up to 8.4 with the queries of the warm-up."""
    rows = []
    for q in [*(warmup if version < (8, 5) else ()), *trace]:
        starts = {"Enq": q.start, "H2d": q.start, "Compute": q.start + q.h2d, "D2h": q.start + q.h2d + q.compute}
        lengths = {"Enq": q.enqueue, "H2d": q.h2d, "Compute": q.compute, "D2h": q.d2h}
        fields = [
            (f"{side}{name}Ms", starts[name] + (lengths[name] if side == "end" else 0)) for name in starts for side in ("start", "end")
        ]
        fields += [("h2dMs", q.h2d), ("computeMs", q.compute), ("d2hMs", q.d2h), ("latencyMs", q.latency)]
        fields += [("endToEndMs", 2 * q.latency)] if version < (8, 4) else []
        rows.append("{ " + ", ".join(f'"{name}" : {printed(value)}' for name, value in fields) + " }\n")
    return "[\n  " + ", ".join(rows) + "]\n"


LAYERS = (("node_Conv_1 + PWN(node_Mul_2)", 0.5), ('{ForeignNode["quoted", "timeMs" : 7, back\\slash...node]}', 1.5), ("{}", 0.0))


def profile_file(version: Version, layers: Sequence[tuple[str, float]] = LAYERS, count: int = 40) -> str:
    total = sum(ms for _, ms in layers)
    text = f'[\n  {{ "count" : {count} }}\n'
    for name, ms in layers:
        median = f', "medianMs" : {printed(ms)}' if version >= (8, 5) else ""
        share = printed(ms / total * 100) if total else "-nan"
        text += (
            f', {{ "name" : "{name}", "timeMs" : {printed(ms * count)}, "averageMs" : {printed(ms)}{median}, "percentage" : {share} }}\n'
        )
    return text + "]\n"


def output_file(values: Sequence[float], name: str = "probabilities") -> str:
    numbers = ", ".join(printed(value) for value in values)
    return f'[\n  {{ "name" : "{name}"\n  , "dimensions" : "1x{len(values)}"\n  , "values" : [ {numbers} ]\n  }}\n]\n'


def failed_log(version: Version, command: str, reasons: Sequence[str]) -> list[str]:
    begin = head(version, command, graph=False, spin=False, transfers=True)
    return [*begin, *(stamp("E", reason) for reason in reasons), banner(version, "FAILED", command)]


def plan(version: Version, content: bytes) -> bytes:
    """An engine's bytes, as far as they are known."""
    numbers = (*version, 0)[:4]
    return b"ftrt" + bytes(20) + bytes(numbers) + hashlib.sha256(content).digest() * 4


def probabilities(pixels: bytes) -> list[float]:
    """What the stand-in "computes": depends on the order of the pixels too."""
    weights = [1 + sum(pixels[k::CLASSES]) for k in range(CLASSES)]
    return [weight / sum(weights) for weight in weights]


def main(version: Version, arguments: Sequence[str]) -> int:
    """Be trtexec. ``$FAKE`` asks for what can go wrong: fail, killed, cut, silent, nan."""
    command, fault = " ".join(arguments), os.environ.get("FAKE", "")
    options = {name: value for name, _, value in (argument[2:].partition("=") for argument in arguments[1:])}
    if "FAKE_LOG" in os.environ:
        Path(os.environ["FAKE_LOG"]).write_text("\n".join(arguments[1:]), encoding="utf-8")
    if not options:
        print(banner(version, "RUNNING", command), "=== Model Options ===", "  --onnx=<file>", banner(version, "PASSED", command), sep="\n")
        return 0
    unknown = [name for name in options if name not in OPTIONS or not has(version, name)]
    if unknown or fault == "fail":
        reasons = [f"Unknown option: --{name} " for name in unknown] or [
            "[TRT] 2: OutOfMemory (no further information)",
            "Engine set up failed",
        ]
        print(*failed_log(version, command, reasons), sep="\n")
        return 1
    lines = _build(version, command, options) if "onnx" in options else _infer(version, command, options)
    if fault == "killed":
        print(*lines[:5], sep="\n", flush=True)
        os.kill(os.getpid(), 9)
    print(*(lines[:-1] if fault == "cut" else lines), sep="\n")
    return 0 if "&&&& PASSED" in lines[-1] else 1


def _build(version: Version, command: str, options: dict[str, str]) -> list[str]:
    if os.environ.get("FAKE") != "silent":
        Path(options["saveEngine"]).write_bytes(plan(version, Path(options["onnx"]).read_bytes()))
    if "timingCacheFile" in options:
        with Path(options["timingCacheFile"]).open("ab") as cache:
            cache.write(b"timings")
    return build_log(version, command)


def _infer(version: Version, command: str, options: dict[str, str]) -> list[str]:
    engine = Path(options["loadEngine"]).read_bytes()
    if engine[24:27] != bytes(version[:3]):
        return failed_log(version, command, ["[TRT] 1: Version tag does not match.", "Engine set up failed"])
    turned = version >= (11,)
    graph = "noCudaGraph" not in options if turned else "useCudaGraph" in options
    transfers = "includeDataTransfers" in options if turned else "noDataTransfers" not in options
    spin = turned or "useSpinWait" in options
    warmup = queries(20, transfers)
    trace = queries(max(1, int(options["iterations"])), transfers, first_ms=WARMUP_MS)
    if "exportTimes" in options:
        Path(options["exportTimes"]).write_text(times_file(version, warmup, trace), encoding="utf-8")
    if "exportProfile" in options:
        Path(options["exportProfile"]).write_text(profile_file(version), encoding="utf-8")
    if "exportOutput" in options:
        axes = [int(axis) for axis in options["shapes"].partition(":")[2].split("x")]
        pixels = Path(options["loadInputs"].partition(":")[2]).read_bytes()
        size = axes[0] * axes[1] * axes[2] * axes[3]
        if len(pixels) != size:
            return failed_log(version, command, [f"Unexpected file size for input file: {len(pixels)} instead of {size}"])
        values = [float("nan")] * CLASSES if os.environ.get("FAKE") == "nan" else probabilities(pixels)
        Path(options["exportOutput"]).write_text(output_file(values), encoding="utf-8")
    return bench_log(version, command, trace, len(warmup), graph=graph, spin=spin, transfers=transfers)


def program(folder: Path, version: Version) -> Path:
    """Write a trtexec of a version into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "trtexec"
    here = str(Path(__file__).parent)
    code = f"import sys; sys.path.insert(0, {here!r}); from trtexec_files import main; sys.exit(main({version!r}, sys.argv))"
    path.write_text(f"#!{sys.executable} -IS\n{code}\n", encoding="utf-8")
    path.chmod(0o755)
    return path

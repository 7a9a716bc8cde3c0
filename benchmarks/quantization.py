"""Accuracy, size and latency of INT8: ``tlx export``, ONNX Runtime's ``quantize_static``, and NNCF with OpenVINO.

Each network is fully fine-tuned on the same images, then quantized by each method with the same calibration images::

    python benchmarks/quantization.py --work FOLDER --peer-python PYTHON_THAT_HAS_NNCF_AND_OPENVINO
    python benchmarks/quantization.py --work FOLDER --data photos/ --image-size 224 --epochs 20 --backbones resnet18

Checkpoints stay in the folder and are reused. Latency is at batch 1. tlexport's models take pixels and normalise them inside the graph; the
others take normalised planes, and their latency excludes the normalisation. One process times all models of all networks in turn. Results
go to benchmarks/results/quantization.json and to a plot beside it. OpenVINO's convolutions use AMX on server processors, which boards do
not have. A second run excludes it::

    ONEDNN_MAX_CPU_ISA=AVX512_CORE_VNNI python benchmarks/quantization.py ... --result benchmarks/results/quantization_without_amx.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from quantization_models import Wanted, prepare

from tlexport.bench.environment import describe_machine

RESULT = Path(__file__).resolve().parent / "results" / "quantization.json"
BACKBONES = ("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0", "resnet18")
FORMS = {
    "fp32": "FP32",
    "fp16": "FP16",
    "int8": "INT8",
    "onnxruntime": "quantize_static, U8S8",
    "onnxruntime_defaults": "quantize_static, its defaults",
    "openvino_fp32": "OpenVINO, FP32",
    "nncf": "NNCF + OpenVINO",
}
INSTRUCTIONS = ("avx2", "avx_vnni", "avx512_vnni", "amx_int8")  # CPU flags, with Linux's names
WHAT = (
    "top-1 (0..1) and latency (ms, 1 thread, batch 1, all timed in turn in one process) of each form of each network; drop_points: of "
    "top-1 against fp32; divergence: of the probabilities from those of fp32, Kullback-Leibler, mean over the validation images, nats; "
    "size_ratio: of fp32 to this form; fp32, fp16 and int8 are this project's, take uint8 pixels and normalise them inside, the others "
    "take normalised planes, which numpy makes in planes_ms (median): that is not in their latency; onednn_max_cpu_isa: what "
    "OpenVINO's convolutions were held to"
)


def measure(wanted: Wanted, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train, export, quantize, time."""
    jobs, entries = {}, {}
    for backbone in arguments.backbones:
        print(f"{backbone}: training, export, quantize_static", file=sys.stderr, flush=True)
        jobs[backbone], entries[backbone] = prepare(wanted.train(backbone))
    environment = describe_machine("cpu").model_dump()
    job = {"networks": jobs, "rounds": arguments.rounds, "seconds": arguments.seconds}
    answer = timed(job, wanted.work, arguments.peer_python)
    for name, reason in answer["skipped"].items():
        print(f"{FORMS[name]} is skipped: {arguments.peer_python} cannot import its libraries: {reason}")
    for backbone, entry in entries.items():
        rows = answer["networks"][backbone]
        entry["planes_ms"] = answer["planes_ms"][backbone]
        entry["forms"] = {name: row | against(row, rows["fp32"]) for name, row in rows.items()}
        for name, made in entry.pop("made").items():
            entry["forms"][name] |= made
    flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    return {
        "what": WHAT,
        "environment": environment,  # the environment that made the models
        "instructions": [name for name in INSTRUCTIONS if name in flags],
        "onednn_max_cpu_isa": os.environ.get("ONEDNN_MAX_CPU_ISA"),
        "timed_with": answer["versions"],
        "skipped": answer["skipped"],
        "networks": list(entries.values()),
    }


def timed(job: dict[str, Any], folder: Path, python: str) -> dict[str, Any]:
    """Accuracy and latency of every form, from quantization_peers.py, which runs with its own interpreter."""
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    command = [python, str(Path(__file__).with_name("quantization_peers.py")), str(folder / "job.json"), str(folder / "outcome.json")]
    subprocess.run(command, check=True)
    answer: dict[str, Any] = json.loads((folder / "outcome.json").read_text(encoding="utf-8"))
    return answer


def against(row: dict[str, float], fp32: dict[str, float]) -> dict[str, float]:
    """Accuracy lost and size saved by a form."""
    drop, ratio = 100 * (fp32["top1"] - row["top1"]), fp32["size_bytes"] / row["size_bytes"]
    return {"drop_points": round(drop, 4), "size_ratio": round(ratio, 3)}


def plot(networks: list[dict[str, Any]], path: Path) -> None:
    """One row per network, one bar per form: median latency, labelled with the accuracy lost."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.6 + 1.9 * len(networks)), layout="constrained")
    for axes, network in zip(figure.subplots(len(networks), squeeze=False)[:, 0], networks, strict=True):
        for position, (name, row) in enumerate(network["forms"].items()):
            bar = axes.barh(position, row["p50_ms"], color=f"C{list(FORMS).index(name)}")
            text = f" {row['p50_ms']:.3g} ms, {row['size_bytes'] / 1e6:.2f} MB, drop {row['drop_points']:.2f} points"
            axes.bar_label(bar, [text], fontsize="small")
        axes.set_yticks(range(len(network["forms"])), [FORMS[name] for name in network["forms"]], fontsize="small")
        axes.invert_yaxis()
        axes.margins(x=0.5)
        top1 = 100 * network["forms"]["fp32"]["top1"]
        axes.set_title(f"{network['backbone']}, {network['image_size']} pixels, top-1 {top1:.2f} % in FP32", fontsize="medium")
    axes.set_xlabel("median latency of one image, 1 thread, ms")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="demo:digits", help="DATA of tlx finetune")
    parser.add_argument("--backbones", type=lambda text: text.split(","), default=list(BACKBONES), help="such as resnet18,mobilenet_v2")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--weights", help="as for tlx finetune; default: embedded if available, otherwise none")
    parser.add_argument("--work", type=Path, required=True, help="folder for models and checkpoints; later runs reuse the checkpoints")
    parser.add_argument("--rounds", type=int, default=20, help="timing rounds")
    parser.add_argument("--seconds", type=float, default=0.15, help="duration per model and round")
    parser.add_argument("--train-only", action="store_true", help="train the checkpoints only")
    parser.add_argument("--peer-python", default=sys.executable, help="Python interpreter with onnxruntime, nncf and openvino")
    parser.add_argument("--result", type=Path, default=RESULT, help="JSON file; the plot is written beside it")
    arguments = parser.parse_args()
    wanted = Wanted(arguments.data, arguments.image_size, arguments.epochs, arguments.weights, arguments.work.resolve())
    if arguments.train_only:
        for backbone in arguments.backbones:
            print(wanted.train(backbone))
        return
    result = measure(wanted, arguments)
    arguments.result.parent.mkdir(exist_ok=True)
    arguments.result.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    plot(result["networks"], arguments.result.with_suffix(".png"))
    print(f"wrote {arguments.result} and {arguments.result.with_suffix('.png').name}")


if __name__ == "__main__":
    main()

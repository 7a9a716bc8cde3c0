"""Latency of FP32, FP16 and INT8 on an NVIDIA GPU through ONNX Runtime's CUDA provider, at batch sizes 1 and 32::

    python benchmarks/gpu.py
    python benchmarks/gpu.py --device cpu --size 96 --batches 1 --backbones mobilenet_v2   # tests the script itself

The weights are random, which does not affect the latency; the graphs are those of ``tlx export --target cuda-gpu``. A model is refused, and
reported as such, unless every node runs on the provider. Results go to benchmarks/results/gpu.json, with the environment.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from random_network import random_network

from tlexport import plugins
from tlexport.bench.environment import describe_machine
from tlexport.device.timing import time_runs
from tlexport.errors import TlxError
from tlexport.hardware.profile import Profile
from tlexport.hardware.target import load_profile
from tlexport.ports import QuantizeRequest, RunOptions
from tlexport.quantizers import fp16, int8_tensorrt

RESULT = Path(__file__).resolve().parent / "results" / "gpu.json"
BACKBONES = ("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0", "resnet18")
WHAT = "p50 and p95 of one run of the whole batch, ms, host memory to host memory; or why a model was refused"


def models(backbone: str, profile: Profile, size: int) -> dict[str, onnx.ModelProto]:
    """A network in FP32, FP16 and INT8; INT8 in TensorRT's form, since ONNX Runtime has no INT8 form for GPUs."""
    whole, ranges, _ = random_network(backbone, size, profile)
    request = QuantizeRequest(whole, ranges.whole, "int8")
    return {"fp32": whole, "fp16": fp16.quantize(request), "int8": int8_tensorrt.quantize(request)}


def measure(path: Path, device: str, batch: int, size: int, seconds: float) -> dict[str, Any]:
    """Measure one model at one batch size."""
    image = np.random.default_rng(1).integers(0, 256, (batch, size, size, 3), np.uint8)
    try:
        with plugins.runtime("onnxruntime").open_model(path, RunOptions(device=device, batch=batch)) as runner:
            feed = {runner.inputs[0].name: image}
            _, samples = time_runs(runner.run, [feed], 50, seconds, 10_000, 2.0)
            p95 = sorted(samples)[int(0.95 * (len(samples) - 1))]
            figures = {"p50_ms": round(statistics.median(samples) / 1e6, 4), "p95_ms": round(p95 / 1e6, 4), "runs": len(samples)}
            return {"provider": runner.provider, **figures}
    except TlxError as error:
        return {"refused": error.message}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", type=lambda text: text.split(","), default=list(BACKBONES))
    parser.add_argument("--target", default="cuda-gpu", help="profile to export for")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--batches", type=lambda text: [int(part) for part in text.split(",")], default=[1, 32])
    parser.add_argument("--size", type=int, default=224, help="side of the image, pixels")
    parser.add_argument("--seconds", type=float, default=3.0, help="duration per model and batch size")
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    profile, rows = load_profile(options.target), []
    for backbone in options.backbones:
        for precision, model in models(backbone, profile, options.size).items():
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"{precision}.onnx"
                onnx.save(model, path)
                for batch in options.batches:
                    found = measure(path, options.device, batch, options.size, options.seconds)
                    rows.append({"backbone": backbone, "precision": precision, "batch": batch, **found})
                    print(rows[-1], file=sys.stderr, flush=True)
    where = describe_machine(options.device).model_dump()
    result = {"what": WHAT, "target": options.target, "size": options.size, "environment": where, "models": rows}
    options.result.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {options.result}")


if __name__ == "__main__":
    main()

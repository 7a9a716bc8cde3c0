"""INT8 against FP32 on this CPU for the smallest network of every backbone family, with random weights::

    python benchmarks/int8_families.py
    python benchmarks/int8_families.py --backbones vgg11,regnet_y_400mf --size 224

Weights do not affect the latency. Each network takes the path of ``tlx export --target cpu-x86``: image contract, rewrites, INT8, and the
timed search for the form and the float blocks. All models are then timed in turn with one thread at batch 1. ``tlx export`` does not choose
INT8 if it is slower than FP32, so an exported model is never slower than FP32. Results go to benchmarks/results/int8_families.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from random_network import random_network
from torchvision import models

from tlexport import plugins
from tlexport.bench.environment import describe_machine
from tlexport.hardware.target import load_profile
from tlexport.optimize.latency_search import Int8Config, fastest
from tlexport.optimize.pairwise_timing import PairwiseTiming
from tlexport.ports import Pixels, QuantizeRequest, Runner, Silent
from tlexport.quantizers import int8_onnxruntime

RESULT = Path(__file__).resolve().parent / "results" / "int8_families.json"
WHAT = (
    "median latency, ms, of FP32, of INT8 throughout, and of INT8 in the variant and with what in float the search found fastest; "
    "all timed in turn in one process"
)


def smallest(family: str) -> str:
    """Variant with the fewest parameters (torchvision's figure)."""
    variants: tuple[str, ...] = plugins.backbone(family).VARIANTS
    return min(variants, key=lambda name: min(weights.meta["num_params"] for weights in models.get_model_weights(name)))


def forms(backbone: str, size: int, folder: Path) -> tuple[dict[str, onnx.ModelProto], Int8Config]:
    """The network in FP32, INT8 and the fastest form of INT8, with a description of that form."""
    whole, ranges, pixels = random_network(backbone, size, load_profile("cpu-x86"))
    timing = PairwiseTiming(pixels[:1], 1, folder)

    def quantize(choice: Int8Config) -> onnx.ModelProto:
        return int8_onnxruntime.quantize(QuantizeRequest(whole, ranges.whole, "uint8", choice.float_nodes, choice.variant))

    variants = int8_onnxruntime.VARIANTS
    found = fastest(whole, variants, quantize, int8_onnxruntime.METHOD, timing, Silent())
    return {"fp32": whole, "int8": quantize(Int8Config(variants[0], frozenset())), "mixed": quantize(found)}, found


def time_in_turn(made: dict[str, onnx.ModelProto], size: int, rounds: int, seconds: float, folder: Path) -> dict[str, float]:
    """Median latency of each model in ms."""
    image = np.random.default_rng(1).integers(0, 256, (1, size, size, 3), np.uint8)
    timing = PairwiseTiming(image, 1, folder)
    with contextlib.ExitStack() as opened:
        runners: dict[str, Runner] = {name: opened.enter_context(timing.open(model)) for name, model in made.items()}
        return _time_runners(runners, image, rounds, seconds)


def _time_runners(runners: dict[str, Runner], image: Pixels, rounds: int, seconds: float) -> dict[str, float]:
    found: dict[str, list[float]] = {name: [] for name in runners}
    draw = random.Random(0)
    for _ in range(rounds):
        for name in draw.sample(list(runners), len(runners)):
            feed = {runners[name].inputs[0].name: image}
            runners[name].run(feed)
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                begin = time.perf_counter()
                runners[name].run(feed)
                found[name].append((time.perf_counter() - begin) * 1e3)
    return {f"{name}_ms": round(statistics.median(samples), 4) for name, samples in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", type=lambda text: text.split(","), help="default: the smallest of each family")
    parser.add_argument("--size", type=int, default=160, help="side of the image, pixels")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=0.2, help="duration per model and round")
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for backbone in options.backbones or [smallest(family) for family in plugins.names("backbones")]:
        with tempfile.TemporaryDirectory() as folder:
            made, found = forms(backbone, options.size, Path(folder))
            times = time_in_turn(made, options.size, options.rounds, options.seconds, Path(folder))
        how = {"nodes_in_float": len(found.float_nodes), "variant": found.variant}
        row = {"backbone": backbone, **times, **how, "speedup": round(times["fp32_ms"] / times["mixed_ms"], 3)}
        print(row, file=sys.stderr, flush=True)
        rows.append(row)
    result = {"what": WHAT, "size": options.size, "environment": describe_machine("cpu").model_dump(), "networks": rows}
    options.result.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {options.result}")


if __name__ == "__main__":
    main()

"""The networks of benchmarks/estimate.py: torchvision's classifiers with random weights, as ONNX files."""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from torchvision import models

from tlexport.export.ranges import Ranges
from tlexport.export.rewrite import clean
from tlexport.ports import QuantizeRequest
from tlexport.quantizers import int8_onnxruntime

MOST_GMACS = 25.0
OPSET = 18


def names() -> list[str]:
    """Every classification network of torchvision with at most 25 GMACs (torchvision's figure)."""
    return [name for name in models.list_models(module=models) if gmacs(name) <= MOST_GMACS]


def gmacs(name: str) -> float:
    """torchvision's figure for the weights with the smallest resolution, which is exported here."""
    return min(float(weights.meta["_ops"]) for weights in models.get_model_weights(name))


def crop(name: str) -> int:
    """Side of the input in pixels."""
    smallest = min(models.get_model_weights(name), key=lambda weights: weights.meta["_ops"])
    return int(smallest.transforms().crop_size[0])


def export(name: str, folder: Path) -> Path:
    """Write NAME.onnx, FP32, float32 ``image`` (1, 3, side, side) -> logits."""
    path = folder / f"{name}.onnx"
    if not path.exists():
        torch.manual_seed(0)
        net = models.get_model(name, weights=None, **({"init_weights": True} if name in ("googlenet", "inception_v3") else {})).eval()
        side = crop(name)
        with contextlib.redirect_stdout(io.StringIO()):
            program = torch.onnx.export(
                net,
                (torch.zeros(1, 3, side, side),),
                dynamo=True,
                opset_version=OPSET,
                input_names=["image"],
                external_data=False,
                verbose=False,
            )
        onnx.save(clean(program.model_proto), path)
    return path


def quantize(path: Path) -> Path:
    """Write NAME.int8.onnx beside NAME.onnx, with the quantizer of ``tlx export`` for x86."""
    out = path.with_suffix(".int8.onnx")
    if not out.exists():
        model = onnx.load(path)
        shape = [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim]
        samples = np.random.default_rng(0).integers(0, 3, (2, *shape[1:]), dtype=np.uint8)
        onnx.save(int8_onnxruntime.quantize(QuantizeRequest(model, Ranges(model, samples).whole, "uint8")), out)
    return out


def main() -> None:
    """Export all networks; name those that fail."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.only or names():
        for step in (export, quantize):
            try:
                print(step(name, options.folder) if step is export else step(options.folder / f"{name}.onnx"), flush=True)
            except Exception as error:  # noqa: BLE001 -- a network that cannot be exported is named, and the others go on
                print(f"{name}: {step.__name__} failed: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr, flush=True)
                break


if __name__ == "__main__":
    main()

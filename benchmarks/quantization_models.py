"""The models of ``benchmarks/quantization.py``: trained networks, and their exports by ``tlx export`` and ONNX Runtime.

Peers start from torch's own dynamo export of the network: normalised planes in, logits out, without any code of tlexport.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from tlexport.api.export import export
from tlexport.checkpoint import RECORD, read_checkpoint, read_dataset
from tlexport.data.decode import decode_files
from tlexport.export.calibration import calibration_parts
from tlexport.hardware.target import resolve
from tlexport.network import load_network
from tlexport.plan import MAX_DROP_POINTS, Constraints
from tlexport.train.request import embedded_backbones

RUN_TLX = "import sys; from tlexport.cli.main import run; sys.exit(run(sys.argv[1:]))"
TARGET = "cpu-x86"
STATIC = {"onnxruntime": {"activation_type": "QUInt8", "weight_type": "QInt8"}, "onnxruntime_defaults": {}}  # options of quantize_static


@dataclass(frozen=True)
class Wanted:
    """The recipe: all stages, with a rate that decays to zero."""

    data: str
    image_size: int
    epochs: int
    weights: str | None
    work: Path

    def train(self, backbone: str) -> Path:
        """A checkpoint of ``tlx finetune``, reused if an earlier run made the same."""
        weights = self.weights or ("embedded" if backbone in embedded_backbones() else "none")
        options = {"backbone": backbone, "weights": weights, "image-size": self.image_size, "epochs": self.epochs, "strategy": "full"}
        path = self.work / backbone / "checkpoint"
        if (path / RECORD).is_file() and not read_checkpoint(path).interrupted:
            recipe = read_checkpoint(path).recipe.model_dump()
            if read_dataset(path).source == self.data and all(recipe[k.replace("-", "_")] == v for k, v in options.items()):
                return path
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        command = [sys.executable, "-c", RUN_TLX, "finetune", self.data, *words, "--patience", str(self.epochs), "--tracker", "none"]
        env = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
        subprocess.run([*command, "--out", str(path)], env=env, check=True, stdout=sys.stderr)
        return path


def prepare(checkpoint: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Make every model, as files beside the checkpoint. Returns the job for the timing process and the record to keep."""
    folder, record, dataset = checkpoint.parent, read_checkpoint(checkpoint), read_dataset(checkpoint)
    bundle = export(checkpoint, resolve(TARGET), Constraints(max_drop_points=MAX_DROP_POINTS), folder / "bundle")
    calibrating = [sample for part in calibration_parts(dataset, record.recipe.seed) for sample in part]
    val = dataset.part("val")
    for name, samples in (("calibration", calibrating), ("val", val)):
        np.save(folder / f"{name}.npy", decode_files([dataset.file(sample) for sample in samples], record.preprocess)[0])
    plain = folder / "plain.onnx"
    onnx.save(plain_graph(checkpoint), plain)
    planes = Planes(np.load(folder / "calibration.npy"), record.preprocess.mean, record.preprocess.std)
    forms = {m.artifact.precision: {"file": str(bundle.path / m.file), "planes": False} for m in bundle.manifest.models}
    forms |= {name: {"file": str(static(plain, name, planes)), "planes": True} for name in STATIC}
    job = {
        "forms": forms,
        "plain": str(plain),
        "calibration": str(folder / "calibration.npy"),
        "val": str(folder / "val.npy"),
        "labels": [sample.label for sample in val],
        "mean": list(record.preprocess.mean),
        "std": list(record.preprocess.std),
    }
    made = {m.artifact.precision: {"chosen": m.chosen, "made_by": m.artifact.made_by} for m in bundle.manifest.models}
    for model in bundle.manifest.models:
        if model.artifact.precision == "int8" and model.artifact.calibration is not None:
            made["int8"]["calibration"] = model.artifact.calibration.model_dump(mode="json")
            made["int8"]["in_float"] = list(model.artifact.mixed.kept) if model.artifact.mixed else []
    entry = {
        "backbone": record.recipe.backbone,
        "data": dataset.source,
        "image_size": record.preprocess.size,
        "epochs": record.recipe.epochs,
        "weights": record.recipe.weights,
        "train_images": len(dataset.part("train")),
        "val_images": len(val),
        "calibration_images": len(calibrating),
        "checkpoint_top1": bundle.manifest.checkpoint_top1,
        "made": made,
    }
    return job, entry


def plain_graph(checkpoint: Path) -> onnx.ModelProto:
    """torch's own dynamo export: float32 (batch, 3, height, width), normalised -> logits (batch, class)."""
    record = read_checkpoint(checkpoint)
    example = torch.zeros(2, 3, record.preprocess.size, record.preprocess.size)
    batch = torch.export.Dim("batch", min=1, max=1024)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            load_network(checkpoint, record),
            (example,),
            dynamo=True,
            input_names=["planes"],
            output_names=["logits"],
            dynamic_shapes=({0: batch},),
            external_data=False,
            verbose=False,
        )
    model: onnx.ModelProto = program.model_proto
    return model


class Planes(CalibrationDataReader):
    """Normalised images one by one, for ONNX Runtime's calibration."""

    def __init__(self, pixels: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.pixels, self.mean, self.std = pixels, np.float32(mean), np.float32(std)
        self.rewind()

    def rewind(self) -> None:
        self.rest: Iterator[np.ndarray] = iter(self.pixels)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self.rest, None)
        if image is None:
            return None
        normalised = (image.astype(np.float32) / 255 - self.mean) / self.std
        return {"planes": np.ascontiguousarray(normalised.transpose(2, 0, 1))[None]}


def static(plain: Path, name: str, planes: Planes) -> Path:
    """ONNX Runtime's documented way to INT8: ``quant_pre_process``, then ``quantize_static``."""
    planes.rewind()
    ready, path = plain.with_name("ready.onnx"), plain.with_name(f"{name}.onnx")
    quant_pre_process(str(plain), str(ready))
    types = {key: getattr(QuantType, value) for key, value in STATIC[name].items()}
    quantize_static(str(ready), str(path), planes, **types)
    return path

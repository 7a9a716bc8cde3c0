"""A small network and a synthetic device for the tests of estimates, with results that can be computed by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tlexport.bench.environment import describe_machine
from tlexport.estimate.cost import cost_of
from tlexport.estimate.fit import WEIGHTED_KINDS, features_of
from tlexport.estimate.graph import with_shapes
from tlexport.hardware.calibration import CalibratedModel
from tlexport.hardware.calibration_tables import write_tables
from tlexport.hardware.device_model import DeviceModel, LayerModel
from tlexport.storage.files import sha256_of

KINDS = ("conv", "pointwise", "depthwise", "grouped", "se", "gemm", "pool", "elementwise", "move", "unknown")
US_PER_LAYER, US_PER_MMACS, US_PER_RUN = 3.0, 100.0, 20.0
LOW, HIGH = 0.8, 1.25


def network(size: int | str = 32, channels: int = 16, dtype: int = TensorProto.FLOAT, odd: str = "") -> onnx.ModelProto:
    """``image`` (batch, 3, size, size) -> ``probabilities`` (batch, 10): a convolution, a pool, a product, and perhaps one more."""
    draw = np.random.default_rng(0)
    numpy_type = helper.tensor_dtype_to_np_dtype(dtype)
    weights = {"w": (channels, 3, 3, 3), "fc": (channels, 10)}
    arrays = [numpy_helper.from_array(draw.standard_normal(shape).astype(numpy_type), name) for name, shape in weights.items()]
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["a"], pads=[1] * 4, kernel_shape=[3, 3]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "fc"], ["e"]),
        *([helper.make_node(odd, ["e"], ["f"])] if odd else []),
        helper.make_node("Softmax", ["f" if odd else "e"], ["probabilities"]),
    ]
    borders = [
        helper.make_tensor_value_info("image", dtype, ["batch", 3, size, size]),
        helper.make_tensor_value_info("probabilities", dtype, ["batch", 10]),
    ]
    graph = helper.make_graph(nodes, "small", borders[:1], borders[1:], arrays)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def saved(path: Path, model: onnx.ModelProto | None = None) -> Path:
    """The network as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model or network(), path)
    return path


def device(precision: str = "fp32", threads: int = 1, **changes: object) -> DeviceModel:
    """A device whose layers take 3 µs and 100 µs for each 10^6 MACs, and each run 20 µs more."""
    cost = cost_of(with_shapes(network(), {}, "network"))
    widths = {layer.kind in WEIGHTED_KINDS: len(features_of(layer, cost)) for layer in cost.layers}

    def kind(name: str) -> LayerModel:
        features = widths[name in WEIGHTED_KINDS]
        line = (US_PER_LAYER, US_PER_MMACS, 0.0, 0.0)
        return LayerModel(line=line, scales=(1.0,) * features, spread=0.1, noise=0.1, points=((0.0,) * features,), weights=(0.0,))

    known = {
        "runtime": "onnxruntime",
        "precision": precision,
        "threads": threads,
        "kinds": {name: kind(name) for name in KINDS if name != "unknown"},
        "whole": (1.0, 0.0, US_PER_RUN),
        "low": LOW,
        "high": HIGH,
        "error": 0.05,
        "within_10": 0.8,
        "probes": 40,
        "environment": describe_machine("cpu"),
    }
    return DeviceModel.model_validate(known | changes)


def board(folder: Path, name: str, extends: str, models: Mapping[str, DeviceModel], text: str = "") -> Path:
    """A profile with calibrations: file name -> device model."""
    folder.mkdir(parents=True, exist_ok=True)
    tables, files = [], {}
    for file, model in models.items():
        files[file] = (model.model_dump_json() + "\n").encode()
        (folder / file).write_bytes(files[file])
        tables.append(
            CalibratedModel.model_validate(
                {key: getattr(model, key) for key in ("runtime", "precision", "threads", "probes", "error", "within_10")}
                | {"file": file, "sha256": sha256_of(folder / file), "date": "2026-01-31", "cpu": "Test CPU", "cores": 4, "version": "1.0"}
            )
        )
    path = folder / f"{name}.toml"
    write_tables(path, f'extends = "{extends}"\nname = "{name}"\n{text}', tables, files)
    return path

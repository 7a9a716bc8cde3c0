"""Hostile checkpoints, weights, run states and ONNX files for attack.py."""

from __future__ import annotations

import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from attack_bundles import Evil
from attack_ground import FEW, Case, Ground
from attack_mutations import ESCAPES, spoil, spoiled_bytes, unusual
from onnx import TensorProto, helper, numpy_helper


def checkpoints(case: Case, ground: Ground, draw: random.Random) -> None:
    """Checkpoints with corrupt files or weights of other shapes, and modified states of a run."""
    if draw.random() < 0.3:
        resume_states(case, ground, draw)
        return
    checkpoint = Path(shutil.copytree(ground.checkpoint, case.work / "checkpoint"))
    name = draw.choice(
        ["checkpoint.json", "checkpoint.json", "dataset.json", "dataset.json", "model.safetensors", "recipe.toml", "history.jsonl"]
    )
    if name == "model.safetensors" and draw.random() < 0.5:
        other_weights(checkpoint / name, draw)
    else:
        spoil(checkpoint / name, draw)
    case.name += f" {name}"
    commands = (
        lambda: case.tlx("evaluate", checkpoint, ground.data, *FEW),
        lambda: case.tlx("predict", checkpoint, ground.image, *FEW),
        lambda: case.tlx("estimate", checkpoint, "--target", "raspberry-pi-5"),
        lambda: case.tlx("export", checkpoint, "--target", "cpu-x86", "--dry-run"),
        lambda: case.tlx("export", checkpoint, "--target", "cpu-x86", "--precision", "fp32", *FEW, "-o", case.work / "bundle"),
        lambda: case.tlx(*ground.training, "--teacher", checkpoint, "--epochs", "1", "-o", case.work / "run"),
        lambda: case.tlx(*ground.training, "--weights", checkpoint / "model.safetensors", "--epochs", "1", "-o", case.work / "run"),
    )
    for command in draw.sample(commands, 2):
        command()


def other_weights(path: Path, draw: random.Random) -> None:
    from safetensors.numpy import load_file, save_file

    weights = load_file(path)
    name = draw.choice(sorted(weights))
    way = draw.choice(["shape", "type", "missing", "extra", "nan", "empty"])
    if way == "shape":
        weights[name] = np.zeros((3, 1, 7), np.float32)
    elif way == "type":
        weights[name] = weights[name].astype(np.int8)
    elif way == "missing":
        del weights[name]
    elif way == "extra":
        weights[ESCAPES] = np.zeros(3, np.float32)
    elif way == "nan":
        weights[name] = np.full_like(weights[name], np.nan if weights[name].dtype.kind == "f" else 0)
    else:
        weights = {}
    save_file(weights, path)


def resume_states(case: Case, ground: Ground, draw: random.Random) -> None:
    import torch

    state = Path(shutil.copytree(ground.stopped.with_name(f".{ground.stopped.name}.resume"), case.work / ".run.resume"))
    path = state / draw.choice(["state.pt", "state.pt", "request.json"])
    way = draw.choice(["spoil", "spoil", "pickle", "torch", "values"])
    if way == "pickle":
        path.write_bytes(pickle.dumps(Evil(case.owned)))
    elif way == "torch" or path.suffix == ".json":
        torch.save({"identity": Evil(case.owned)}, state / "state.pt")
    elif way == "values":
        content = torch.load(path, weights_only=True)
        key = draw.choice(sorted(content))
        content[key] = draw.choice([None, -1, 10**30, "x", [], {}, torch.zeros(2), float("nan"), {"a": torch.zeros(3)}])
        torch.save(content, path)
    else:
        spoil(path, draw)
    case.name += f" resume {path.name} {way}"
    case.tlx(*ground.training, "-o", case.work / "run", "--resume")


def odd_graph(draw: random.Random) -> onnx.ModelProto:
    """A graph that no exporter would write."""
    shape: list[int | str] = draw.choice([[1, 3, 8, 8], ["n", 3, 8, 8], ["n", "c", "h", "w"], [], [0, 3], [2**40, 3, 8, 8], [-1, 3]])
    kind = draw.choice(
        [TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.STRING, TensorProto.BFLOAT16, TensorProto.INT64, TensorProto.BOOL]
    )
    inputs = [helper.make_tensor_value_info("x", kind, shape)]
    outputs = [helper.make_tensor_value_info("y", kind, None)]
    body = helper.make_graph([helper.make_node("Identity", ["x"], ["z"])], "body", [], [helper.make_tensor_value_info("z", kind, None)])
    condition = helper.make_tensor("c", TensorProto.BOOL, [], [True])
    nested = body
    for _ in range(draw.choice([1, 15])):
        node = helper.make_node("If", ["c"], ["z"], then_branch=nested, else_branch=body)
        nested = helper.make_graph([node], "nested", [], [helper.make_tensor_value_info("z", kind, None)])
    count = helper.make_tensor("n", TensorProto.INT64, [], [2**62])
    loop_body = helper.make_graph(
        [helper.make_node("Identity", ["c_in"], ["c_out"]), helper.make_node("Identity", ["v"], ["w"])],
        "loop",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", kind, None),
        ],
        [helper.make_tensor_value_info("c_out", TensorProto.BOOL, []), helper.make_tensor_value_info("w", kind, None)],
    )
    ways: tuple[Callable[[], list[onnx.NodeProto]], ...] = (
        lambda: [helper.make_node("Relu", ["y"], ["y"])],
        lambda: [
            helper.make_node("Add", ["x", "b"], ["a"]),
            helper.make_node("Add", ["a", "x"], ["b"]),
            helper.make_node("Relu", ["b"], ["y"]),
        ],
        lambda: [helper.make_node("If", ["c"], ["y"], then_branch=nested, else_branch=body)],
        lambda: [helper.make_node("Loop", ["n", "c", "x"], ["y"], body=loop_body)],
        lambda: [helper.make_node("Frobnicate", ["x"], ["y"], domain="com.example")],
        lambda: [helper.make_node("Relu", ["x"], ["y"], name=ESCAPES)],
        lambda: [helper.make_node("Identity", ["x" if i == 0 else f"t{i}"], ["y" if i == 4999 else f"t{i + 1}"]) for i in range(5000)],
        lambda: [helper.make_node("Reshape", ["x", "n"], ["y"])],
        lambda: [helper.make_node("Conv", ["x", "big"], ["y"], pads=[2**40] * 4)],
        lambda: [],
    )
    graph = helper.make_graph(draw.choice(ways)(), "odd", inputs, outputs, [condition, count])
    if draw.random() < 0.5:
        big = draw.choice(
            [
                TensorProto(name="big", data_type=1, dims=[2**40, 3, 3, 3], raw_data=b"\0" * 4),
                TensorProto(name="big", data_type=1, dims=[-1, 3, 3, 3]),
                TensorProto(name="big", data_type=99, dims=[1, 3, 3, 3], raw_data=b"\0" * 108),
                numpy_helper.from_array(np.zeros((4, 3, 3, 3), np.float32), "big"),
            ]
        )
        if draw.random() < 0.5:
            big.ClearField("raw_data")
            big.data_location = TensorProto.EXTERNAL
            big.external_data.add(key="location", value=draw.choice(["../../etc/passwd", "/dev/zero", "fifo", "missing"]))
        graph.initializer.append(big)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", draw.choice([1, 13, 17, 99]))], ir_version=draw.choice([3, 8, 99])
    )


def onnx_files(case: Case, ground: Ground, draw: random.Random) -> None:
    """Corrupt bytes of a real model, cyclic graphs, nested bodies, huge shapes, external data."""
    path = case.work / "model.onnx"
    if draw.random() < 0.4:
        path.write_bytes(spoiled_bytes(ground.onnx.read_bytes(), draw))
    elif draw.random() < 0.1:
        unusual(path, draw)
    else:
        path.write_bytes(odd_graph(draw).SerializeToString())
        os.mkfifo(case.work / "fifo")
    shape = ("--shape", "x=1,3,8,8") if draw.random() < 0.3 else ()
    case.tlx("estimate", path, "--target", "raspberry-pi-5", *shape)
    last = draw.choice(("bench", "predict"))
    if last == "bench":
        # bench itself allows a model 100 s to open and 100 s to run
        case.tlx("bench", path, "--runs", "1", "--seconds", "0", *FEW, seconds=240.0)
    else:
        case.tlx("predict", path, ground.image, *FEW)

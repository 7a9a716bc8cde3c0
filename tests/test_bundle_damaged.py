"""Damaged bundles, and forged ones with matching hashes: the runner ends with a tlexport error and a documented exit code."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bundles import SIZE, classifier, fix_hashes, read, rewrite, tiny_bundle
from onnx import TensorProto, helper, numpy_helper

from tlexport.device.cli import main

CODES = (0, 1, 2, 3, 4, 5)
BYTES = [b"", b"\0", b"\xff" * 40, b"(" * 300, b"9" * 5000, b'"', b"{[", b"\x80"]
VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    10**9,
    2**63,
    0.5,
    1e300,
    "",
    "x",
    "../x",
    "/dev/zero",
    "\x1b[2J\n",
    "\ud800",
    [],
    [None],
    {},
    {"a": 1},
]
COMMANDS = (["info"], ["verify"], ["predict", "golden/00.png"], ["bench", "--check-only"], ["bench", "--runs", "1", "--seconds", "0"])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("tiny") / "colours")


def damage_files(bundle: Path, draw: random.Random) -> None:
    """Bytes changed, cut and put in, in files of every kind but the programs, which hashes hold."""
    names = sorted(name for name in read(bundle)["files"] if not name.endswith(".py"))
    for name in draw.sample(names, 3):
        content = bytearray((bundle / name).read_bytes())
        place = draw.randrange(len(content))
        content[place : place + draw.choice([1, 1, 50])] = draw.choice([*BYTES, bytes([draw.randrange(256)])])
        (bundle / name).write_bytes(content)


def damage_manifest(bundle: Path, draw: random.Random) -> None:
    """One value anywhere becomes another."""
    data = read(bundle)
    holder: Any = data
    while True:
        key = draw.choice(sorted(holder) if isinstance(holder, dict) else range(len(holder)))
        if not isinstance(holder[key], dict | list) or not holder[key] or draw.random() < 0.3:
            break
        holder = holder[key]
    holder[key] = draw.choice(VALUES)
    rewrite(bundle, data)


def test_a_damaged_bundle_ends_in_an_error_of_ours(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    draw, ended = random.Random(0), set()
    for number in range(160):
        bundle = Path(shutil.copytree(tiny, tmp_path / str(number)))
        monkeypatch.chdir(bundle)
        if number % 2:
            damage_manifest(bundle, draw)
        else:
            damage_files(bundle, draw)
            if number % 6:
                fix_hashes(bundle)
        code = main([*draw.choice(COMMANDS), "--bundle", "."])  # anything that it raises fails the test
        assert code in CODES
        assert code == 0 or "error: " in capfd.readouterr().err
        ended.add(code)
        shutil.rmtree(bundle)
    assert {0, 2, 5} <= ended


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_bundles_own_program_ends_in_an_error_of_ours(tiny: Path, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    bundle, marker = Path(shutil.copytree(tiny, tmp_path / "bundle")), tmp_path / "marker"
    (damage_manifest if seed % 2 else damage_files)(bundle, draw)
    for name in ("numpy.py", "tlx/numpy.py", "json.py", draw.choice(["tlx/cli.py", "tlx/golden.py"])):
        (bundle / name).write_text(f"open({str(marker)!r}, 'w')\n", encoding="utf-8")
    command = [sys.executable, "run.py", *draw.choice(COMMANDS)]
    done = subprocess.run(
        command, cwd=bundle, env=os.environ | {"PYTHONPATH": ""}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode in (2, 5), done.stderr
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    assert not marker.exists()


# --- a model that differs from the manifest ---------------------------------------------------------------------------


def tensors(image: int = TensorProto.UINT8, size: int = SIZE, classes: int = 3, answer: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """The classifier of the tests with other tensors."""
    model = classifier("fp32")
    graph = model.graph
    graph.input[0].CopyFrom(helper.make_tensor_value_info("image", image, ["batch", size, size, 3]))
    graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((3, classes), np.float32), "weight"))
    graph.node[-1].output[0] = "softmax"
    graph.node.append(helper.make_node("Cast", ["softmax"], ["probabilities"], "last", to=answer))
    graph.output[0].CopyFrom(helper.make_tensor_value_info("probabilities", answer, ["batch", classes]))
    return model


def reduced(axes: list[int]) -> onnx.ModelProto:
    """One with fewer axes in its answer."""
    model = tensors()
    model.graph.node[-1].CopyFrom(helper.make_node("ReduceMax", ["softmax"], ["probabilities"], "last", axes=axes, keepdims=0))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, None))
    return model


def lying() -> onnx.ModelProto:
    """One that declares as many classes as it should, and answers with more."""
    model = tensors(classes=5)
    shape = onnx.numpy_helper.from_array(np.array([-1, 5], np.int64), "shape")
    model.graph.initializer.append(shape)
    model.graph.node[-1].CopyFrom(helper.make_node("Reshape", ["softmax", "shape"], ["probabilities"], "last"))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "class"
    return model


FORGED = {
    "more classes": tensors(classes=5),
    "fewer classes": tensors(classes=2),
    "another size": tensors(size=9),
    "float pixels": tensors(image=TensorProto.FLOAT),
    "double answers": tensors(answer=TensorProto.DOUBLE),
    "whole answers": tensors(answer=TensorProto.INT64),
    "no classes": reduced([1]),
    "no images": reduced([0]),
    "one number": reduced([0, 1]),
    "a free axis": lying(),
}


@pytest.mark.parametrize("model", FORGED.values(), ids=FORGED)
def test_a_model_of_other_tensors_is_refused(tiny: Path, tmp_path: Path, model: onnx.ModelProto, capfd: pytest.CaptureFixture[str]) -> None:
    bundle = Path(shutil.copytree(tiny, tmp_path / "bundle"))
    (bundle / "model.fp32.onnx").write_bytes(model.SerializeToString())
    fix_hashes(bundle)
    for command, code in (
        (["predict", str(bundle / "golden/00.png")], 2),
        (["bench", "--runs", "1", "--seconds", "0"], 2),
        (["verify"], 5),
    ):
        assert main([*command, "--bundle", str(bundle)]) == code, command
        assert "its tensors are" in capfd.readouterr().err

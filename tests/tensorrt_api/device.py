"""The device package as a bundle has it: copied elsewhere, under another name, with a TensorRT and a CUDA of the test's choice."""

from __future__ import annotations

import importlib
import itertools
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import tlexport.device
from tensorrt_api.behaviour import REFUSED
from tensorrt_api.cudart import Device

RECIPE = {"input": "image", "shape": [1, 4, 4, 3], "workspace_mb": 64, "precision": "fp32", "opset": 20}
_numbers = itertools.count()


class Planted(Exception):
    """The text that a mistake was to be put in place of is not there once."""


class Loaded:
    """A copy of the package; its modules are imported when they are asked for, as the package itself does it."""

    def __init__(self, folder: Path, name: str) -> None:
        self._package, self._name = folder / name, name

    def __getattr__(self, module: str) -> Any:
        folder = "" if (self._package / f"{module}.py").is_file() else ".runtimes"
        return importlib.import_module(f"{self._name}{folder}.{module}")


def copy_device(folder: Path, replaced: Sequence[tuple[str, str, str]] = ()) -> Path:
    """Copy the package to ``folder``, with mistakes: (file, text, what to put in its place)."""
    shutil.copytree(Path(tlexport.device.__file__).parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file, old, new in replaced:
        text = (folder / file).read_text(encoding="utf-8")
        if text.count(old) != 1:
            raise Planted(f"{file}: {text.count(old)} times {old!r}")
        (folder / file).write_text(text.replace(old, new), encoding="utf-8")
    return folder


def load_device(
    patch: pytest.MonkeyPatch, folder: Path, module: ModuleType | None, device: Device, replaced: Sequence[tuple[str, str, str]] = ()
) -> Loaded:
    """Import a copy of the package; ``module`` is what it finds as TensorRT (None: there is none)."""
    name = f"tlx_under_test_{next(_numbers)}"
    copy_device(folder / name, replaced)
    patch.syspath_prepend(str(folder))
    patch.setitem(sys.modules, "tensorrt", module)
    loaded = Loaded(folder, name)
    patch.setattr(loaded.cuda, "LIBRARIES", (str(device.path),))
    return loaded


def onnx_file(path: Path, nodes: Sequence[tuple[str, str]] = (("first", "Identity"),), batch: int | str = "batch") -> Path:
    """A graph of such nodes (name, operator), with our input."""
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [batch, 4, 4, 3])
    answer = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [batch, 2])
    made = [helper.make_node(operator, ["image"], [f"out{index}"], name=name) for index, (name, operator) in enumerate(nodes)]
    onnx.save_model(helper.make_model(helper.make_graph(made, "graph", [image], [answer])), path)
    return path


def refused_file(path: Path) -> Path:
    """A graph of which two nodes cannot be taken."""
    return onnx_file(path, [("stem", "Identity"), ("odd one", REFUSED), ("middle", "Identity"), ("another", REFUSED)])


def pixels(images: int = 1, seed: int = 0) -> Any:
    """Images for RECIPE."""
    return np.random.default_rng(seed).integers(0, 256, (images, 4, 4, 3), np.uint8)


def expected(images: Any) -> Any:
    """What the stand-in answers to them."""
    mean = images.reshape(len(images), -1).mean(1) / 255
    return np.stack([mean, 1 - mean], 1).astype(np.float32)

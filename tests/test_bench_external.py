"""Benches of external models: declared inputs, synthetic inputs, and engines without a runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest
from exports import Notes

from tlexport.api.bench import BenchSettings, bench
from tlexport.bench.synthetic_inputs import synthetic_inputs
from tlexport.contract import TensorSpec
from tlexport.errors import InvalidFile, Unsupported, UsageError
from tlexport.loading.external_model import read_external_model
from tlexport.onnx_model.external import settle

QUICK = BenchSettings(device="cpu", threads=1, min_runs=5, min_seconds=0.0)


def model(path: Path, inputs: str, body: str = "out = Relu(x)", output: str = "float[n,3,h,w] out") -> Path:
    text = f'<ir_version: 8, opset_import: ["": 17]>\nnet ({inputs}) => ({output}) {{\n{body}\n}}'
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    return path


# --- whole ------------------------------------------------------------------------------------------------------------------


def test_a_foreign_model_is_benched_at_the_shape_that_was_told(tmp_path: Path) -> None:
    path, notes = model(tmp_path / "net.onnx", "float[n,3,h,w] x"), Notes()
    [found] = bench(path, replace(QUICK, batch=2, shapes={"x": (1, 3, 8, 6)}), progress=notes)
    assert found.inputs == "synthetic, from the declared shapes: x float32 2x3x8x6, standard normal"
    assert (found.batch, found.what, found.precision, found.provider) == (2, str(path), "fp32", "CPUExecutionProvider")
    assert found.placement == {"CPUExecutionProvider": 1}
    assert found.stages is None
    assert any("synthetic" in text for text in notes.texts)


def test_a_model_with_a_fixed_batch_and_several_inputs(tmp_path: Path) -> None:
    body = "rows = Gather<axis=0>(x, ids)\nout = Where(keep, rows, x)"
    path, notes = model(tmp_path / "net.onnx", "float[4,3] x, int64[4] ids, bool[4,1] keep", body, "float[4,3] out"), Notes()
    [found] = bench(path, QUICK, progress=notes)
    assert found.batch == 4
    assert found.inputs is not None
    assert [part.split(" ")[1:3] for part in found.inputs.partition(": ")[2].split("; ")] == [
        ["float32", "4x3,"],
        ["int64", "4,"],
        ["bool", "4x1,"],
    ]
    assert any("has a fixed batch of 4" in text for text in notes.texts)
    with pytest.raises(Unsupported, match="cannot fix the batch"):
        bench(path, replace(QUICK, batch=2))


def test_what_is_not_told_is_asked_for_with_the_option_to_type(tmp_path: Path) -> None:
    path = model(tmp_path / "net.onnx", "float[n,3,h,w] x")
    with pytest.raises(UsageError, match="has free axes") as error:
        bench(path, QUICK)
    assert error.value.hint.endswith(" --shape x=1,3,224,224")


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x08"])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(InvalidFile, match=r"net\.onnx"):
        bench(tmp_path / "net.onnx", QUICK)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"shapes": {"x": (1,)}}, "--shape"), ({"threads": 2}, "CPU threads"), ({"runtime": "torch"}, "--runtime torch does not open")],
)
def test_engines_take_no_settings_of_a_cpu(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    (tmp_path / "model.engine").write_bytes(b"a plan")
    with pytest.raises((UsageError, Unsupported), match=words):
        bench(tmp_path / "model.engine", BenchSettings(**({"min_runs": 5} | settings)))


# --- axes -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "shapes", "batch", "settled", "axes"),
    [
        ({"x": ["n", 3, 8, 8]}, {}, 5, {"x": (5, 3, 8, 8)}, {"n": 5}),
        ({"x": [None, 3]}, {}, 5, {"x": (5, 3)}, {}),  # an axis without a name cannot be fixed by its name
        ({"x": ["n", 3, "h", "w"]}, {"x": (1, 3, 4, 6)}, 5, {"x": (5, 3, 4, 6)}, {"n": 5, "h": 4, "w": 6}),
        ({"x": ["n", 3, "h"]}, {"x": (2, 3, 4)}, 1, {"x": (2, 3, 4)}, {"n": 2, "h": 4}),  # given explicitly
        (
            {"y": ["n", "h"], "x": ["n", "h", 2]},
            {"x": (1, 7, 2)},
            3,
            {"y": (3, 7), "x": (3, 7, 2)},
            {"n": 3, "h": 7},
        ),  # given for one input
        ({"x": []}, {}, 4, {"x": ()}, {}),
        ({"x": None}, {"x": (2, 2)}, 1, {"x": (2, 2)}, {}),
        ({"x": [8, 3]}, {}, 1, {"x": (8, 3)}, {}),
    ],
)
def test_free_axes(
    declared: dict[str, Sequence[int | str | None] | None], shapes: dict[str, tuple[int, ...]], batch: int, settled: Any, axes: Any
) -> None:
    assert settle("net", declared, shapes, batch) == (settled, axes)


@pytest.mark.parametrize(
    ("declared", "shapes", "error", "words"),
    [
        ({"x": ["n", "h"]}, {}, UsageError, "has free axes"),
        ({"x": None}, {}, UsageError, "declares no shape"),
        ({"x": ["n", 3]}, {"x": (1, 4)}, UsageError, "axis 1 of the input 'x' of net is 3; --shape has 4"),
        ({"x": ["n", 3]}, {"x": (1, 3, 8)}, UsageError, "has 2 axes"),
        ({"x": ["n", "h"], "y": ["n", "h"]}, {"x": (1, 4), "y": (1, 5)}, UsageError, "the axis 'h'"),
    ],
)
def test_axes_that_cannot_be(declared: Any, shapes: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        settle("net", declared, shapes, 1)


def test_a_shape_of_no_input_names_the_nearest(tmp_path: Path) -> None:
    path = model(tmp_path / "net.onnx", "float[n,3] image", "out = Relu(image)", "float[n,3] out")
    with pytest.raises(UsageError, match="did you mean 'image'"):
        read_external_model(path, {"imag": (1, 3)}, 1)


# --- values -----------------------------------------------------------------------------------------------------------------


def test_values_are_of_the_declared_type_and_can_be_computed_with() -> None:
    kinds = ("uint8", "float32", "float16", "int64", "int32", "int8", "bool", "float64")
    specs = [TensorSpec.model_validate({"name": kind, "dtype": kind, "shape": ["n", 50]}) for kind in kinds]
    feed, words = synthetic_inputs("net", specs, 4, {})
    assert {name: (array.dtype.name, array.shape) for name, array in feed.items()} == {kind: (kind, (4, 50)) for kind in kinds}
    assert len(words) == len(kinds)
    for kind in ("int64", "int32", "int8"):
        assert set(np.unique(feed[kind])) == {0, 1}  # a place in any table of two
    for kind in ("float32", "float16", "float64"):
        assert abs(float(feed[kind].mean())) < 0.3
        assert 0.7 < float(feed[kind].std()) < 1.3
    assert feed["uint8"].max() > 200
    again, _ = synthetic_inputs("net", specs, 4, {})
    assert all(np.array_equal(feed[kind], again[kind]) for kind in kinds)

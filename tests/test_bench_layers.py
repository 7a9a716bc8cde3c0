"""Placement and duration of nodes: from real and synthetic profiles of ONNX Runtime, and from an engine's profiler."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import onnx.parser
import pytest
from bench_requests import CLASSIFIER, request

from tlexport.bench import process
from tlexport.bench.layers import SLOWEST, WARM_UP, engine_profile, prove, read_events
from tlexport.bench.process import measure
from tlexport.errors import Unsupported
from tlexport.ports import LayerTime


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx.parser.parse_model(CLASSIFIER).SerializeToString())
    return path


def event(name: str, us: int, op: str = "Conv", provider: str = "CPUExecutionProvider", ending: str = "_kernel_time") -> dict[str, Any]:
    return {"cat": "Node", "name": name + ending, "dur": us, "args": {"op_name": op, "provider": provider}}


def test_every_node_is_placed_and_timed(classifier: Path) -> None:
    found = measure(request(classifier, profile=True, layers=True))
    assert found.placement == {"CPUExecutionProvider": 3}
    assert found.layers is not None
    assert {layer.kind for layer in found.layers.slowest} == {"Cast", "ReduceMean", "Softmax"}
    assert sum(layer.share for layer in found.layers.slowest) == pytest.approx(1)
    assert sum(layer.us for layer in found.layers.slowest) == pytest.approx(found.layers.total_us, abs=0.01)
    assert [layer.us for layer in found.layers.slowest] == sorted((layer.us for layer in found.layers.slowest), reverse=True)


def test_only_what_was_asked_for(classifier: Path) -> None:
    assert measure(request(classifier)).placement is None
    placed = measure(request(classifier, profile=True))
    assert (placed.placement, placed.layers) == ({"CPUExecutionProvider": 3}, None)


def test_the_profile_is_of_nodes_as_they_were_fused(tmp_path: Path) -> None:
    """A Conv and the Relu behind it are one node of ONNX Runtime."""
    weights = ", ".join(["0.5"] * 108)
    text = f"""<ir_version: 8, opset_import: ["": 17]>
    net (float[batch,3,8,8] image) => (float[batch,4,6,6] out) <float[4,3,3,3] weight = {{{weights}}}> {{
      made = Conv(image, weight)
      out = Relu(made)
    }}"""
    (tmp_path / "fused.onnx").write_bytes(onnx.parser.parse_model(text).SerializeToString())
    found = measure(request(tmp_path / "fused.onnx", profile=True, layers=True))
    assert found.layers is not None
    kinds = [layer.kind for layer in found.layers.slowest]
    assert not any(kind == "Relu" for kind in kinds)
    assert any("Conv" in kind for kind in kinds)


def test_times_of_a_profile() -> None:
    runs = 8
    steady = [event("steady", 10) for _ in range(WARM_UP + runs)]
    warming = [event("warming", 500 if place < WARM_UP else 20, "Gemm") for place in range(WARM_UP + runs)]  # the warm-up is excluded
    disturbed = [event("disturbed", 900 if place == WARM_UP + 2 else 30) for place in range(WARM_UP + runs)]  # and so is one outlier
    twice = [event("twice", 3) for _ in range(2 * (WARM_UP + runs))]  # in a loop of two
    others = [event("steady", 999, ending="_fence_before"), {"cat": "Session", "name": "model_run", "dur": 5}]
    found = read_events([*steady, *warming, *disturbed, *twice, *others], runs)
    assert found.layers is not None
    assert {layer.name: layer.us for layer in found.layers.slowest} == {"steady": 10, "warming": 20, "disturbed": 30, "twice": 6}
    assert [layer.name for layer in found.layers.slowest] == ["disturbed", "warming", "steady", "twice"]
    assert found.layers.slowest[0].share == pytest.approx(30 / 66)
    assert (found.layers.count, found.layers.runs, found.placement) == (4, runs, {"CPUExecutionProvider": 4})


def test_of_many_layers_the_ten_slowest() -> None:
    found = read_events([event(f"n{number}", number + 1) for number in range(40) for _ in range(WARM_UP + 1)], 1)
    assert found.layers is not None
    assert [layer.us for layer in found.layers.slowest] == [40 - place for place in range(SLOWEST)]
    assert found.layers.count == 40
    assert found.layers.total_us == 40 * 41 / 2


def test_a_model_whose_outputs_are_constant_ran_no_node() -> None:
    found = read_events([{"cat": "Session", "name": "model_run", "dur": 5}], 1)
    assert (found.placement, found.layers) == ({}, None)


def test_one_node_elsewhere_fails_the_bench() -> None:
    prove({"CUDAExecutionProvider": 60}, "CUDAExecutionProvider", "model.onnx")
    with pytest.raises(Unsupported, match=r"of its 61 nodes ran 1 on CPUExecutionProvider") as error:
        prove({"CUDAExecutionProvider": 60, "CPUExecutionProvider": 1}, "CUDAExecutionProvider", "model.onnx")
    assert "--device cpu" in error.value.hint


def test_layers_that_nobody_tells_are_refused_before_anything_is_opened(classifier: Path) -> None:
    with pytest.raises(Unsupported, match="--layers is for ONNX models and engines"):
        process._expect_profiler(request(classifier, layers=True), SimpleNamespace(FORMATS=("checkpoint",)))  # type: ignore[arg-type]
    with pytest.raises(Unsupported, match="to launch a layer on a GPU"):
        measure(request(classifier, device="cuda:0", layers=True))


class _Engine:
    """A runner that times its layers."""

    provider = "TensorRT 10.3"
    inputs = outputs = ()

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def layer_times(self, runs: int) -> tuple[LayerTime, ...]:
        return (LayerTime("conv1 + relu1", "CaskConvolution", 0.3), LayerTime("reformat", "", 0.1))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None: ...


def test_layers_of_an_engine() -> None:
    found = engine_profile(_Engine(), 5)
    assert found is not None
    assert [(layer.name, layer.kind, layer.provider) for layer in found.slowest] == [
        ("conv1 + relu1", "CaskConvolution", "TensorRT 10.3"),
        ("reformat", "", "TensorRT 10.3"),
    ]
    assert [layer.share for layer in found.slowest] == pytest.approx([0.75, 0.25])
    assert engine_profile(object(), 5) is None  # type: ignore[arg-type]

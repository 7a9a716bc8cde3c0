"""FP16 quantization rounds in every version of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from exports import run
from graphs import noise, request_for, small
from onnx import numpy_helper

from tlexport.device.runtimes import onnx_session
from tlexport.device.runtimes.half_rounding import FIXED, rounding
from tlexport.ports import RunOptions
from tlexport.quantizers import fp16, int8_onnxruntime, int8_tensorrt
from tlexport.runtimes import onnxruntime as host


@pytest.fixture
def typed(tmp_path: Path) -> Path:
    """An INT8 graph with FP16 scales."""
    path = tmp_path / "typed.onnx"
    onnx.save(int8_tensorrt.quantize(request_for(small(20), noise(4))), path)
    return path


def truncating(model: onnx.ModelProto) -> list[str]:
    """The nodes that older versions would not round."""
    halves = {tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16}
    return [node.name for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[1] in halves]


def test_the_rewritten_model_computes_the_same(typed: Path) -> None:
    content = rounding(typed)
    assert isinstance(content, bytes)
    model, whole = onnx.load_from_string(content), onnx.load(typed)
    onnx.checker.check_model(model, full_check=True)
    assert truncating(whole)
    assert not truncating(model)
    assert list(model.graph.output) == list(whole.graph.output)
    np.testing.assert_allclose(run(model, noise(8), as_written=True), run(whole, noise(8), as_written=True), atol=0.02)


def test_both_runners_rewrite_it_for_the_versions_that_truncate(typed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.ort, "__version__", ".".join(map(str, (FIXED[0], FIXED[1] - 1, 0))))
    opened = []
    session = host.ort.InferenceSession

    def spied(model: object, *arguments: object, **options: object) -> object:
        opened.append(model)
        return session(model, *arguments, **options)

    monkeypatch.setattr(host.ort, "InferenceSession", spied)
    expected = run(onnx.load(typed), noise(8), as_written=True)
    opened.clear()
    with onnx_session.open_session(typed, simulate=True) as board:
        np.testing.assert_allclose(board.run(noise(8)), expected, atol=0.02)
    with host.open_model(typed, RunOptions(simulate_quantization=True)) as runner:
        np.testing.assert_allclose(runner.run({"image": noise(8)})["probabilities"], expected, atol=0.02)
    assert [type(model) for model in opened] == [bytes, bytes]
    assert opened[0] == opened[1] == rounding(typed)


@pytest.mark.parametrize("quantize", [fp16.quantize, int8_onnxruntime.quantize, lambda request: request.model], ids=["fp16", "cpu", "fp32"])
def test_other_models_stay_files(quantize: Callable[..., onnx.ModelProto], tmp_path: Path) -> None:
    onnx.save(quantize(request_for(small(20), noise(4))), tmp_path / "m.onnx")
    assert rounding(tmp_path / "m.onnx") == str(tmp_path / "m.onnx")


@pytest.mark.parametrize("zero", [np.uint8(0), np.int8(3)], ids=["unsigned", "not 0"])
def test_what_no_tensorrt_graph_has_is_left_alone(zero: np.generic, typed: Path) -> None:
    model = onnx.load(typed)
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(zero), "other"))
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            node.input[2] = "other"
    onnx.save(model, typed)
    assert rounding(typed) == str(typed)


def test_damaged_files_are_left_to_the_runtime(typed: Path) -> None:
    content = typed.read_bytes()
    for length in (0, 1, 17, len(content) // 2, len(content) - 1):
        typed.write_bytes(content[:length])
        assert rounding(typed) == str(typed)
    assert rounding(typed.with_name("nowhere")) == str(typed.with_name("nowhere"))

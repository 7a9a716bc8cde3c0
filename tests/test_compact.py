"""Removal of parts of a model file that no runtime needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from exports import images, run
from graphs import noise, request_for, small

from tlexport.export.compact import compact
from tlexport.quantizers import int8_onnxruntime, int8_tensorrt


@pytest.mark.parametrize(("quantizer", "activations"), [(int8_onnxruntime, "uint8"), (int8_onnxruntime, "int8"), (int8_tensorrt, "int8")])
@pytest.mark.parametrize("opset", [17, 20])
def test_computes_the_same_to_the_last_bit(quantizer: Any, activations: str, opset: int) -> None:
    model = quantizer.quantize(request_for(small(opset), noise(4), activations))
    before = model.SerializeToString(deterministic=True)
    smaller = compact(model)
    assert model.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(smaller, full_check=True)
    for as_written in (True, False):
        np.testing.assert_array_equal(run(smaller, noise(8), as_written=as_written), run(model, noise(8), as_written=as_written))
    assert list(smaller.graph.input) == list(model.graph.input)
    assert list(smaller.graph.output) == list(model.graph.output)
    assert [(node.name, node.op_type) for node in smaller.graph.node] == [(node.name, node.op_type) for node in model.graph.node]
    assert smaller.ByteSize() < 0.85 * model.ByteSize()
    constants = [(t.data_type, tuple(t.dims), onnx.numpy_helper.to_array(t).tobytes()) for t in smaller.graph.initializer]
    assert len(set(constants)) == len(constants)
    assert compact(smaller).ByteSize() == smaller.ByteSize()


def test_int8_of_a_real_network_is_no_more_than_three_tenths(bundle: Path, checkpoint: Path) -> None:
    """A MobileNetV3-small for ten classes, whose many small layers have more names and scales than others; nothing left in float."""
    whole = onnx.load(bundle / "model.fp32.onnx")
    made = compact(int8_onnxruntime.quantize(request_for(whole, images(checkpoint, "train")[0][:32], "uint8")))
    assert made.ByteSize() <= 0.28 * (bundle / "model.fp32.onnx").stat().st_size
    assert run(made, images(checkpoint, "val")[0]).shape[1] == 10


def test_a_tensor_that_is_called_as_a_short_name_would_be_is_left_alone() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[2] a) => (float[2] b, float[2] e)'
        " { long_name = Relu (a) b = Sigmoid (long_name) c = Neg (a) d = Add (c, long_name) e = Add (d, b) }"
    )
    smaller = compact(model)
    onnx.checker.check_model(smaller, full_check=True)
    values = np.array([-1.5, 2.0], np.float32)
    np.testing.assert_array_equal(run(smaller, values), run(model, values))
    assert [value.name for value in smaller.graph.output] == ["b", "e"]

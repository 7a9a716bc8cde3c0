"""Bias correction restores the mean outputs of each layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
import pytest
from exports import images, run
from onnx import numpy_helper

from tlexport.errors import UsageError
from tlexport.export.bias_correction import bias_corrected
from tlexport.export.ranges import Ranges
from tlexport.export.rewrite import lower
from tlexport.onnx_model.graph import constants, copy_of
from tlexport.ports import QuantizeRequest
from tlexport.quantizers import int8_onnxruntime, int8_tensorrt
from tlexport.runtimes.onnxruntime import ort

Means = dict[str, npt.NDArray[np.float64]]


def graph(opset: int = 17) -> onnx.ModelProto:
    """Five layers, with a bias, without one, with one that two layers share, and with one that is multiplied."""
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}]> g (uint8[batch,8,8,4] image) => (float[batch,5] y) {{'
        " p = Cast <to=1> (image) x = Transpose <perm=[0,3,1,2]> (p)"
        " a = Conv <pads=[1,1,1,1]> (x, w1, b1) r = Relu (a) c = Conv <pads=[1,1,1,1], group=4> (r, w2) s = Relu (c)"
        " d = Conv (s, w3, b) t = Relu (d) e = Conv (t, w3, b) g = GlobalAveragePool (e) f = Flatten (g)"
        " l = Gemm <beta=0.5, transB=1> (f, w4, b5) y = Softmax (l) }"
    )
    shapes = {"w1": (4, 4, 3, 3), "b1": (4,), "w2": (4, 1, 3, 3), "w3": (4, 4, 3, 3), "b": (4,), "w4": (5, 4), "b5": (5,)}
    for name, shape in shapes.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.normal(0, 0.2, shape).astype(np.float32), name))
    for node in model.graph.node:
        node.name = f"make {node.output[0]}"
    onnx.checker.check_model(model, full_check=True)
    return model


def coarse(model: onnx.ModelProto, levels: int) -> onnx.ModelProto:
    """Weights in so many steps to either side of 0 for each output channel."""
    result = copy_of(model)
    for node in result.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            tensor = constants(result.graph)[node.input[1]]
            values = numpy_helper.to_array(tensor)
            step = np.abs(values).reshape(len(values), -1).max(axis=1).reshape(-1, *[1] * (values.ndim - 1)) / levels
            tensor.CopyFrom(numpy_helper.from_array((np.round(values / step) * step).astype(np.float32), tensor.name))
    return result


def means(model: onnx.ModelProto, pixels: Any) -> Means:
    """Of each channel that a weighted node gives, by the node's name, with Q/DQ pairs as they are written."""
    shown = copy_of(model)
    nodes = [node for node in shown.graph.node if node.op_type in ("Conv", "Gemm")]
    shown.graph.output.extend(onnx.helper.make_empty_tensor_value_info(node.output[0]) for node in nodes)
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = session.run([node.output[0] for node in nodes], {"image": pixels})
    return {
        node.name: values.astype(np.float64).mean(axis=tuple(axis for axis in range(values.ndim) if axis != 1))
        for node, values in zip(nodes, found, strict=True)
    }


@pytest.mark.parametrize("opset", [13, 18, 21])
def test_every_layer_has_the_float_means_again(opset: int) -> None:
    model, pixels = graph(opset), np.random.default_rng(1).integers(0, 256, (9, 8, 8, 4)).astype(np.uint8)
    quantized = coarse(model, 3)
    before = [made.SerializeToString(deterministic=True) for made in (model, quantized)]
    corrected = bias_corrected(model, quantized, pixels)
    assert [made.SerializeToString(deterministic=True) for made in (model, quantized)] == before
    onnx.checker.check_model(corrected, full_check=True)
    expected, harmed, found = means(model, pixels), means(quantized, pixels), means(coarse(corrected, 3), pixels)
    assert set(found) == {"make a", "make c", "make d", "make e", "make l"}
    for name, values in found.items():
        assert np.abs(harmed[name] - expected[name]).max() > 0.01 * np.abs(expected[name]).max()
        np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-4 * np.abs(expected[name]).max())
    again = bias_corrected(corrected, coarse(corrected, 3), pixels)  # once more is a small change, and as valid a graph
    onnx.checker.check_model(again, full_check=True)


def test_nothing_is_corrected_where_nothing_shifts() -> None:
    model, pixels = graph(), np.random.default_rng(1).integers(0, 256, (9, 8, 8, 4)).astype(np.uint8)
    np.testing.assert_allclose(run(bias_corrected(model, model, pixels), pixels), run(model, pixels), atol=1e-6)


def test_without_images_there_are_no_means() -> None:
    with pytest.raises(UsageError) as error:
        bias_corrected(graph(), graph(), np.zeros((0, 8, 8, 4), np.uint8))
    assert "--data" in error.value.hint


# --- a trained network ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fp32(bundle: Path) -> onnx.ModelProto:
    """A trained MobileNetV3-small."""
    return onnx.load(bundle / "model.fp32.onnx")


def divergence(reference: Any, outputs: Any) -> float:
    p, q = (np.maximum(rows.astype(np.float64), 1e-9) for rows in (reference, outputs))
    return float((p * np.log(p / q)).sum(axis=1).mean())


# opset 20: what is not INT8 for TensorRT is FP16
@pytest.mark.parametrize(
    ("quantizer", "opset"),
    [(int8_onnxruntime, 13), (int8_tensorrt, 17), (int8_tensorrt, 20)],
    ids=["onnxruntime, opset 13", "tensorrt, opset 17", "tensorrt, opset 20"],
)
def test_int8_is_nearer_to_float_on_images_that_were_not_seen(fp32: onnx.ModelProto, checkpoint: Path, quantizer: Any, opset: int) -> None:
    """With weights in 31 steps, so that there is a clear shift."""
    model, train, val = lower(fp32, opset), images(checkpoint, "train")[0], images(checkpoint, "val")[0]
    ranges = Ranges(model, train[::3]).whole

    def quantized(model: onnx.ModelProto) -> onnx.ModelProto:
        made: onnx.ModelProto = quantizer.quantize(QuantizeRequest(coarse(model, 15), ranges, "int8"))
        return made

    plain = quantized(model)
    corrected = quantized(bias_corrected(model, plain, train))
    expected = means(model, val)
    before, after = (
        # a quantizer may have added channels of zeros
        {name: np.abs(values[: len(expected[name])] - expected[name]).mean() for name, values in means(made, val).items()}
        for made in (plain, corrected)
    )
    assert set(before) == set(after) == set(expected)
    assert np.mean([after[name] < before[name] for name in expected]) > 0.9
    assert np.median([after[name] / before[name] for name in expected]) < 0.5
    reference = run(model, val)
    assert divergence(reference, run(corrected, val, as_written=True)) < 0.9 * divergence(reference, run(plain, val, as_written=True))

"""INT8 for ONNX Runtime's kernels: hard sigmoids and swishes in integers, one scale per output channel of a weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnx.parser
import pytest
from exports import run
from onnx import numpy_helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from tlexport.export.ranges import Ranges
from tlexport.onnx_model.precision import precision_of
from tlexport.ports import QuantizeRequest, RunOptions
from tlexport.quantizers import int8_onnxruntime, int8_tensorrt
from tlexport.quantizers._gates import gates_in_rows, integer_gates
from tlexport.quantizers._static import border_nodes, quantize_int8
from tlexport.runtimes.onnxruntime import _weight_only, open_model, ort

PIXELS = np.random.default_rng(1).integers(0, 256, (6, 8, 8, 3)).astype(np.uint8)
WEIGHTS = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (16, 16, 1, 1), "b2": (16,), "w3": (16, 5), "b3": (5,)}
KINDS = {
    "a hard swish": "f = HardSwish (e)",
    "a hard sigmoid that scales channels": (
        "p = GlobalAveragePool (e) q = Conv (p, w2, b2) u = HardSigmoid <alpha=0.1666667, beta=0.5> (q) f = Mul (e, u)"
    ),
    "one of another slope": "p = GlobalAveragePool (e) q = Conv (p, w2, b2) u = HardSigmoid <alpha=0.3, beta=0.2> (q) f = Mul (e, u)",
}


def classifier(middle: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 17]> g (uint8[batch,8,8,3] image) => (float[batch,5] probabilities) {{
            a = Cast <to=1> (image)  b = Transpose <perm=[0,3,1,2]> (a)  c = Mul (b, scale)  d = Add (c, bias)
            e = Conv <pads=[1,1,1,1]> (d, w1, b1)  {middle}
            m = GlobalAveragePool (f)  n = Flatten (m)  o = Gemm (n, w3, b3)  probabilities = Softmax <axis=1> (o)
        }}"""
    )
    draw = np.random.default_rng(0)
    values: dict[str, Any] = {name: draw.normal(0, 0.5, shape) for name, shape in WEIGHTS.items() if f" {name}" in middle or name != "w2"}
    values |= {"scale": np.full((1, 3, 1, 1), 1 / 64), "bias": np.full((1, 3, 1, 1), -2.0)}
    values = {name: value for name, value in values.items() if any(name in node.input for node in model.graph.node)}
    model.graph.initializer.extend(numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items())
    for node in model.graph.node:
        node.name = f"node_{node.output[0]}"
    onnx.checker.check_model(model, full_check=True)
    return model


def fused(model: onnx.ModelProto, folder: Path) -> list[str]:
    """Operators that ONNX Runtime runs."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "fused.onnx")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "fused.onnx").graph.node]


@pytest.mark.parametrize("activations", ["uint8", "int8"])
@pytest.mark.parametrize("kind", KINDS)
def test_gates_run_in_integers_and_answer_as_in_float(kind: str, activations: Any, tmp_path: Path) -> None:
    model = classifier(KINDS[kind])
    quantized = int8_onnxruntime.quantize(QuantizeRequest(model, Ranges(model, PIXELS).whole, activations))
    onnx.checker.check_model(quantized, full_check=True)
    if activations == "uint8":  # signed ones are fused on Arm only
        runs = fused(quantized, tmp_path)
        assert not {"HardSigmoid", "HardSwish", "Conv", "Mul"} & set(runs[runs.index("QLinearConv") :])
        assert "QuantizeLinear" not in runs  # nor is the image quantized, which is uint8 already
    assert not {"HardSigmoid", "HardSwish"} & {node.op_type for node in quantized.graph.node}
    reference = run(model, PIXELS)
    assert reference.std(axis=0).max() > 0.01  # the outputs differ between images
    np.testing.assert_allclose(run(quantized, PIXELS), reference, atol=0.02)
    np.testing.assert_allclose(run(quantized, PIXELS, as_written=True), reference, atol=0.02)


@pytest.mark.parametrize("variant", int8_onnxruntime.VARIANTS)
@pytest.mark.parametrize("kept", [frozenset(), frozenset({"node_g", "node_f"})])
def test_a_swish_runs_in_the_form_that_was_asked_for(variant: str, kept: frozenset[str], tmp_path: Path) -> None:
    """In float it is one node in both."""
    model = classifier("g = Sigmoid (e) f = Mul (e, g)")
    quantized = int8_onnxruntime.quantize(QuantizeRequest(model, Ranges(model, PIXELS).whole, "uint8", kept, variant))
    runs = set(fused(quantized, tmp_path))
    table, node = {"QLinearSigmoid", "QLinearMul"}, {"QuickGelu"}
    expected = node if kept or variant == int8_onnxruntime.VARIANTS[0] else table
    assert runs & (table | node) == expected
    np.testing.assert_allclose(run(quantized, PIXELS), run(model, PIXELS), atol=0.02)


def gated(side: int, gate: str = "u") -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A QDQ graph in which a gate of 16 channels scales ``side`` x ``side`` pixels, and the one before it was quantized."""
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 17]> g (float[batch,16,{side},{side}] x, float[batch,16,1,1] u) => (float[a,b,c,d] y) {{
            x1 = QuantizeLinear (x, s, z)  x2 = DequantizeLinear (x1, s, z)
            u1 = QuantizeLinear (u, s, z)  u2 = DequantizeLinear (u1, s, z)
            f = Mul ({gate})  f1 = QuantizeLinear (f, s, z)  y = DequantizeLinear (f1, s, z)
        }}"""
    )
    constants = {"s": np.asarray(np.float32(0.01)), "z": np.asarray(np.uint8(0))}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    for node in model.graph.node:
        node.name = f"node_{node.output[0]}"
    before = onnx.shape_inference.infer_shapes(model)
    before.graph.value_info.extend(before.graph.input)  # in a whole network they are no inputs
    return model, before


@pytest.mark.parametrize("order", ["x2, u2", "u2, x2"])
def test_a_gate_in_rows_multiplies_the_same(order: str, tmp_path: Path) -> None:
    model, before = gated(32, order)
    rows = gates_in_rows(model, before)
    onnx.checker.check_model(rows, full_check=True)
    assert [node.op_type for node in rows.graph.node].count("Tile") == 1
    assert "Tile" not in [node.op_type for node in model.graph.node]
    draw = np.random.default_rng(0)
    feeds = {"x": draw.random((2, 16, 32, 32), np.float32) * 3, "u": draw.random((2, 16, 1, 1), np.float32)}
    answers = []
    for each in (model, rows):
        session = ort.InferenceSession(each.SerializeToString(), providers=["CPUExecutionProvider"])
        answers.append(session.run(None, feeds)[0])
    np.testing.assert_array_equal(*answers)
    assert "QLinearMul" in fused(rows, tmp_path)


def test_gates_of_few_pixels_and_products_of_like_shapes_stay() -> None:
    for side, order in ((16, "x2, u2"), (32, "x2, x2")):
        model, before = gated(side, order)
        assert "Tile" not in [node.op_type for node in gates_in_rows(model, before).graph.node]


def test_a_gate_is_no_further_off_than_its_steps() -> None:
    """Over all that 8 bits can hold, the product is within its own step and one of the gate's of the float hard swish."""
    body = "x1 = QuantizeLinear (x, s, z) x2 = DequantizeLinear (x1, s, z) a = HardSwish (x2)"
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[256] x) => (float[256] y) {'
        f" {body} y1 = QuantizeLinear (a, s, z) y = DequantizeLinear (y1, s, z) }}"
    )
    step, zero = np.float32(12 / 255), np.uint8(128)
    model.graph.initializer.extend([numpy_helper.from_array(np.asarray(step), "s"), numpy_helper.from_array(np.asarray(zero), "z")])
    every = ((np.arange(256) - 128) * step).astype(np.float32)
    gated = integer_gates(model)
    assert "HardSwish" not in [node.op_type for node in gated.graph.node]
    error = np.abs(run(gated, every) - every * np.clip(every / 6 + 0.5, 0, 1))
    assert (error <= step / 2 + np.abs(every) / 255 + 1e-5).all()
    assert "HardSwish" in [node.op_type for node in model.graph.node]


@pytest.mark.parametrize(
    "body",
    [
        "y = HardSwish (x)",  # nothing is quantized
        "x1 = QuantizeLinear (x, s, z) x2 = DequantizeLinear (x1, s, z) y = HardSwish (x2)",  # its result is not
        # the other consumer needs the float values
        "x1 = QuantizeLinear (x, s, z) x2 = DequantizeLinear (x1, s, z) a = HardSigmoid (x2) b = QuantizeLinear (a, s, z)"
        " c = DequantizeLinear (b, s, z) y = Mul (c, x2)",
    ],
)
def test_other_gates_stay(body: str) -> None:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g (float[4] x) => (float[4] y) {{ {body} }}')
    if "(x, s, z)" in body:
        constants = {"s": np.asarray(np.float32(0.05)), "z": np.asarray(np.uint8(128))}
        model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    assert integer_gates(model) == model


@pytest.mark.parametrize("quantizer", [int8_onnxruntime, int8_tensorrt])
def test_weights_are_as_onnx_runtime_quantizes_channel_by_channel(quantizer: Any) -> None:
    """To the last bit: weights, scales, zero points and biases; a channel of zeros and, where biases are integers, one that is far
    beyond its weights included."""
    model = classifier("f = Relu (e)")
    beyond = [("w1", 3, 1e-9), ("b1", 3, 50.0)] if quantizer is int8_onnxruntime else []
    for name, place, value in (("w1", 2, 0.0), *beyond):
        [tensor] = [tensor for tensor in model.graph.initializer if tensor.name == name]
        values = numpy_helper.to_array(tensor).copy()
        values[place] = value
        tensor.CopyFrom(numpy_helper.from_array(values, name))
    model = onnx.shape_inference.infer_shapes(model)
    ranges = Ranges(model, PIXELS).whole
    tensorrt = quantizer is int8_tensorrt
    kind, operators = (QuantType.QInt8, quantizer.QUANTIZED) if tensorrt else (QuantType.QUInt8, quantizer.OPERATORS)
    options: dict[str, Any] = dict(quantizer.OPTIONS) if tensorrt else {}
    ours = quantize_int8(QuantizeRequest(model, ranges, "uint8"), kind, operators, options)
    found = TensorsData(CalibrationMethod.MinMax, cast(Any, {name: tuple(map(np.float32, ends)) for name, ends in ranges.items()}))
    theirs = QDQQuantizer(model, True, False, QuantType.QInt8, kind, found, [], border_nodes(model), list(operators), options)
    theirs.quantize_model()
    expected = {tensor.name: numpy_helper.to_array(tensor) for tensor in theirs.model.model.graph.initializer}
    actual = {tensor.name: numpy_helper.to_array(tensor) for tensor in ours.graph.initializer}
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)
        assert actual[name].dtype == value.dtype
    attributes = [{node.output[0]: node.attribute for node in made.graph.node} for made in (ours, theirs.model.model)]
    assert attributes[0] == attributes[1]


def test_weights_alone_are_a_quarter_of_the_file_and_compute_in_float(tmp_path: Path) -> None:
    model = classifier(KINDS["a hard sigmoid that scales channels"])
    before = model.SerializeToString(deterministic=True)
    stored = int8_onnxruntime.weight_only(model)
    assert model.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(stored, full_check=True)
    assert precision_of(stored, "it").stored == "int8"
    np.testing.assert_allclose(run(stored, PIXELS), run(model, PIXELS), atol=0.01)
    sizes = [
        sum(np.prod(t.dims) * numpy_helper.to_array(t).itemsize for t in m.graph.initializer if len(t.dims) > 1) for m in (stored, model)
    ]
    assert sizes[0] < 0.3 * sizes[1]
    fused_graph = int8_onnxruntime.quantize(QuantizeRequest(model, Ranges(model, PIXELS).whole, "uint8"))
    for name, graph, alone in (("stored", stored, True), ("fused", fused_graph, False), ("float", model, False)):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(graph.SerializeToString())
        assert _weight_only(path) == alone  # then they are dequantized when the model is opened, and not at every run
        with open_model(path, RunOptions(threads=1)) as runner:
            np.testing.assert_allclose(runner.run({"image": PIXELS})["probabilities"], run(graph, PIXELS, as_written=alone), atol=1e-5)

"""Every quantizer: its declarations, and the INT8 form of each runtime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from exports import images, run
from graphs import constants, consumers, noise, pairs, producers, request_for, small
from onnx import TensorProto, helper, numpy_helper

from tlexport import plugins
from tlexport.bundle.manifest import read_manifest
from tlexport.errors import StepFailed
from tlexport.export.checks import check_graph
from tlexport.export.tensorrt_rules import check_tensorrt
from tlexport.onnx_model.graph import copy_of
from tlexport.onnx_model.precision import precision_of
from tlexport.ports import Quantizer, QuantizeRequest
from tlexport.quantizers import fp16, int8_onnxruntime, int8_tensorrt

NAMES = plugins.names("quantizers")
ACTIVATIONS = ("HardSigmoid", "Relu", "Clip", "Sigmoid")  # those that TensorRT runs inside a convolution


@pytest.fixture(scope="module")
def fp32(bundle: Path) -> onnx.ModelProto:
    """The trained classifier in FP32."""
    return onnx.load(bundle / "model.fp32.onnx")


@pytest.fixture(scope="module")
def train(checkpoint: Path) -> Any:
    return images(checkpoint, "train")[0]


@pytest.fixture(scope="module")
def val(checkpoint: Path) -> Any:
    return images(checkpoint, "val")[0]


@pytest.fixture(params=NAMES)
def quantizer(request: pytest.FixtureRequest) -> Quantizer:
    return plugins.quantizer(request.param)


@pytest.fixture(scope="module")
def made(fp32: onnx.ModelProto, train: Any) -> dict[str, onnx.ModelProto]:
    """The output of each quantizer for the trained classifier; also checks that its input is unchanged."""
    models = {}
    before = fp32.SerializeToString(deterministic=True)
    request = request_for(fp32, train)
    ranges = dict(request.ranges)
    for name in NAMES:
        quantizer = plugins.quantizer(name)
        models[name] = quantizer.quantize(request)
        assert models[name] is not fp32
        assert fp32.SerializeToString(deterministic=True) == before, name
        assert request.ranges == ranges
    return models


@pytest.fixture
def quantized(quantizer: Any, made: dict[str, onnx.ModelProto]) -> onnx.ModelProto:
    return made[quantizer.__name__.rpartition(".")[2]]


@pytest.fixture
def tensorrt(made: dict[str, onnx.ModelProto]) -> onnx.ModelProto:
    return made["int8_tensorrt"]


# --- every quantizer --------------------------------------------------------------------------------------------------


def test_declares_what_it_makes(quantizer: Quantizer, quantized: onnx.ModelProto, checkpoint: Path, bundle: Path) -> None:
    artifact = read_manifest(bundle).model("fp32").artifact
    assert precision_of(quantized, "it").stored == quantizer.PRECISION
    assert quantizer.METHOD
    check_graph(quantized, quantizer.PRECISION, artifact.inputs, artifact.outputs)


def test_keeps_inputs_outputs_and_opset(quantized: onnx.ModelProto, fp32: onnx.ModelProto) -> None:
    assert list(quantized.graph.input) == list(fp32.graph.input)
    assert list(quantized.graph.output) == list(fp32.graph.output)
    # standard operators only: other runtimes lack vendor-specific ones
    assert [(entry.domain, entry.version) for entry in quantized.opset_import] == [("", fp32.opset_import[0].version)]
    assert {node.domain for node in quantized.graph.node} <= {"", "ai.onnx"}


def test_is_smaller(quantized: onnx.ModelProto, fp32: onnx.ModelProto) -> None:
    assert quantized.ByteSize() < 0.6 * fp32.ByteSize()


def test_answers_as_before_on_real_digits(quantized: onnx.ModelProto, fp32: onnx.ModelProto, val: Any) -> None:
    """Of the classes that FP32 is sure of, none changes; all in all nine in ten are kept."""
    reference, outputs = run(fp32, val), run(quantized, val, as_written=True)
    same = reference.argmax(axis=1) == outputs.argmax(axis=1)
    assert same.mean() >= 0.9
    assert same[reference.max(axis=1) > 0.7].all()
    np.testing.assert_allclose(outputs.sum(axis=1), 1, atol=1e-3)


def test_every_variant_computes_the_same_but_for_rounding(quantizer: Any) -> None:
    request = request_for(small(), noise(4))
    whole = quantizer.quantize(request)
    for place, variant in enumerate(quantizer.VARIANTS):
        made = quantizer.quantize(replace(request, variant=variant))
        assert place or made == whole  # the first is the default
        np.testing.assert_allclose(run(made, noise(4), as_written=True), run(whole, noise(4), as_written=True), atol=0.02)


def test_is_deterministic(quantizer: Quantizer) -> None:
    first, second = (quantizer.quantize(request_for(small(), noise(3))) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(quantizer: Quantizer, fp32: onnx.ModelProto, value: float) -> None:
    broken, name = with_weight(fp32, value)
    with pytest.raises(StepFailed) as error:
        quantizer.quantize(QuantizeRequest(broken, {}, "int8"))
    assert name in error.value.message
    assert error.value.hint


def with_weight(model: onnx.ModelProto, value: float) -> tuple[onnx.ModelProto, str]:
    """A copy with one value of the last convolution's weight replaced, and that weight's name."""
    model = copy_of(model)
    name = [node for node in model.graph.node if node.op_type == "Conv"][-1].input[1]
    [tensor] = [tensor for tensor in model.graph.initializer if tensor.name == name]
    values = numpy_helper.to_array(tensor).copy()
    values.flat[7] = value
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    return model, name


def test_a_graph_without_weights_is_refused(quantizer: Quantizer) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[batch,8,8,3] image) => (float[batch,8,8,3] probabilities)'
        " { probabilities = Softmax (image) }"
    )
    with pytest.raises(StepFailed):
        quantizer.quantize(QuantizeRequest(model, {}, "int8"))


@pytest.mark.parametrize("name", [name for name in NAMES if plugins.quantizer(name).PRECISION == "int8"])
def test_the_images_set_the_ranges(name: str) -> None:
    quantizer = plugins.quantizer(name)
    bright, dark = (scales(quantizer.quantize(request_for(small(), noise(4, largest)))) for largest in (256, 32))
    assert len(bright) == len(dark) > 3
    assert bright != dark


def scales(model: onnx.ModelProto) -> list[float]:
    known = constants(model)
    return [float(known[node.input[1]].max()) for node in model.graph.node if node.op_type == "QuantizeLinear"]


# --- FP16 -------------------------------------------------------------------------------------------------------------


def test_fp16_is_in_the_types_from_the_first_weight_to_the_softmax(fp32: onnx.ModelProto, train: Any) -> None:
    model = fp16.quantize(request_for(fp32, train[:4]))
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    types |= {value.name: value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)}
    halved = ("Conv", "Gemm", "HardSwish", "HardSigmoid", "GlobalAveragePool", "Flatten")
    inside = [node for node in model.graph.node if node.op_type in halved]
    assert len(inside) > 50
    for node in inside:
        assert {types[name] for name in (*node.input, *node.output)} == {TensorProto.FLOAT16}, node.name
    [softmax] = [node for node in model.graph.node if node.op_type == "Softmax"]
    assert types[softmax.input[0]] == types[softmax.output[0]] == TensorProto.FLOAT
    assert [node.op_type for node in model.graph.node].count("Cast") == 3  # uint8 in, to FP16, back to FP32


@pytest.mark.parametrize(("value", "fits"), [(65504.0, True), (-65504.0, True), (65536.0, False), (-1e30, False)])
def test_fp16_refuses_weights_beyond_its_range(fp32: onnx.ModelProto, value: float, fits: bool) -> None:
    model, name = with_weight(fp32, value)
    request = QuantizeRequest(model, {}, "int8")
    if fits:
        assert np.abs(constants(fp16.quantize(request))[f"{name}_fp16"]).max() == 65504
        return
    with pytest.raises(StepFailed) as error:
        fp16.quantize(request)
    assert name in error.value.message
    assert "--precision fp32" in error.value.hint


def test_fp16_keeps_what_overflows_in_fp32() -> None:
    """The square of a convolution's result comes near FP16's largest: it and what reads it stay in FP32."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[batch,3,4,4] image) => (float[batch,2] probabilities)'
        " { a = Conv (image, w1) b = Mul (a, a) c = Mul (b, small) d = Conv (c, w2) e = Flatten (d) probabilities = Softmax (e) }"
    )
    draw = np.random.default_rng(0)
    weights = {"w1": draw.uniform(50, 100, (4, 3, 1, 1)), "w2": draw.normal(size=(2, 4, 4, 4)), "small": np.array(1e-6)}
    model.graph.initializer.extend(numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items())
    image = draw.uniform(1, 3, (5, 3, 4, 4)).astype(np.float32)
    ranges = {"a": (0.0, 900.0), "b": (0.0, 810_000.0), "c": (0.0, 0.81), "d": (-20.0, 20.0), "e": (-20.0, 20.0)}
    kept = fp16.quantize(QuantizeRequest(model, ranges, "int8"))
    assert [node.op_type for node in kept.graph.node] == [
        "Cast",
        "Conv",
        "Cast",
        "Mul",
        "Mul",
        "Cast",
        "Conv",
        "Flatten",
        "Cast",
        "Softmax",
    ]
    np.testing.assert_allclose(run(kept, image), run(model, image), atol=0.02)


def test_fp16_doubles_a_constant_that_both_sides_read() -> None:
    """The scale is used before the first convolution, in FP32, and after it, in FP16."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[batch,3,4,4] image) => (float[batch,2] probabilities)'
        " { a = Mul (image, scale) b = Conv (a, weight) c = Mul (b, scale) d = Flatten (c) probabilities = Softmax (d) }"
    )
    weight = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
    model.graph.initializer.extend([numpy_helper.from_array(np.float32(0.5), "scale"), numpy_helper.from_array(weight, "weight")])
    image = np.random.default_rng(1).normal(size=(5, 3, 4, 4)).astype(np.float32)
    half = fp16.quantize(QuantizeRequest(model, {}, "int8"))
    onnx.checker.check_model(half, full_check=True)
    np.testing.assert_allclose(run(half, image), run(model, image), atol=5e-3)
    kept, *halved = sorted(half.graph.initializer, key=lambda tensor: tensor.data_type)
    assert (kept.name, kept.data_type) == ("scale", TensorProto.FLOAT)
    assert [tensor.data_type for tensor in halved] == [TensorProto.FLOAT16] * 2  # the weight, and the scale once more


# --- INT8 for TensorRT ------------------------------------------------------------------------------------------------


def test_tensorrt_zero_points_are_int8_and_zero(tensorrt: onnx.ModelProto) -> None:
    known = constants(tensorrt)
    assert len(pairs(tensorrt)) > 100
    for node in pairs(tensorrt):
        zero = known[node.input[2]]  # a KeyError would mean that it is not constant, which the parser refuses too
        assert zero.dtype == np.int8
        assert not zero.any()
        assert (known[node.input[1]] > 0).all()


def test_tensorrt_weights_are_per_channel_and_activations_per_tensor(tensorrt: onnx.ModelProto) -> None:
    known = constants(tensorrt)
    weights = 0
    for node in pairs(tensorrt):
        scale = known[node.input[1]]
        if node.op_type == "DequantizeLinear" and node.input[0] in known:
            axis = helper.get_node_attr_value(node, "axis")
            assert axis == 0
            assert scale.shape == known[node.input[0]].shape[:1]
            assert known[node.input[0]].dtype == np.int8
            assert np.abs(known[node.input[0]].astype(int)).max() <= 127
            weights += 1
        else:
            assert scale.ndim == 0 or scale.size == 1
    convolutions = sum(node.op_type == "Conv" for node in tensorrt.graph.node)
    assert weights == convolutions > 50


def test_tensorrt_quantizes_each_convolution_and_no_bias(tensorrt: onnx.ModelProto) -> None:
    known, made_by = constants(tensorrt), producers(tensorrt)
    for node in tensorrt.graph.node:
        if node.op_type == "Conv":
            assert [made_by[name].op_type for name in node.input[:2]] == ["DequantizeLinear"] * 2, node.name
            assert all(known[name].dtype == np.float32 for name in node.input[2:])
        elif node.op_type == "Gemm":  # a matrix-vector product at batch 1: float is as fast
            assert all(made_by[name].op_type != "DequantizeLinear" for name in node.input if name in made_by)
    assert not [tensor.name for tensor in tensorrt.graph.initializer if tensor.data_type == TensorProto.INT32]


def test_tensorrt_leaves_a_convolution_and_its_activation_together(tensorrt: onnx.ModelProto, fp32: onnx.ModelProto) -> None:
    made_by = producers(tensorrt)
    seen = 0
    before = producers(fp32)
    for node in fp32.graph.node:
        if node.op_type in ACTIVATIONS and before[node.input[0]].op_type == "Conv":
            [same] = [other for other in tensorrt.graph.node if other.name == node.name]
            assert made_by[same.input[0]].op_type == "Conv", node.name
            seen += 1
    assert seen > 10


def test_tensorrt_quantizes_no_output(tensorrt: onnx.ModelProto) -> None:
    made_by = producers(tensorrt)
    node = made_by[tensorrt.graph.output[0].name]
    while node.op_type not in ("Conv", "GlobalAveragePool"):
        assert node.op_type not in ("QuantizeLinear", "DequantizeLinear")
        node = made_by[node.input[0]]
    for output in tensorrt.graph.output:
        assert not consumers(tensorrt, output.name)


@pytest.mark.parametrize("opset", [17, 20])
def test_tensorrt_form_at_the_opsets_of_its_boards(opset: int) -> None:
    """A scale may be FP16 from opset 19 on, and a strongly typed network takes the type of a dequantized value from its scale."""
    model = int8_tensorrt.quantize(request_for(small(opset), noise(4)))
    check_tensorrt(model)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    known = constants(model)
    assert {known[node.input[2]].dtype for node in pairs(model)} == {np.dtype(np.int8)}
    assert not any(known[node.input[2]].any() for node in pairs(model))
    float_type = np.float32 if opset < 19 else np.float16
    assert {known[node.input[1]].dtype for node in pairs(model)} == {np.dtype(float_type)}
    np.testing.assert_allclose(run(model, noise(8), as_written=True), run(small(opset), noise(8)), atol=0.1)


def test_tensorrt_squeeze_and_excitation_and_skips_are_as_its_fusions_want_them(tensorrt: onnx.ModelProto) -> None:
    """Both factors of the product are quantized, but not the gate's own nodes; of a residual sum, only the skip is quantized."""
    made_by = producers(tensorrt)
    pooled = [node for node in tensorrt.graph.node if node.op_type == "GlobalAveragePool"]
    assert len(pooled) == 10  # nine blocks with one, and the last pool
    assert {made_by[node.input[0]].op_type for node in pooled} == {"DequantizeLinear"}
    gated = [
        node for node in tensorrt.graph.node if node.op_type == "Mul" and made_by.get(node.input[0], node).op_type == "DequantizeLinear"
    ]
    assert len(gated) == 9
    for node in gated:
        assert [made_by[name].op_type for name in node.input] == ["DequantizeLinear"] * 2
    sums = [node for node in tensorrt.graph.node if node.op_type == "Add" and all(name in made_by for name in node.input)]
    assert len(sums) == 6  # MobileNetV3-small's blocks with a skip
    for node in sums:
        assert sorted(made_by[name].op_type for name in node.input) == ["Conv", "DequantizeLinear"]


# --- INT8 for ONNX Runtime --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("activations", "dtype"), [("uint8", np.uint8), ("int8", np.int8)])
def test_onnxruntime_activations_are_as_the_processor_wants_them(activations: str, dtype: type) -> None:
    model = int8_onnxruntime.quantize(request_for(small(), noise(8), activations))
    known = constants(model)
    zeros = [known[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert {zero.dtype for zero in zeros} == {np.dtype(dtype)}
    assert any(zero.any() for zero in zeros) == (activations == "uint8")  # Arm's kernels are fast for symmetric activations only
    weights = [known[node.input[0]] for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in known]
    assert {value.dtype for value in weights if value.ndim > 1} == {np.dtype(np.int8)}
    np.testing.assert_allclose(run(model, noise(8)), run(small(), noise(8)), atol=0.1)


def test_onnxruntime_keeps_the_contract_and_the_softmax_in_float() -> None:
    """Probabilities in steps of 1/255 would be useless, and the normalisation is one multiplication a pixel.

    Unless the first convolution takes the pixels as they are: see test_pixels.py.
    """
    model = int8_onnxruntime.quantize(request_for(small(), noise(4), "int8"))
    made_by, before = producers(model), producers(small())
    for name in ("a", "b"):
        assert made_by[name] == before[name]
    assert made_by["d"].op_type == "BatchNormalization"  # one node for both, which computes in float
    assert made_by[made_by["d"].input[0]] == before["b"]
    assert made_by["probabilities"].op_type == "Softmax"
    assert not consumers(model, "probabilities")

"""TensorRT's rules for explicit Q/DQ: the quantizer's graphs satisfy all of them, and each rule detects a violation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import onnx
import onnx.parser
import pytest
from exports import run
from graphs import completed
from onnx import TensorProto, helper, numpy_helper

from tlexport.errors import VerificationFailed
from tlexport.export.compact import compact
from tlexport.export.ranges import Ranges
from tlexport.export.tensorrt_rules import RULES, breaches, check_tensorrt
from tlexport.onnx_model.graph import copy_of
from tlexport.ports import TYPED_SCALES, QuantizeRequest
from tlexport.quantizers import fp16, int8_onnxruntime, int8_tensorrt

XAVIER, ORIN = (8, 5, 2), (10, 3, 0)


def network(opset: int = 20) -> onnx.ModelProto:
    """What a residual network is made of: a stem, a block whose skip is a convolution of its own, one whose skip is not, a head."""
    draw = np.random.default_rng(0)
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": {opset}]>
        g (uint8[batch,8,8,3] image) => (float[batch,5] probabilities) {{
            a = Cast <to=1> (image)  b = Transpose <perm=[0,3,1,2]> (a)  c = Mul (b, scale)
            d = Conv <pads=[1,1,1,1]> (c, w1, b1)  e = Relu (d)
            f = Conv <pads=[1,1,1,1]> (e, w2)  g = Conv (e, w3)  h = Add (f, g)  i = Relu (h)
            j = Conv <pads=[1,1,1,1]> (i, w2)  k = Add (i, j)  s = Sigmoid (k)  l = Mul (k, s)
            m = GlobalAveragePool (l)  n = Flatten (m)  o = Gemm <transB=1> (n, w4, b4)  probabilities = Softmax <axis=1> (o)
        }}"""
    )
    shapes = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (16, 16, 3, 3), "w3": (16, 16, 1, 1), "w4": (5, 16), "b4": (5,)}
    values = {name: draw.normal(0, 0.2, shape) for name, shape in shapes.items()} | {"scale": np.array(1 / 64)}
    return completed(model, values)


@pytest.fixture(scope="module")
def request_() -> QuantizeRequest:
    pixels = np.random.default_rng(1).integers(0, 256, (8, 8, 8, 3)).astype(np.uint8)
    return QuantizeRequest(network(), Ranges(network(), pixels).whole, "int8")


@pytest.fixture(scope="module")
def graph(request_: QuantizeRequest) -> onnx.ModelProto:
    return int8_tensorrt.quantize(request_)


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    [found] = [node for node in model.graph.node if node.name == name]
    return found


def maker(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    [found] = [node for node in model.graph.node if name in node.output]
    return found


def replace(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Another constant in the place of one."""
    [tensor] = [tensor for tensor in model.graph.initializer if tensor.name == name]
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))


def constant(model: onnx.ModelProto, name: str, values: np.ndarray) -> str:
    model.graph.initializer.append(numpy_helper.from_array(values, name))
    return name


def pair_between(model: onnx.ModelProto, reader: str, place: int) -> None:
    """A Q/DQ pair in front of one input of a node."""
    target = node(model, reader)
    source = target.input[place]
    scale, zero = constant(model, "new_scale", np.float32(0.1).reshape(())), constant(model, "new_zero", np.int8(0).reshape(()))
    target.input[place] = "new_dq"
    at = list(model.graph.node).index(target)
    for offset, (kind, inputs, output) in enumerate([("QuantizeLinear", source, "new_q"), ("DequantizeLinear", "new_q", "new_dq")]):
        model.graph.node.insert(at + offset, helper.make_node(kind, [inputs, scale, zero], [output], name=output))


def test_what_the_quantizer_makes_keeps_every_rule(graph: onnx.ModelProto) -> None:
    assert breaches(graph) == []
    check_tensorrt(graph)
    # what d, f and g, and j read, what is added to f, and what is pooled
    assert sum(n.op_type == "QuantizeLinear" for n in graph.graph.node) == 5


def test_skips_are_quantized_and_results_of_convolutions_are_not(graph: onnx.ModelProto) -> None:
    by_its_own, by_identity = node(graph, "node_h"), node(graph, "node_k")
    kinds = [[maker(graph, name).op_type for name in add.input] for add in (by_its_own, by_identity)]
    assert kinds == [["DequantizeLinear", "Conv"], ["DequantizeLinear", "Conv"]]


def test_a_graph_for_a_cpu_breaks_rules(request_: QuantizeRequest) -> None:
    found = {breach.rule for breach in breaches(int8_onnxruntime.quantize(request_))}
    assert {"float-bias", "residual-skip"} <= found


# --- each rule, broken ------------------------------------------------------------------------------------------------


def _vendor(model: onnx.ModelProto) -> str:
    node(model, "node_s").domain = "com.microsoft"
    return "node_s"


def _qoperator(model: onnx.ModelProto) -> str:
    node(model, "node_f").op_type = "QLinearConv"
    return "node_f"


def _late_cast(model: onnx.ModelProto) -> str:
    """The image is transposed before it is converted."""
    cast, transpose = node(model, "node_a"), node(model, "node_b")
    transpose.input[0], transpose.output[0] = "image", "planes"
    cast.input[0], cast.output[0] = "planes", "b"
    nodes = [transpose, cast, *(other for other in model.graph.node if other.name not in ("node_a", "node_b"))]
    ordered = helper.make_graph(nodes, "g", model.graph.input, model.graph.output, model.graph.initializer)
    model.graph.CopyFrom(ordered)
    return "node_b"


def _to_int32(model: onnx.ModelProto) -> str:
    node(model, "node_a").attribute[0].i = TensorProto.INT32
    return "node_a"


def _float_scale_in_half(model: onnx.ModelProto) -> str:
    pair = maker(model, node(model, "node_f").input[0])
    pair.input[1] = constant(model, "fp32_scale", np.float32(0.1).reshape(()))
    return "node_f"


def _float_bias_in_half(model: onnx.ModelProto) -> str:
    node(model, "node_d").input[2] = constant(model, "fp32_bias", np.ones(16, np.float32))
    return "node_d"


def _no_kernel_shape(model: onnx.ModelProto) -> str:
    broken = node(model, "node_f")
    broken.attribute.remove(next(attribute for attribute in broken.attribute if attribute.name == "kernel_shape"))
    return "node_f"


def _other_kernel_shape(model: onnx.ModelProto) -> str:
    next(attribute for attribute in node(model, "node_g").attribute if attribute.name == "kernel_shape").ints[:] = [3, 3]
    return "node_g"


def _int32_weight(model: onnx.ModelProto) -> str:
    pair = maker(model, node(model, "node_f").input[1])
    for name in (pair.input[0], pair.input[2]):
        replace(model, name, lambda values: values.astype(np.int32))
    return str(pair.name)


def _no_zero_point_of_a_dq(model: onnx.ModelProto) -> str:
    pair = maker(model, node(model, "node_f").input[0])
    del pair.input[2]
    return str(pair.name)


def _int8_constant(model: onnx.ModelProto) -> str:
    """As the quantizer writes it for TensorRT 10."""
    return str(maker(model, node(model, "node_f").input[1]).name)


def _one_scale_no_axis(model: onnx.ModelProto) -> str:
    """A weight of one channel: its one scale is a vector too."""
    pair = maker(model, node(model, "node_f").input[1])
    for place in (0, 1, 2):
        replace(model, pair.input[place], lambda values: values[:1])
    del pair.attribute[:]
    return str(pair.name)


def _computed_scale(model: onnx.ModelProto) -> str:
    pair = maker(model, node(model, "node_f").input[0])
    pair.input[1] = "e"
    return str(pair.name)


def _negative_scale(model: onnx.ModelProto) -> str:
    pair = maker(model, node(model, "node_f").input[1])
    replace(model, pair.input[1], lambda scale: -scale)
    return str(pair.name)


def _unsigned(model: onnx.ModelProto) -> str:
    pair = maker(model, maker(model, node(model, "node_f").input[0]).input[0])
    pair.input[2] = constant(model, "unsigned", np.uint8(0).reshape(()))
    return str(pair.name)


def _no_zero_point(model: onnx.ModelProto) -> str:
    pair = maker(model, maker(model, node(model, "node_f").input[0]).input[0])
    del pair.input[2]
    return str(pair.name)


def _zero_point(model: onnx.ModelProto) -> str:
    pair = maker(model, node(model, "node_f").input[0])
    pair.input[2] = constant(model, "three", np.int8(3).reshape(()))
    return str(pair.name)


def _bias(model: onnx.ModelProto) -> str:
    pair_between(model, "node_d", 2)
    return "node_d"


def _activation_per_channel(model: onnx.ModelProto) -> str:
    pair = maker(model, node(model, "node_f").input[0])
    pair.input[1] = constant(model, "many", np.ones(16, np.float32))
    return str(pair.name)


def _wrong_axis(model: onnx.ModelProto) -> str:
    pair = maker(model, node(model, "node_f").input[1])
    del pair.attribute[:]
    pair.attribute.append(helper.make_attribute("axis", 1))
    return str(pair.name)


def _no_axis(model: onnx.ModelProto) -> str:
    pair = maker(model, node(model, "node_f").input[1])
    del pair.attribute[:]
    return str(pair.name)


def _early_half_scale(model: onnx.ModelProto) -> str:
    pair = maker(model, node(model, "node_f").input[1])
    replace(model, pair.input[1], lambda scale: scale.astype(np.float16))
    model.opset_import[0].version = 17
    return str(pair.name)


def _double_scale(model: onnx.ModelProto) -> str:
    pair = maker(model, node(model, "node_f").input[1])
    replace(model, pair.input[1], lambda scale: scale.astype(np.float64))
    return str(pair.name)


def _float_weight(model: onnx.ModelProto) -> str:
    node(model, "node_j").input[1] = constant(model, "float", np.ones((16, 16, 3, 3), np.float32))
    return "node_j"


def _before_relu(model: onnx.ModelProto) -> str:
    pair_between(model, "node_e", 0)
    return "node_e"


def _output(model: onnx.ModelProto) -> str:
    pair_between(model, "node_probabilities", 0)
    model.graph.output[0].name = "new_dq"
    return "new_dq"


def _float_skip(model: onnx.ModelProto) -> str:
    node(model, "node_k").input[0] = "i"
    return "node_k"


def _both_sides(model: onnx.ModelProto) -> str:
    pair_between(model, "node_k", 1)
    return "node_k"


BROKEN = {
    "standard-operators": (_vendor, _qoperator),
    "uint8-image-through-cast": (_late_cast, _to_int32),
    "one-float-type": (_float_scale_in_half, _float_bias_in_half),
    "kernel-shape": (_no_kernel_shape, _other_kernel_shape),
    "constant-scales": (_computed_scale, _negative_scale),
    "signed-8-bit": (_unsigned, _no_zero_point, _int32_weight),
    "written-zero-points": (_no_zero_point_of_a_dq,),
    "float-constants": (_int8_constant,),
    "zero-points-are-0": (_zero_point,),
    "float-bias": (_bias,),
    "per-channel-weights-alone": (_activation_per_channel, _wrong_axis, _no_axis, _one_scale_no_axis),
    "scale-types": (_early_half_scale, _double_scale),
    "both-inputs": (_float_weight,),
    "nothing-before-an-activation": (_before_relu,),
    "float-outputs": (_output,),
    "residual-skip": (_float_skip, _both_sides),
}


OF_TENSORRT_8 = ("written-zero-points", "float-constants")


@pytest.mark.parametrize(("rule", "damage"), [(rule, damage) for rule, damages in BROKEN.items() for damage in damages])
def test_each_rule_names_what_breaks_it(graph: onnx.ModelProto, rule: str, damage: Callable[[onnx.ModelProto], str]) -> None:
    model = copy_of(graph)
    broken = damage(model)
    version = XAVIER if rule in OF_TENSORRT_8 else ORIN
    assert (rule, broken) in {(breach.rule, breach.node) for breach in breaches(model, version)}
    with pytest.raises(VerificationFailed) as error:
        check_tensorrt(model, version)
    assert broken in error.value.message
    assert rule in error.value.message
    if rule in OF_TENSORRT_8:
        assert rule not in {breach.rule for breach in breaches(model, ORIN)}


@pytest.mark.parametrize("damage", [_late_cast, _to_int32])
def test_graphs_without_pairs_are_held_to_the_rules_too(request_: QuantizeRequest, damage: Callable[[onnx.ModelProto], str]) -> None:
    for model in (copy_of(request_.model), fp16.quantize(request_)):
        assert breaches(model, ORIN) == breaches(model, XAVIER) == []
        broken = damage(model)
        assert broken in [breach.node for breach in breaches(model, ORIN)]


@pytest.mark.parametrize("opset", [17, 20])
def test_weights_in_fp32_keep_the_rules_of_tensorrt_8(opset: int) -> None:
    """Each INT8 weight as FP32 numbers with a Q and a DQ; it computes the same, to the bit."""
    pixels = np.random.default_rng(1).integers(0, 256, (8, 8, 8, 3)).astype(np.uint8)
    asked = QuantizeRequest(network(opset), Ranges(network(opset), pixels).whole, "int8")
    short, safe = (int8_tensorrt.quantize(dataclasses.replace(asked, float_weights=wanted)) for wanted in (False, True))
    assert breaches(safe, ORIN) == []
    if opset < TYPED_SCALES:  # TensorRT 8 reads none above
        assert breaches(safe, XAVIER) == []
        check_tensorrt(compact(safe), XAVIER)
    assert "float-constants" in {breach.rule for breach in breaches(short, XAVIER)}
    assert not [tensor for tensor in safe.graph.initializer if tensor.data_type == TensorProto.INT8 and len(tensor.dims) > 1]
    np.testing.assert_array_equal(run(safe, pixels, as_written=True), run(short, pixels, as_written=True))


def test_every_rule_is_broken_here() -> None:
    assert list(BROKEN) == [rule.__name__.strip("_").replace("_", "-") for rule in RULES]


def test_a_long_list_is_cut(graph: onnx.ModelProto) -> None:
    model = copy_of(graph)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.INT8 and not numpy_helper.to_array(tensor).any():
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.int8(1), tensor.name))
    with pytest.raises(VerificationFailed, match=r"and [0-9]+ more"):
        check_tensorrt(model)

"""First convolution on raw pixels: an equivalent function, with nothing before it in INT8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
import onnx.parser
import pytest
from exports import run
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from tlexport.ports import QuantizeRequest
from tlexport.quantizers import int8_onnxruntime
from tlexport.quantizers._pixels import on_pixels, without_quantization

BODY = "c = Cast <to=1> (image) t = Transpose <perm=[0,3,1,2]> (c) m = Mul (t, scale) a = Add (m, bias) {conv} r = Relu (v) y = Flatten (r)"
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 12, 11, 3), dtype=np.uint8)
PLAIN = "v = Conv <kernel_shape=[3,3], strides=[1,1], pads=[1,1,1,1]> (a, w, b)"
Pair = tuple[int, int]


def request(
    conv: str = PLAIN,
    kind: str = "uint8",
    mean: float = 120.0,
    kernel: Pair = (3, 3),
    sides: Pair = (12, 11),
    filters: Pair = (8, 3),
    opset: int = 17,
) -> QuantizeRequest:
    image = f"{kind}[batch,{sides[0]},{sides[1]},3] image"
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}]> g ({image}) => (float[batch,n] y) {{ {BODY.format(conv=conv)} }}'
    )
    for node in model.graph.node:
        node.name = f"the_{node.output[0]}"
    draw = np.random.default_rng(1)
    scale = np.array([0.017, 0.018, 0.02], np.float32).reshape(1, 3, 1, 1)
    values = {
        "scale": scale,
        "bias": -scale * (mean + np.arange(3, dtype=np.float32)).reshape(1, 3, 1, 1),
        "w": draw.normal(0, 0.5, (*filters, *kernel)).astype(np.float32),
        "b": draw.normal(0, 0.5, filters[0]).astype(np.float32),
    }
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    onnx.checker.check_model(model, full_check=True)
    tensors = {name for node in model.graph.node for name in node.output}
    return QuantizeRequest(
        onnx.shape_inference.infer_shapes(model),
        dict.fromkeys(tensors, (-12.0, 12.0)) | {"a": (-3.0, 3.0), "r": (0.0, 12.0), "y": (0.0, 12.0)},
        "uint8",
    )


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def stem(kernel: Pair, strides: Pair, pads: Sequence[int], sides: Pair, inputs: str = "(a, w, b)") -> QuantizeRequest:
    shape = f"kernel_shape={list(kernel)}, strides={list(strides)}, pads={list(pads)}"
    return request(f"v = Conv <{shape}> {inputs}", kernel=kernel, sides=sides)


@given(
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.lists(st.integers(0, 3), min_size=4, max_size=4),
    st.tuples(st.integers(7, 20), st.integers(7, 20)),
    st.sampled_from(["(a, w, b)", "(a, w)"]),
)
def test_it_computes_the_same(kernel: Pair, strides: Pair, pads: list[int], sides: Pair, inputs: str) -> None:
    asked = stem(kernel, strides, pads, sides, inputs)
    before = asked.model.SerializeToString(deterministic=True)
    rewritten = on_pixels(asked)
    assert asked.model.SerializeToString(deterministic=True) == before
    assert not {"Mul", "Add"} & set(operators(rewritten.model))
    onnx.checker.check_model(rewritten.model, full_check=True)
    pixels = np.random.default_rng(0).integers(0, 256, (3, *sides, 3), dtype=np.uint8)
    np.testing.assert_allclose(run(rewritten.model, pixels), run(asked.model, pixels), atol=1e-4)
    assert rewritten.ranges["t"] == (0, 255)


@pytest.mark.parametrize(
    ("kernel", "strides", "pads", "sides", "shape"),
    [
        pytest.param((3, 3), (2, 2), (1, 1, 1, 1), (96, 96), (12, 2, 2), id="MobileNet, EfficientNet"),
        pytest.param((7, 7), (2, 2), (3, 3, 3, 3), (224, 224), (12, 4, 4), id="ResNet"),
        pytest.param((3, 3), (2, 2), (0, 0, 0, 0), (299, 299), (12, 2, 2), id="Inception, of an odd side"),
        pytest.param((4, 4), (4, 4), (0, 0, 0, 0), (224, 224), (48, 1, 1), id="ConvNeXt"),
        pytest.param((3, 3), (1, 1), (1, 1, 1, 1), (96, 96), (3, 3, 3), id="VGG, without a stride"),
        pytest.param((3, 3), (4, 3), (0, 0, 0, 0), (12, 11), (3, 3, 3), id="the last columns are not read"),
    ],
)
def test_what_a_stride_goes_over_is_one_pixel(kernel: Pair, strides: Pair, pads: list[int], sides: Pair, shape: tuple[int, ...]) -> None:
    graph = on_pixels(stem(kernel, strides, pads, sides)).model.graph
    conv = next(node for node in graph.node if node.op_type == "Conv")
    assert next(tuple(tensor.dims[1:]) for tensor in graph.initializer if tensor.name == conv.input[1]) == shape
    steps = next(tuple(attribute.ints) for attribute in conv.attribute if attribute.name == "strides")
    assert steps == ((1, 1) if shape[0] > 3 else strides)


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
def test_every_opset_has_what_it_takes(opset: int) -> None:
    asked = request("v = Conv <kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]> (a, w, b)", opset=opset)
    model = int8_onnxruntime.quantize(asked)
    onnx.checker.check_model(model, full_check=True)
    assert "Split" in operators(model)
    whole = run(asked.model, PIXELS)
    assert np.abs(run(model, PIXELS) - whole).max() < 0.02 * np.abs(whole).max()


def test_a_mean_between_two_pixels_is_off_by_half_a_pixel_at_the_border_alone() -> None:
    asked = request(mean=120.4)
    [old, new] = (run(model, PIXELS).reshape(3, 8, 12, 11) for model in (asked.model, on_pixels(asked).model))
    np.testing.assert_allclose(new[..., 1:-1, 1:-1], old[..., 1:-1, 1:-1], atol=1e-4)
    weight = next(numpy_helper.to_array(tensor) for tensor in asked.model.graph.initializer if tensor.name == "w")
    bound = 0.5 * 0.02 * np.abs(weight).sum((1, 2, 3)).max()
    assert 1e-3 < np.abs(new - old).max() <= bound


def test_in_int8_nothing_is_before_the_convolution_but_its_frame() -> None:
    asked = request()
    with_quantization = int8_onnxruntime.quantize(asked)
    until = operators(with_quantization)[: operators(with_quantization).index("Conv")]
    assert "Cast" not in until
    assert "QuantizeLinear" not in until
    assert until.count("Transpose") == 1
    onnx.checker.check_model(with_quantization, full_check=True)
    whole = run(asked.model, PIXELS)
    assert np.abs(run(with_quantization, PIXELS) - whole).max() < 0.02 * np.abs(whole).max()


def test_what_takes_the_quantization_out_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = request()
    with monkeypatch.context() as patch:
        patch.setattr(int8_onnxruntime, "without_quantization", lambda model: model)
        kept = int8_onnxruntime.quantize(asked)
    assert "Cast" in operators(kept)
    np.testing.assert_array_equal(run(without_quantization(kept), PIXELS), run(kept, PIXELS))


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(replace(request(), float_nodes=frozenset({"the_v"})), id="the convolution stays in float"),
        pytest.param(replace(request(), activations="int8"), id="activations are signed"),
        pytest.param(request(kind="float"), id="the image is of floats"),
        pytest.param(request('v = Conv <kernel_shape=[3,3], auto_pad="SAME_UPPER"> (a, w, b)'), id="padding without numbers"),
        pytest.param(request("v = Conv <kernel_shape=[3,3], dilations=[2,2]> (a, w, b)"), id="dilated"),
        pytest.param(request("v = Conv <kernel_shape=[3,3], group=3> (a, w, b)", filters=(9, 1)), id="grouped"),
        pytest.param(request("n = Relu (a) v = Conv <kernel_shape=[3,3]> (n, w, b)"), id="something between"),
        pytest.param(
            request("u = Conv <kernel_shape=[3,3]> (a, w, b) n = Abs (a) z = Conv <kernel_shape=[3,3]> (n, w) v = Add (u, z)"),
            id="two readers",
        ),
    ],
)
def test_other_graphs_stay_as_they_are(asked: QuantizeRequest) -> None:
    assert on_pixels(asked) is asked
    int8 = int8_onnxruntime.quantize(replace(asked, ranges=asked.ranges | dict.fromkeys(("u", "n", "z"), (-30.0, 30.0))))
    assert "Cast" in operators(int8)

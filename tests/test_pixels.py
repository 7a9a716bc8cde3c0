"""The first convolution on pixels as they are: the same function, with nothing before it in INT8."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx.parser
import pytest
from exports import run
from onnx import numpy_helper

from tlexport.ports import QuantizeRequest
from tlexport.quantizers import int8_onnxruntime
from tlexport.quantizers._pixels import on_pixels, without_quantization

BODY = "c = Cast <to=1> (image) t = Transpose <perm=[0,3,1,2]> (c) m = Mul (t, scale) a = Add (m, bias) {conv} r = Relu (v) y = Flatten (r)"
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 12, 11, 3), dtype=np.uint8)
# strides, pads, and whether the last row and column of the padding are read; sides of 12 and 11
STEMS = ["strides=[1,1], pads=[1,1,1,1]", "strides=[2,2], pads=[1,1,1,1]", "strides=[2,2], pads=[0,1,1,0]", "strides=[4,3], pads=[0,0,0,0]"]


def request(
    conv: str = f"v = Conv <kernel_shape=[3,3], {STEMS[0]}> (a, w, b)", kind: str = "uint8", mean: float = 120.0
) -> QuantizeRequest:
    body = BODY.format(conv=conv)
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> g ({kind}[batch,12,11,3] image) => (float[batch,n] y) {{ {body} }}'
    )
    for node in model.graph.node:
        node.name = f"the_{node.output[0]}"
    draw = np.random.default_rng(1)
    scale = np.array([0.017, 0.018, 0.02], np.float32).reshape(1, 3, 1, 1)
    values = {
        "scale": scale,
        "bias": -scale * (mean + np.arange(3, dtype=np.float32)).reshape(1, 3, 1, 1),
        "w": draw.normal(0, 0.5, (8, 3, 3, 3)).astype(np.float32),
        "b": draw.normal(0, 0.5, 8).astype(np.float32),
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


@pytest.mark.parametrize("inputs", ["(a, w, b)", "(a, w)"])
@pytest.mark.parametrize("stem", STEMS)
def test_it_computes_the_same(stem: str, inputs: str) -> None:
    asked = request(f"v = Conv <kernel_shape=[3,3], {stem}> {inputs}")
    before = asked.model.SerializeToString(deterministic=True)
    rewritten = on_pixels(asked)
    assert asked.model.SerializeToString(deterministic=True) == before
    assert not {"Mul", "Add"} & set(operators(rewritten.model))
    onnx.checker.check_model(rewritten.model, full_check=True)
    np.testing.assert_allclose(run(rewritten.model, PIXELS), run(asked.model, PIXELS), atol=1e-4)
    assert rewritten.ranges["t"] == (0, 255)


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
        pytest.param(replace(request(), kept=frozenset({"the_v"})), id="the convolution stays in float"),
        pytest.param(replace(request(), activations="int8"), id="activations are signed"),
        pytest.param(request(kind="float"), id="the image is of floats"),
        pytest.param(request('v = Conv <kernel_shape=[3,3], auto_pad="SAME_UPPER"> (a, w, b)'), id="padding without numbers"),
        pytest.param(request("v = Conv <kernel_shape=[3,3], dilations=[2,2]> (a, w, b)"), id="dilated"),
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

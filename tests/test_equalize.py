"""Cross-layer equalization: the same function, with balanced channels."""

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

from tlexport.export.equalize import ODD, equalized
from tlexport.export.ranges import Ranges
from tlexport.export.rewrite import lower
from tlexport.onnx_model.graph import constants, copy_of
from tlexport.ports import QuantizeRequest
from tlexport.quantizers import int8_onnxruntime, int8_tensorrt

Tensor = npt.NDArray[np.float32]
C = 6  # channels of every border below

# producers, members and consumers of a chain
CHAINS = {
    "nothing between": "a = Conv (x, w4, b) y = Conv (a, w6)",
    "depthwise": "a = Conv (x, w4, b) r = Relu (a) y = Conv <group=6> (r, wd)",
    "after depthwise": "a = Conv <group=6> (x6, wd, b) r = Relu (a) y = Conv (r, w6)",
    "grouped": "a = Conv (x, w4, b) r = Relu (a) y = Conv <group=2> (r, w3)",
    "pooled": "a = Conv <pads=[1,1,1,1]> (x, w4, b) r = LeakyRelu <alpha=0.1> (a)"
    " m = MaxPool <kernel_shape=[2,2], pads=[1,1,1,1]> (r) p = AveragePool <kernel_shape=[2,2], pads=[1,1,1,1]> (m) y = Conv (p, w6)",
    "classifier": "a = Conv (x, w4, b) r = Relu (a) p = GlobalAveragePool (r) f = Flatten (p) y = Gemm <transB=1> (f, wg)",
    "flattened with its places": "a = Conv (x, w4, b) r = Relu (a) f = Flatten (r) y = Gemm (f, wf)",
    "two classifiers": "f = Flatten (x) a = Gemm <alpha=0.5, beta=2.0> (f, wx, b) r = Relu (a) y = Gemm <transB=1> (r, wg)",
}
SHARED = {  # by more than two layers
    "two readers": "a = Conv (x, w4, b) c = Conv (a, w6) d = Conv (a, w7) y = Add (c, d)",
    "residual sum": "a = Conv (x, w4, b) r = Relu (a) c = Conv <pads=[1,1,1,1]> (r, w66) s = Add (c, r) t = Relu (s) y = Conv (t, w6)",
}
UNTOUCHED = {
    "clip": "a = Conv (x, w4, b) r = Clip (a, zero, six) y = Conv (r, w6)",
    "hard swish": "a = Conv (x, w4, b) r = HardSwish (a) y = Conv (r, w6)",
    "sigmoid": "a = Conv (x, w4, b) r = Sigmoid (a) y = Conv (r, w6)",
    "a sum that is given out": "a = Conv (x, w4, b) r = Relu (a) c = Conv <pads=[1,1,1,1]> (r, w66) y = Add (c, r)",
    "a sum with what came in": "a = Conv <group=6, pads=[1,1,1,1]> (x6, wd, b) s = Add (a, x6) y = Conv (s, w6)",
    "a sum of one channel with many": "a = Conv (x, w4, b) c = Conv (x, w1) s = Add (a, c) y = Conv (s, w6)",
    "two readers of the same weights": "a = Conv (x, w4, b) c = Conv (a, w6) d = Conv (a, w6) y = Add (c, d)",
    "squeeze and excitation": "a = Conv (x, w4, b) p = GlobalAveragePool (a) g = HardSigmoid (p) m = Mul (a, g) y = Conv (m, w6)",
    "its weights are read elsewhere": "a = Conv (x, w4, b) y = Conv (a, w6) unused = Neg (w6)",
    "over other axes": "a = Conv (x, w4, b) f = Flatten <axis=2> (a) y = Gemm (f, places)",
    "one bias for all": "f = Flatten (x) a = Gemm (f, wx, one) y = Gemm <transB=1> (a, wg)",
    "weights that are computed": "a = Conv (x, w4, b) n = Neg (w6) y = Conv (a, n)",
}


def chain(body: str, opset: int = 18, seed: int = 0) -> onnx.ModelProto:
    """A graph from ``x``, float (batch, 4, 6, 6), or ``x6``, the same with six channels, to ``y``; channels are of all sizes."""
    rng = np.random.default_rng(seed)
    shapes = {
        "w4": (C, 4, 3, 3),
        "w6": (5, C, 3, 3),
        "w66": (C, C, 3, 3),
        "w3": (4, C // 2, 3, 3),
        "wd": (C, 1, 3, 3),
        "wg": (5, C),
        "wf": (C * 16, 5),
    }
    shapes |= {"wx": (4 * 36, C), "places": (16, 5), "b": (C,), "one": (1,), "w7": (5, C, 3, 3), "w1": (1, 4, 3, 3)}
    entry, last = ("x6", C) if "x6" in body else ("x", 4), "m,n" if "= Gemm" in body.rpartition(" y ")[2] else "m,n,o,p"
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}]> g (float[batch,{entry[1]},6,6] {entry[0]}) => (float[{last}] y) {{ {body} }}'
    )
    values = {name: rng.normal(0, 1, shape).astype(np.float32) for name, shape in shapes.items()}
    values |= {"zero": np.array(0, np.float32), "six": np.array(6, np.float32)}
    values["w4"] *= np.exp(rng.normal(0, 1, (C, 1, 1, 1))).astype(np.float32)
    read = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(values[name], name) for name in sorted(read & set(values)))
    for number, node in enumerate(model.graph.node):
        node.name = f"n{number}"
    onnx.checker.check_model(model, full_check=True)
    return model


def numbers(model: onnx.ModelProto) -> dict[str, Any]:
    return {name: numpy_helper.to_array(tensor) for name, tensor in constants(model.graph).items()}


def planes(model: onnx.ModelProto) -> Tensor:
    channels = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    return np.random.default_rng(1).normal(0, 2, (3, channels, 6, 6)).astype(np.float32)


def check_same(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    expected = run(before, planes(before))
    np.testing.assert_allclose(run(after, planes(after)), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", CHAINS)
def test_the_function_stays_and_channels_meet_in_the_middle(name: str) -> None:
    model = chain(CHAINS[name])
    untouched = model.SerializeToString(deterministic=True)
    result = equalized(model)
    assert model.SerializeToString(deterministic=True) == untouched
    onnx.checker.check_model(result, full_check=True)
    check_same(model, result)
    before, after = numbers(model), numbers(result)
    assert all(not np.allclose(before[key], after[key], rtol=0.05) for key in before)


def scaled(model: onnx.ModelProto, factors: Tensor) -> onnx.ModelProto:
    """The same function, with each channel of the border as many times as large."""
    made = {"w4": factors[:, None, None, None], "wd": factors[:, None, None, None], "wx": factors[None], "b": factors}
    less = 1 / factors
    read = {name: less[None, :, None, None] for name in ("w6", "w7")} | {"wd": less[:, None, None, None]}
    read |= {"w3": less.reshape(2, 3).repeat(2, axis=0)[..., None, None], "wg": less[None], "wf": less.repeat(16)[:, None]}
    read["w66"] = factors[:, None, None, None] * less[None, :, None, None]  # makes the channels that it reads
    result = copy_of(model)
    first, *others = (node for node in model.graph.node if node.op_type in ("Conv", "Gemm"))
    changes = {name: made[name] for name in first.input[1:]} | {node.input[1]: read[node.input[1]] for node in others}
    for name, factor in changes.items():
        constants(result.graph)[name].CopyFrom(numpy_helper.from_array(numbers(model)[name] * factor, name))
    return result


@pytest.mark.parametrize("name", CHAINS)
def test_however_channels_were_scaled_they_end_alike(name: str) -> None:
    plain = chain(CHAINS[name])
    constants(plain.graph)["b"].CopyFrom(numpy_helper.from_array(np.zeros(C, np.float32), "b"))
    other = scaled(plain, np.array([30, 1, 1 / 30, 1, 1, 5], np.float32))
    check_same(plain, other)
    expected = numbers(equalized(plain))
    for key, values in numbers(equalized(other)).items():
        np.testing.assert_allclose(values, expected[key], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", SHARED)
def test_odd_channels_that_several_layers_share_become_like_the_others(name: str) -> None:
    """The others stay as they are."""
    plain = chain(SHARED[name])
    for key in ("w4", "b"):
        values = numbers(plain)[key]
        even = values / np.abs(values).reshape(C, -1).max(axis=1).reshape(-1, *[1] * (values.ndim - 1))
        constants(plain.graph)[key].CopyFrom(numpy_helper.from_array(even, key))
    assert equalized(plain) == plain
    factors = np.array([60, 1, 1 / 60, 1, 1, 1.5], np.float32)
    result = equalized(scaled(plain, factors))
    check_same(plain, result)
    left = np.abs(numbers(result)["w4"]).max(axis=(1, 2, 3))  # 1 before it was scaled
    common = np.median(left[[1, 3, 4]])
    assert np.all(np.abs(np.log(left / common)) < np.log(ODD**2))
    np.testing.assert_allclose(left[[1, 3, 4]], common, rtol=1e-5)


@pytest.mark.parametrize("name", UNTOUCHED)
def test_what_is_not_homogeneous_or_not_alone_ends_a_chain(name: str) -> None:
    model = chain(UNTOUCHED[name])
    assert equalized(model) == model


def test_long_chains_settle() -> None:
    model = chain("a = Conv (x, w4, b) r = Relu (a) d = Conv <group=6, pads=[1,1,1,1]> (r, wd) s = Relu (d) y = Conv (s, w6)")
    result = equalized(model)
    check_same(model, result)
    again = numbers(equalized(result))
    for key, values in numbers(result).items():
        np.testing.assert_allclose(values, again[key], rtol=0.05)


@pytest.mark.parametrize("opset", [13, 17, 21])
def test_every_opset_is_read(opset: int) -> None:
    model = chain(CHAINS["pooled"], opset)
    result = equalized(model)
    assert result != model
    check_same(model, result)


def border(model: onnx.ModelProto) -> Tensor:
    """The largest absolute value of each channel that the first layer makes."""
    shown = copy_of(model)
    shown.graph.output[0].CopyFrom(onnx.helper.make_empty_tensor_value_info("a"))
    return np.abs(run(shown, planes(model))).max(axis=(0, 2, 3))


def test_channels_that_are_never_used_stay_small() -> None:
    model = chain(CHAINS["after depthwise"])
    values = {name: numbers(model)[name].copy() for name in ("wd", "w6", "b")}
    values["b"] = np.abs(values["b"])
    values["wd"][0] = values["b"][0] = 0  # always 0
    values["w6"][:, 1] = 0  # without a consumer
    values["wd"][2] *= 1e-3  # the same for all images: what is left is the bias
    for name, array in values.items():
        constants(model.graph)[name].CopyFrom(numpy_helper.from_array(array, name))
    result = equalized(model)
    check_same(model, result)
    assert all(np.isfinite(array).all() for array in numbers(result).values())
    before, after = border(model), border(result)
    assert after[0] == 0
    assert after[1] == before[1]
    assert after[2] <= after[3:].max()


# --- a trained network ------------------------------------------------------------------------------------------------


def unbalanced(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The same function, in which every tenth channel between two convolutions is 30 times as large as it was."""
    model = copy_of(graph)
    tensors = constants(model.graph)
    made_by = {node.output[0]: node for node in model.graph.node}
    for reader in model.graph.node:
        relu = made_by.get(reader.input[0])
        if reader.op_type != "Conv" or relu is None or relu.op_type != "Relu" or made_by[relu.input[0]].op_type != "Conv":
            continue
        maker = made_by[relu.input[0]]
        if sum(relu.output[0] in node.input for node in model.graph.node) > 1:
            continue
        channels = tensors[maker.input[1]].dims[0]
        factors = np.where(np.arange(channels) % 10 == 0, 30, 1).astype(np.float32)
        depthwise = tensors[reader.input[1]].dims[1] == 1
        inverse = 1 / (factors[:, None, None, None] if depthwise else factors[None, :, None, None])
        for name, factor in ((maker.input[1], factors[:, None, None, None]), (maker.input[2], factors), (reader.input[1], inverse)):
            tensors[name].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensors[name]) * factor, name))
    assert model != graph
    return model


@pytest.fixture(scope="module")
def fp32(bundle: Path) -> onnx.ModelProto:
    """A trained MobileNetV3-small."""
    return onnx.load(bundle / "model.fp32.onnx")


@pytest.mark.parametrize("opset", [13, 17, 20])
def test_a_trained_network_answers_the_same(fp32: onnx.ModelProto, checkpoint: Path, opset: int) -> None:
    graph, pixels = lower(fp32, opset), images(checkpoint, "val")[0]
    for model in (graph, unbalanced(graph)):
        result = equalized(model)
        onnx.checker.check_model(result, full_check=True)
        changed = [name for name, values in numbers(result).items() if not np.array_equal(values, numbers(model)[name])]
        assert len(changed) > 30
        np.testing.assert_allclose(run(result, pixels), run(graph, pixels), atol=1e-4)


@pytest.mark.parametrize("quantizer", [int8_onnxruntime, int8_tensorrt], ids=["onnxruntime", "tensorrt"])
def test_int8_of_an_unbalanced_network_is_saved(fp32: onnx.ModelProto, checkpoint: Path, quantizer: Any) -> None:
    train, val = images(checkpoint, "train")[0][::2], images(checkpoint, "val")[0]
    p = run(fp32, val).astype(np.float64)

    def divergence(model: onnx.ModelProto) -> float:
        int8 = quantizer.quantize(QuantizeRequest(model, Ranges(model, train).whole, "int8"))
        q = run(int8, val, as_written=True).astype(np.float64)
        return float((p * np.log(np.maximum(p, 1e-9) / np.maximum(q, 1e-9))).sum(axis=1).mean())

    as_trained, harmed = divergence(fp32), unbalanced(fp32)
    assert divergence(harmed) > 10 * as_trained
    assert divergence(equalized(harmed)) < 2 * as_trained

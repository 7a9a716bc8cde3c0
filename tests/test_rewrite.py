"""Graph rewrites: each returns a new, equivalent graph and leaves its input unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from exports import images, run
from google.protobuf.message import Message
from onnx import helper, numpy_helper
from torch import nn

import tlexport
from tlexport.contract import Preprocess
from tlexport.errors import StepFailed
from tlexport.export.rewrite import (
    IR_VERSIONS,
    clean,
    copy_of,
    lower,
    pool_instead_of_mean,
    spell_out_splits,
    split_hard_swish,
    split_layer_norm,
    with_kernel_shapes,
    without_allowzero,
    without_unused,
)
from tlexport.export.to_onnx import to_onnx
from tlexport.network import Classifier

OPSETS = [13, 17, 20]


def graph(body: str, opset: int = 18, result: str = "float[batch,c,h,w] y", **constants: Any) -> onnx.ModelProto:
    """A graph from ``x``, float (batch, 4, 6, 5), to ``y``."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> g (float[batch,4,6,5] x) => ({result}) {{ {body} }}')
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())
    onnx.checker.check_model(model, full_check=True)
    return model


def planes(seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0, 4, (3, 4, 6, 5)).astype(np.float32)


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def texts(message: Message) -> Iterator[tuple[str, str]]:
    """Every text field anywhere in a message, with the name of its field."""
    for field, value in message.ListFields():
        single = isinstance(value, Message | str | bytes | int | float)
        for item in [value] if single else value:
            if isinstance(item, Message):
                yield from texts(item)
            elif isinstance(item, str):
                yield field.name, item


# --- one rewrite at a time, on small graphs ---------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [[2, 3], [3, 2], [-2, -1], [-1, 2]], ids=str)
@pytest.mark.parametrize("keep", ["", "<keepdims=1>"])
def test_the_mean_over_a_plane_becomes_a_pool(axes: list[int], keep: str) -> None:
    model = graph(f"y = ReduceMean {keep} (x, axes)", result="float[batch,4,1,1] y", axes=np.array(axes, np.int64))
    pooled = pool_instead_of_mean(model)
    assert operators(pooled) == ["GlobalAveragePool"]
    assert not pooled.graph.initializer  # the axes are read by nothing now
    np.testing.assert_allclose(run(pooled, planes()), planes().mean(axis=(2, 3), keepdims=True), atol=1e-6)


@pytest.mark.parametrize(
    ("body", "result", "axes"),
    [
        ("y = ReduceMean (x, axes)", "float[batch,1,1,5] y", [1, 2]),
        ("y = ReduceMean (x, axes)", "float[batch,4,6,1] y", [3]),
        ("y = ReduceMean <keepdims=0> (x, axes)", "float[batch,4] y", [2, 3]),
        ("wide = Unsqueeze (x, five) y = ReduceMean (wide, axes)", "float[batch,1,4,1,1] y", [-2, -1]),
        ("wide = Unsqueeze (x, five) y = ReduceMean (wide, axes)", "float[batch,1,1,1,5] y", [2, 3]),
    ],
)
def test_any_other_mean_stays(body: str, result: str, axes: list[int]) -> None:
    extra = {"five": np.array([1], np.int64)} if "five" in body else {}
    model = graph(body, result=result, axes=np.array(axes, np.int64), **extra)
    same = pool_instead_of_mean(model)
    assert operators(same) == operators(model)
    np.testing.assert_array_equal(run(same, planes()), run(model, planes()))


def test_reshaping_to_a_row_for_each_image_becomes_a_flatten() -> None:
    model = graph("y = Reshape <allowzero=1> (x, shape)", result="float[batch,120] y", shape=np.array([-1, 120], np.int64))
    flat = pool_instead_of_mean(model)
    assert operators(flat) == ["Flatten"]
    np.testing.assert_array_equal(run(flat, planes()), planes().reshape(3, 120))


@pytest.mark.parametrize(
    ("shape", "result"), [([-1, 60], "float[rows,60] y"), ([-1, 4, 30], "float[batch,4,30] y"), ([60, -1], "float[60,n] y")]
)
def test_any_other_reshape_stays(shape: list[int], result: str) -> None:
    model = graph("y = Reshape (x, shape)", result=result, shape=np.array(shape, np.int64))
    same = pool_instead_of_mean(model)
    assert operators(same) == ["Reshape"]
    np.testing.assert_array_equal(run(same, planes()), planes().reshape(shape))


def test_hard_swish_becomes_its_definition() -> None:
    model = graph("a = HardSwish (x) y = HardSwish (a)")
    split = split_hard_swish(model)
    assert operators(split) == ["HardSigmoid", "Mul"] * 2
    x = planes().astype(np.float64)
    for _ in range(2):
        x = x * np.clip(x / 6 + 0.5, 0, 1)
    np.testing.assert_allclose(run(split, planes()), x, atol=1e-6)
    np.testing.assert_allclose(run(split, planes()), run(model, planes()), atol=1e-6)
    names = [node.name for node in split.graph.node if node.name]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("shift", [True, False])
def test_layer_normalization_becomes_its_definition(shift: bool) -> None:
    weights = {
        name: np.random.default_rng(seed).normal(size=5).astype(np.float32) for seed, name in enumerate(["scale", "shift"][: 1 + shift])
    }
    model = graph(f"y = LayerNormalization <axis=-1, epsilon=0.01> (x, {', '.join(weights)})", opset=17, **weights)
    split = split_layer_norm(model)
    assert "LayerNormalization" not in operators(split)
    x = planes().astype(np.float64)
    normalised = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 0.01)
    np.testing.assert_allclose(run(split, planes()), normalised * weights["scale"] + weights.get("shift", 0), atol=1e-5)
    np.testing.assert_allclose(run(lower(model, 13), planes()), run(model, planes()), atol=1e-5)


def test_layer_normalization_over_several_axes_stays() -> None:
    model = graph("y = LayerNormalization <axis=2> (x, scale)", opset=17, scale=np.ones((6, 5), np.float32))
    assert operators(split_layer_norm(model)) == ["LayerNormalization"]


@pytest.mark.parametrize(("axis", "parts", "lengths"), [(1, 2, [2, 2]), (-1, 2, [3, 2]), (3, 5, [1] * 5), (2, 4, [2, 2, 2, 0])])
def test_a_split_into_equal_parts_says_their_lengths(axis: int, parts: int, lengths: list[int]) -> None:
    names = [f"part{number}" for number in range(parts)]
    body = f"{', '.join(names)} = Split <axis={axis}, num_outputs={parts}> (x) y = Concat <axis={axis}> ({', '.join(reversed(names))})"
    model = graph(body)
    told = spell_out_splits(model)
    [given] = [numpy_helper.to_array(tensor).tolist() for tensor in told.graph.initializer]
    assert given == lengths
    expected = np.concatenate(np.split(planes(), np.cumsum(lengths)[:-1], axis=axis)[::-1], axis=axis)
    for made in (told, lower(model, 13)):
        np.testing.assert_array_equal(run(made, planes()), expected)


def test_a_split_of_an_axis_of_unknown_length_stays() -> None:
    model = graph("a, b = Split <axis=0, num_outputs=2> (x) y = Concat <axis=0> (b, a)")
    assert not spell_out_splits(model).graph.initializer
    with pytest.raises(StepFailed, match="opset 13"):
        lower(model, 13)


@pytest.mark.parametrize(("shape", "goes"), [([-1, 24, 5], True), ([0, 24, 5], False)])
def test_what_zero_means_is_left_out_where_there_is_none(shape: list[int], goes: bool) -> None:
    model = graph("y = Reshape <allowzero=1> (x, shape)", result="float[a,b,c] y", shape=np.array(shape, np.int64))
    without = without_allowzero(model)
    assert [len(node.attribute) for node in without.graph.node] == [0 if goes else 1]
    if goes:
        np.testing.assert_array_equal(run(without, planes()), planes().reshape(shape))


def test_every_convolution_states_its_kernel() -> None:
    body = "a = Conv <pads=[1,0,1,0]> (x, w) b = ConvTranspose <group=2> (a, v) y = Conv <kernel_shape=[1,1]> (b, u)"
    shapes = {"w": (4, 4, 3, 2), "v": (4, 2, 2, 5), "u": (4, 4, 1, 1)}
    model = graph(body, **{name: np.random.default_rng(0).normal(size=shape).astype(np.float32) for name, shape in shapes.items()})
    stated = with_kernel_shapes(model)
    assert kernels(stated) == [[3, 2], [2, 5], [1, 1]]
    np.testing.assert_array_equal(run(stated, planes()), run(model, planes()))


def kernels(model: onnx.ModelProto) -> list[list[int]]:
    """What each convolution states of its kernel."""
    convolutions = [node for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    return [[size for attribute in node.attribute if attribute.name == "kernel_shape" for size in attribute.ints] for node in convolutions]


def test_initializers_that_nothing_reads_go() -> None:
    model = graph("y = Add (x, used)", used=np.float32(2), unused=np.float32(3))
    assert [tensor.name for tensor in without_unused(model).graph.initializer] == ["used"]


def test_what_only_debugging_needs_goes() -> None:
    model = graph("y = Add (x, two)", two=np.float32(2))
    for holder in (model, model.graph, model.graph.node[0], model.graph.input[0], model.graph.output[0], model.graph.initializer[0]):
        holder.doc_string = "written in /home/someone/secret"
        holder.metadata_props.add(key="trace", value="/home/someone/train.py line 3")
    model.producer_name, model.producer_version = "pytorch", "1.2.3"
    cleaned = clean(model)
    assert not [value for _, value in texts(cleaned) if "someone" in value]
    assert "pytorch" not in cleaned.producer_name
    np.testing.assert_array_equal(run(cleaned, planes()), planes() + 2)


PASSES: list[Callable[[onnx.ModelProto], onnx.ModelProto]] = [
    clean,
    copy_of,
    pool_instead_of_mean,
    split_hard_swish,
    split_layer_norm,
    spell_out_splits,
    with_kernel_shapes,
    without_allowzero,
    without_unused,
    lambda model: lower(clean(model), 13),
]


@pytest.mark.parametrize("rewrite", PASSES)
def test_the_input_is_left_alone(rewrite: Callable[[onnx.ModelProto], onnx.ModelProto]) -> None:
    model = graph(
        "a = HardSwish (x) b = ReduceMean (a, axes) y = Reshape (b, shape)",
        result="float[batch,4] y",
        axes=np.array([2, 3], np.int64),
        shape=np.array([-1, 4], np.int64),
        unused=np.float32(1),
    )
    model.doc_string = "words"
    model.graph.node[0].metadata_props.add(key="trace", value="here")
    before = model.SerializeToString(deterministic=True)
    new = rewrite(model)
    np.testing.assert_allclose(run(new, planes()), run(model, planes()), atol=1e-6)
    new.graph.node[0].name = "changed"
    new.graph.initializer.add(name="more")
    assert model.SerializeToString(deterministic=True) == before


# --- lowering ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", sorted(IR_VERSIONS))
def test_each_opset_gets_the_ir_version_it_was_released_with(opset: int) -> None:
    assert IR_VERSIONS[opset] == helper.find_min_ir_version_for([helper.make_opsetid("", opset)])


@pytest.mark.parametrize(
    ("body", "opset"),
    [
        ("y = Mish (x)", 17),  # since 18
        ("y = Gelu (x)", 18),  # since 20
        ("y = ReduceMean (x, axes)", 17),  # axes are an input since 18
        ("y = Reshape <allowzero=1> (x, shape)", 13),  # the attribute exists since 14
    ],
)
def test_what_an_opset_lacks_is_an_error(body: str, opset: int) -> None:
    constants = {"axes": np.array([1], np.int64), "shape": np.array([0, 4, 6, 5], np.int64)}
    model = graph(body, opset=20, result="float[a,b,c,d] y", **{name: value for name, value in constants.items() if name in body})
    before = model.SerializeToString(deterministic=True)
    with pytest.raises(StepFailed, match=f"opset {opset}"):
        lower(model, opset)
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("opset", [7, 12, 99])
def test_an_opset_that_is_not_known_is_an_error(opset: int) -> None:
    with pytest.raises(StepFailed, match=f"opset {opset} is not known"):
        lower(graph("y = Relu (x)"), opset)


# --- real graphs ------------------------------------------------------------------------------------------------------


class Small(nn.Module):
    """What our backbones are made of, once each: convolutions, hard-swish, squeeze-and-excitation, SiLU, pooling, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Hardsigmoid())
        self.body = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
        )

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        planes = self.stem(planes)
        logits: torch.Tensor = self.body(planes * self.gate(planes))
        return logits


@pytest.fixture(scope="module")
def raw() -> onnx.ModelProto:
    """A classifier as torch's exporter leaves it."""
    classifier = Classifier(Small(), Preprocess(size=16, resize=16)).eval()  # type: ignore[arg-type]
    example, batch = torch.zeros((2, 16, 16, 3), dtype=torch.uint8), torch.export.Dim("batch", min=1, max=1000)
    program = torch.onnx.export(classifier, (example,), dynamo=True, opset_version=18, dynamic_shapes=({0: batch},), verbose=False)
    assert program is not None
    return program.model_proto


@pytest.mark.parametrize("opset", [None, *OPSETS])
def test_what_the_exporter_leaves_is_cleaned_and_lowered(raw: onnx.ModelProto, opset: int | None) -> None:
    source = str(Path(tlexport.__file__).parent)
    assert any(source in value for _, value in texts(raw))  # else there is nothing to take out
    before = raw.SerializeToString(deterministic=True)
    cleaned = clean(raw) if opset is None else lower(clean(raw), opset)
    assert raw.SerializeToString(deterministic=True) == before
    assert not [
        value for name, value in texts(cleaned) if name == "doc_string" or source in value or "site-packages" in value or ".py" in value
    ]
    assert not [node.name for node in cleaned.graph.node if node.metadata_props]
    assert not {"ReduceMean", "Reshape"} & set(operators(cleaned))
    pixels = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    np.testing.assert_allclose(run(cleaned, pixels), run(raw, pixels), atol=1e-6)


def test_a_kernel_that_the_exporter_does_not_state_is_stated(raw: onnx.ModelProto) -> None:
    """onnxscript before 0.7.2 left it out."""
    stripped = copy_of(raw)
    for node in stripped.graph.node:
        for attribute in [attribute for attribute in node.attribute if attribute.name == "kernel_shape"]:
            node.attribute.remove(attribute)
    assert kernels(clean(stripped)) == kernels(clean(raw)) == [[3, 3], [1, 1], [3, 3]]


@pytest.mark.parametrize("opset", OPSETS)
def test_a_trained_classifier_at_each_opset(bundle: Path, checkpoint: Path, opset: int) -> None:
    model = onnx.load(bundle / "model.fp32.onnx")
    before = model.SerializeToString(deterministic=True)
    lowered = lower(model, opset)
    assert model.SerializeToString(deterministic=True) == before
    assert [(entry.domain, entry.version) for entry in lowered.opset_import] == [("", opset)]
    onnx.checker.check_model(lowered, full_check=True)
    for node in lowered.graph.node:  # each operator existed then
        assert onnx.defs.has(node.op_type, opset, ""), node.op_type
    assert ("HardSwish" in operators(lowered)) == (opset >= 14)
    pixels = images(checkpoint, "val")[0]
    np.testing.assert_allclose(run(lowered, pixels), run(model, pixels), atol=1e-6)


def test_an_exported_graph_has_what_the_quantizers_count_on(bundle: Path) -> None:
    """Pools instead of means, one float constant a weight, the uint8 input in one Cast, a Softmax at the end."""
    graph = onnx.load(bundle / "model.fp32.onnx").graph
    assert not {"ReduceMean", "Reshape"} & {node.op_type for node in graph.node}
    assert [node.op_type for node in graph.node if "image" in node.input] == ["Cast"]
    assert [node.op_type for node in graph.node[:2]] == ["Cast", "Transpose"]
    assert (graph.node[-1].op_type, list(graph.node[-1].output)) == ("Softmax", ["probabilities"])
    constants = {tensor.name for tensor in graph.initializer}
    assert all(node.input[1] in constants for node in graph.node if node.op_type in ("Conv", "Gemm"))


class Branching(nn.Module):
    """Cannot be a graph: which way it goes depends on the pixels."""

    backbone = "branching"

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.mean(dim=(2, 3)) if image.sum() > 0 else -image.mean(dim=(2, 3))


def test_a_network_that_is_no_graph_is_an_error_with_its_reason() -> None:
    with pytest.raises(StepFailed) as error:
        to_onnx(Branching(), Preprocess(size=16, resize=16), "uint8", 17)  # type: ignore[arg-type]
    assert "branching" in error.value.message
    assert "data-dependent" in error.value.message
    assert "\n" not in error.value.message

"""Cost of a graph: compared with torchvision's figures, brute force, and the file size."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tlexport.bundle.manifest import read_manifest
from tlexport.errors import InvalidFile, UsageError
from tlexport.estimate.cost import GraphCost, cost_of
from tlexport.estimate.graph import fused, read, with_shapes
from tlexport.estimate.memory import peak_bytes
from tlexport.estimate.operator_shapes import TensorInfo
from tlexport.estimate.probes import probe
from tlexport.estimate.shapes import infer


def graph(nodes: list[onnx.NodeProto], inputs: dict[str, list[int | str]], outputs: list[str], **weights: list[int]) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    constants = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in weights.items()]
    built = helper.make_graph(nodes, "g", values, ends, constants)
    return helper.make_model(built, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


CONVOLUTIONS = {  # weight (out, in / groups, height, width), groups, kind, MACs for one 8 x 8 output
    "conv": ([16, 8, 3, 3], 1, 64 * 16 * 8 * 9),
    "pointwise": ([16, 8, 1, 1], 1, 64 * 16 * 8),
    "depthwise": ([8, 1, 3, 3], 8, 64 * 8 * 9),
    "grouped": ([16, 4, 3, 3], 2, 64 * 16 * 4 * 9),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_kind_and_macs_of_a_convolution(kind: str) -> None:
    weight, groups, macs = CONVOLUTIONS[kind]
    pad = weight[2] // 2
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], group=groups, pads=[pad] * 4)
    cost = cost_of(graph([node], {"x": [1, 8, 8, 8]}, ["y"], w=weight, b=[weight[0]]))
    (layer,) = cost.layers
    assert (layer.kind, layer.macs) == (kind, macs)
    assert cost.parameters == np.prod(weight) + weight[0]
    assert layer.weight_bytes == 4 * cost.parameters
    assert (layer.input_bytes, layer.output_bytes) == (4 * 8 * 64, 4 * weight[0] * 64)


def test_the_1x1_convolutions_of_squeeze_and_excitation_are_told_apart() -> None:
    pool = helper.make_node("GlobalAveragePool", ["x"], ["m"])
    squeeze = helper.make_node("Conv", ["m", "w"], ["s"])
    scale = helper.make_node("Mul", ["x", "s"], ["y"])
    layers = cost_of(graph([pool, squeeze, scale], {"x": [1, 8, 8, 8]}, ["y"], w=[8, 8, 1, 1])).layers
    assert [layer.kind for layer in layers] == ["pool", "se", "elementwise"]


def test_an_operator_that_no_list_names_is_named_and_counted() -> None:
    cost = cost_of(graph([helper.make_node("Sin", ["x"], ["y"])], {"x": [1, 4]}, ["y"]))
    assert cost.unknown == ("Sin",)
    assert [layer.kind for layer in cost.layers] == ["unknown"]


def test_a_product_written_as_einsum_costs_what_it_multiplies() -> None:
    node = helper.make_node("Einsum", ["x", "y"], ["z"], equation="bhid,bhjd->bhij")
    (layer,) = cost_of(graph([node], {"x": [1, 4, 10, 8], "y": [1, 4, 12, 8]}, ["z"])).layers
    assert (layer.kind, layer.macs, layer.rows, layer.inner, layer.outer, layer.groups) == ("gemm", 4 * 10 * 12 * 8, 10, 8, 12, 4)


@pytest.mark.parametrize("options", [{}, {"transB": 1}, {"transBatchA": 1}, {"transBatchA": 1, "transBatchB": 1, "transB": 1}])
def test_a_product_with_fused_transpositions_gives_what_onnx_runtime_gives(options: dict[str, int]) -> None:
    import onnxruntime as ort

    a = [3, 2, 5] if "transBatchA" in options else [2, 3, 5]
    rows = [4, 5] if "transB" in options else [5, 4]
    b = [rows[0], 2, rows[1]] if "transBatchB" in options else [2, *rows]
    node = helper.make_node("FusedMatMul", ["x", "y"], ["z"], domain="com.microsoft", **options)
    model = graph([node], {"x": list(a), "y": list(b)}, ["z"])
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"x": np.ones(a, np.float32), "y": np.ones(b, np.float32)})
    assert infer(model)["z"].shape == answer.shape
    assert cost_of(model).macs == 2 * 3 * 5 * 4


def test_a_transposition_is_told_by_what_it_leaves_together() -> None:
    kept = {}
    for order in ([0, 2, 1, 3], [0, 3, 1, 2]):
        (layer,) = cost_of(graph([helper.make_node("Transpose", ["x"], ["y"], perm=order)], {"x": [1, 4, 6, 8]}, ["y"])).layers
        kept[order[-1]] = (layer.inner_axis, layer.width)
    assert kept == {3: (8, 8), 2: (1, 6)}


def test_a_layer_knows_how_much_was_computed_since_its_input_was_touched() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Conv", ["a", "w"], ["b"]),
        helper.make_node("Add", ["x", "b"], ["c"]),  # b is as large as x and came last, but x is named first
        helper.make_node("Relu", ["a"], ["d"]),
    ]
    layers = cost_of(graph(nodes, {"x": [1, 8, 4, 4]}, ["c", "d"], w=[8, 8, 1, 1])).layers
    each = 8 * 8 * 16
    assert [layer.since for layer in layers] == [0, each, 2 * each, each]


def test_what_depends_on_constants_alone_costs_nothing() -> None:
    nodes = [helper.make_node("Add", ["w", "w"], ["v"]), helper.make_node("Mul", ["x", "v"], ["y"])]
    assert [layer.op for layer in cost_of(graph(nodes, {"x": [1, 4]}, ["y"], w=[4])).layers] == ["Mul"]


def weighted(cost: GraphCost) -> int:
    """Layers with weights."""
    return sum(layer.weight_bytes > 0 for layer in cost.layers)


def most_zeros(plain: GraphCost) -> float:
    """Upper bound of the MACs with zeros in an INT8 form for CPUs; the exact number depends on its float blocks.

    The first convolution's filters are padded to whole strides, and channels to multiples of 16 for depthwise convolutions.
    """
    first = next(layer for layer in plain.layers if layer.macs)
    side = math.isqrt(first.kernel)
    return first.macs * ((math.ceil(side / first.stride) * first.stride / side) ** 2 - 1) + 0.04 * plain.macs


@pytest.mark.parametrize("seed", range(10))
def test_fusing_keeps_the_macs_and_leaves_nothing_unknown(seed: int) -> None:
    """Every family of probes, so that every operator of torchvision's families; ONNX Runtime's own operators included."""
    model = probe(seed)
    plain, whole = cost_of(model), cost_of(fused(model, layout=False))
    assert whole.macs == plain.macs > 0
    assert whole.unknown == plain.unknown == ()
    assert weighted(whole) <= weighted(plain)
    assert cost_of(fused(model, layout=True)).unknown == ()


def test_shapes_are_those_that_onnx_runtime_computes() -> None:
    """The rules for ONNX Runtime's own operators, in every family: the shapes of a fused graph equal those of a run."""
    import onnxruntime as ort

    for seed in range(10):
        model = probe(seed)
        whole = fused(model, layout=True)
        name = whole.graph.output[0].name
        shape = [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim]
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        (answer,) = session.run([name], {"image": np.zeros(shape, np.float32)})
        assert infer(whole)[name].shape == answer.shape


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_bundles_models_cost_the_same_macs_and_as_many_bytes_as_they_hold(bundle: Path, precision: str) -> None:
    model = read_manifest(bundle).model(precision)  # type: ignore[arg-type]  # one of the three
    cost, plain = cost_of(read(bundle / model.file)), cost_of(read(bundle / read_manifest(bundle).model("fp32").file))
    zeros = most_zeros(plain) if precision == "int8" else 0
    assert plain.macs <= cost.macs <= plain.macs + zeros
    assert 0.8 * model.artifact.size_bytes < cost.weight_bytes <= model.artifact.size_bytes
    whole = cost_of(fused(read(bundle / model.file), layout=False))
    assert whole.macs == cost.macs
    found = {layer.bits for layer in whole.layers if layer.kind in ("conv", "depthwise", "pointwise")}
    # this CPU computes FP16 in FP32, and some blocks of INT8 where that is faster
    assert found == {32} if precision != "int8" else {8} <= found <= {8, 32}


def test_a_free_batch_is_one_image_and_any_other_free_axis_has_to_be_given() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    assert cost_of(with_shapes(graph([node], {"x": ["batch", 4]}, ["y"]), {}, "m")).layers[0].output_bytes == 16
    with pytest.raises(UsageError, match="axis 2 has no length") as caught:
        with_shapes(graph([node], {"x": ["batch", 3, "height", 8]}, ["y"]), {}, "m")
    assert "--shape x=" in caught.value.hint
    sized = with_shapes(graph([node], {"x": ["batch", 3, "height", 8]}, ["y"]), {"x": [1, 3, 16, 8]}, "m")
    assert cost_of(sized).layers[0].output_bytes == 4 * 3 * 16 * 8
    for shapes, part in (({"z": [1]}, "no input 'z'"), ({"x": [1]}, "4 axes"), ({"x": [1, 3, 16, 9]}, "is 8; --shape has 9")):
        with pytest.raises(UsageError, match=part):
            with_shapes(graph([node], {"x": ["batch", 3, "height", 8]}, ["y"]), shapes, "m")


def test_what_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    for name, content in {"empty": b"", "text": b"not a model at all"}.items():
        file = tmp_path / f"{name}.onnx"
        file.write_bytes(content)
        with pytest.raises(InvalidFile, match=name):
            read(file)
    with pytest.raises(InvalidFile, match="missing"):
        read(tmp_path / "missing.onnx")


def test_shapes_that_contradict_each_other_are_an_error_of_the_file() -> None:
    wrong = graph([helper.make_node("MatMul", ["x", "w"], ["y"], name="product")], {"x": [1, 4]}, ["y"], w=[5, 2])
    with pytest.raises(InvalidFile, match="product"):
        cost_of(wrong)


@st.composite
def dags(draw: st.DrawFn) -> list[tuple[int, list[int]]]:
    """Nodes as (bytes that they make, earlier nodes that they take); node 0 is the input."""
    count = draw(st.integers(2, 7))
    nodes: list[tuple[int, list[int]]] = [(draw(st.integers(1, 50)), [])]
    for index in range(1, count):
        nodes.append((draw(st.integers(1, 50)), draw(st.lists(st.integers(0, index - 1), min_size=1, max_size=3, unique=True))))
    return nodes


def brute_force(nodes: list[tuple[int, list[int]]], outputs: set[int]) -> int:
    """Least peak over every order."""
    best = None
    for order in itertools.permutations(range(1, len(nodes))):
        place = {node: position for position, node in enumerate((0, *order))}
        if any(place[taken] > place[index] for index, (_, takes) in enumerate(nodes) for taken in takes):
            continue
        peak = 0
        for position, node in enumerate((0, *order)):
            alive = {
                made
                for made in (0, *order)[: position + 1]
                if made == node or made in outputs or any(place[i] >= position for i, (_, takes) in enumerate(nodes) if made in takes)
            }
            peak = max(peak, sum(nodes[made][0] for made in alive))
        best = peak if best is None else min(best, peak)
    assert best is not None
    return best


@given(dags())
def test_peak_memory_is_the_least_over_all_orders(nodes: list[tuple[int, list[int]]]) -> None:
    taken = {index for _, takes in nodes for index in takes}
    outputs = set(range(len(nodes))) - taken
    made = [helper.make_node("Sum", [f"t{i}" for i in takes], [f"t{index}"]) for index, (_, takes) in enumerate(nodes) if index]
    model = graph(made, {"t0": [nodes[0][0]]}, [f"t{index}" for index in outputs])
    tensors = {f"t{index}": TensorInfo((size,), TensorProto.INT8) for index, (size, _) in enumerate(nodes)}
    assert peak_bytes(model, tensors) == brute_force(nodes, outputs)


def test_peak_memory_of_a_chain_is_its_widest_pair() -> None:
    sizes = [10, 40, 5, 30]
    made = [helper.make_node("Relu", [f"t{i}"], [f"t{i + 1}"]) for i in range(3)]
    tensors = {f"t{i}": TensorInfo((size,), TensorProto.INT8) for i, size in enumerate(sizes)}
    assert peak_bytes(graph(made, {"t0": [1]}, ["t3"]), tensors) == 50

"""Export of each backbone family: folded, frozen and unchanged, with the preprocessing of its weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from exports import run
from onnx import numpy_helper
from torch import Tensor, nn
from variants import light_variants, parameters, settle

from tlexport import plugins
from tlexport.contract import Preprocess, TensorSpec
from tlexport.estimate.dequantized import in_fp32
from tlexport.export.checks import check_graph
from tlexport.export.ranges import Ranges
from tlexport.export.rewrite import lower
from tlexport.export.tensorrt_rules import check_tensorrt
from tlexport.export.to_onnx import EXPORTER_OPSET, to_onnx
from tlexport.hardware.profile import INT8_CONSTANTS
from tlexport.network import Classifier, Contract, Network, build
from tlexport.plugins import traits_of
from tlexport.ports import QuantizeRequest, Silent
from tlexport.quantizers import fp16, int8_tensorrt
from tlexport.recipe import Recipe
from tlexport.storage.cache import ArrayCache
from tlexport.train.distributed import Workers
from tlexport.train.fit import Trainer
from tlexport.train.frozen import FrozenTrunk
from tlexport.train.images import LabelledImages
from tlexport.train.phases import Phase
from tlexport.train.resume import Saver

# slow: every family through torch's exporter
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

CLASSES = 5
DEFAULT = Recipe().backbone
SMALLEST = tuple(min(plugins.backbone(family).VARIANTS, key=parameters) for family in plugins.names("backbones"))
HEAVY = tuple(backbone for backbone in SMALLEST if backbone not in light_variants())  # test_train.py trains the others
OPSETS = (13, 17, 20)  # the lowest and the highest opset in a profile, and one in between
TENSORRT = {13: (8, 2, 1), 17: (8, 5, 2), 20: (10, 3, 0)}  # of the boards that ask for them


def patches(count: int, side: int) -> npt.NDArray[np.uint8]:
    """Images of random colours, 16 x 16, so that their features differ clearly."""
    colours = np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), np.uint8)
    return colours.repeat(-(-side // 16), axis=1).repeat(-(-side // 16), axis=2)[:, :side, :side]


def settled(backbone: str, pixels: npt.NDArray[np.uint8], preprocess: Preprocess) -> Network:
    """A random network that lets these images through."""
    torch.manual_seed(0)
    network = build(backbone, CLASSES)
    for name, parameter in network.named_parameters():
        if name.endswith("layer_scale"):  # ConvNeXt's start at a millionth: its blocks would do next to nothing
            nn.init.ones_(parameter)
    settle(network, Contract(preprocess)(torch.from_numpy(pixels)))
    return network


def preprocess_of(backbone: str, side: int) -> Preprocess:
    """``side`` pixels, which are to be 32 or more; where 32 are too few for the network, so many more."""
    side += max(0, traits_of(backbone).smallest - 32)
    return Preprocess(size=side, resize=side)


# --- export -----------------------------------------------------------------------------------------------------------------

# test_export.py exports the default for every profile; MobileNetV2 shares its family, but not its blocks
EXPORTED = sorted({*SMALLEST, "mobilenet_v2"} - {DEFAULT})


@dataclass(frozen=True)
class Exported:
    """One network, what torch computes for some images, float32 (image, class), and its graphs."""

    pixels: npt.NDArray[np.uint8]
    expected: npt.NDArray[np.float32]
    graphs: dict[int, onnx.ModelProto]  # by opset


@pytest.fixture(scope="module", params=EXPORTED)
def exported(request: pytest.FixtureRequest) -> Exported:
    """The exporter writes opset 18 or higher, so one export, which takes seconds, serves every lower opset."""
    preprocess = preprocess_of(request.param, 64)
    pixels = patches(8, preprocess.size)
    network = settled(request.param, pixels, preprocess)
    lowest = to_onnx(network, preprocess, "uint8", EXPORTER_OPSET)
    graphs = {opset: lower(lowest, opset) if opset < EXPORTER_OPSET else to_onnx(network, preprocess, "uint8", opset) for opset in OPSETS}
    with torch.no_grad():
        expected = Classifier(network, preprocess).eval()(torch.from_numpy(pixels)).numpy()
    return Exported(pixels, expected, graphs)


@pytest.mark.slow  # each family goes through torch's exporter twice
@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_computes_what_torch_computes(exported: Exported, opset: int) -> None:
    assert exported.graphs[opset].opset_import[0].version == opset
    spread = float(exported.expected.std(axis=0).max())
    assert spread > 5e-4  # the images do get through
    np.testing.assert_allclose(run(exported.graphs[opset], exported.pixels), exported.expected, atol=min(1e-4, spread / 100))


@pytest.mark.slow
@pytest.mark.parametrize("opset", OPSETS)
def test_nothing_in_a_graph_is_newer_than_its_opset(exported: Exported, opset: int) -> None:
    """Neither operators nor attributes: torch's exporter only writes the older opset's number and keeps newer operators."""
    graph = exported.graphs[opset]
    onnx.checker.check_model(graph, full_check=True)
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", opset)]
    assert graph.ir_version == onnx.helper.find_min_ir_version_for(list(graph.opset_import))
    for node in graph.graph.node:
        schema = onnx.defs.get_schema(node.op_type, opset, "")  # raises for an operator that is not there yet
        assert schema.since_version <= opset
        assert not schema.deprecated
        assert {attribute.name for attribute in node.attribute} <= set(schema.attributes), node.name


@pytest.mark.slow
@pytest.mark.parametrize("opset", [17, 20])
def test_int8_for_tensorrt_keeps_its_rules(exported: Exported, opset: int) -> None:
    graph = exported.graphs[opset]
    ranges, version = Ranges(graph, exported.pixels).whole, TENSORRT[opset]
    quantized = int8_tensorrt.quantize(QuantizeRequest(graph, ranges, "int8", float_weights=version < INT8_CONSTANTS))
    check_graph(quantized, "int8", _tensors(graph.graph.input), _tensors(graph.graph.output))
    check_tensorrt(quantized, version)
    made_by = {name: node.op_type for node in quantized.graph.node for name in node.output}
    for node in quantized.graph.node:
        if node.op_type == "Conv":
            assert [made_by[name] for name in node.input[:2]] == ["DequantizeLinear"] * 2, node.name
    np.testing.assert_allclose(run(quantized, exported.pixels, as_written=True).sum(axis=1), 1, atol=1e-3)
    # equal up to rounding: each node has the same inputs, and no weight differs by more than half a step
    plain = in_fp32(quantized)
    same = {node.name: node for node in plain.graph.node}
    weights, rounded = ({tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer} for model in (graph, plain))
    assert set(same) == {node.name for node in graph.graph.node}
    for node in graph.graph.node:
        assert [name for name in same[node.name].input if name not in rounded] == [name for name in node.input if name not in weights]
        if node.op_type == "Conv":
            weight, other = weights[node.input[1]], rounded[same[node.name].input[1]]
            step = np.abs(weight).reshape(len(weight), -1).max(axis=1) / 127
            furthest = np.abs(weight - other).reshape(len(weight), -1).max(axis=1)
            assert (furthest <= 0.6 * step + 1e-6).all(), node.name  # half a step, and what an FP16 scale rounds


@pytest.mark.slow
@pytest.mark.parametrize("opset", OPSETS)
def test_fp16_computes_the_same(exported: Exported, opset: int) -> None:
    graph = exported.graphs[opset]
    halved = fp16.quantize(QuantizeRequest(graph, Ranges(graph, exported.pixels).whole, "int8"))
    for model in (graph, halved):
        check_tensorrt(model, TENSORRT[opset])
    check_graph(halved, "fp16", _tensors(graph.graph.input), _tensors(graph.graph.output))
    np.testing.assert_allclose(run(halved, exported.pixels), exported.expected, atol=0.02)


def _tensors(values: Iterable[onnx.ValueInfoProto]) -> list[TensorSpec]:
    """The tensors of a graph's border, as its record would have them."""
    found = []
    for value in values:
        tensor = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
        shape = tuple(axis.dim_param or axis.dim_value for axis in tensor.shape.dim)
        found.append(TensorSpec.model_validate({"name": value.name, "dtype": dtype, "shape": shape}))
    return found


@pytest.mark.slow
def test_the_graph_is_plain(exported: Exported) -> None:
    nodes = [node for graph in exported.graphs.values() for node in graph.graph.node]
    assert {node.op_type for node in nodes if "image" in node.input} == {"Cast"}  # what TensorRT asks of a uint8 input
    assert {node.domain for node in nodes} == {""}
    assert not {"Shape", "Range", "Loop", "If"} & {node.op_type for node in nodes}  # nothing is computed about shapes


# --- folded and frozen, for the families that test_train.py leaves out ------------------------------------------------------


def stage_bits(network: Network) -> dict[str, list[Tensor]]:
    """A copy of every parameter and buffer, by stage."""
    return {name: [tensor.detach().clone() for tensor in (*stage.parameters(), *stage.buffers())] for name, stage in network.stages.items()}


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(first, second) for first, second in zip(one, other, strict=True))


@pytest.mark.parametrize("backbone", HEAVY)
def test_the_folded_trunk_computes_what_the_stages_compute(backbone: str) -> None:
    preprocess = preprocess_of(backbone, 64)
    pixels = patches(8, preprocess.size)
    network = settled(backbone, pixels, preprocess)
    # in double precision, since a random network makes much of single precision's rounding, folded or not
    contract, count = Contract(preprocess).double(), len(network.double().stages) - 1
    images = torch.from_numpy(pixels)
    folded = FrozenTrunk(network, contract, count, torch.device("cpu"))(images)
    with torch.no_grad():
        expected = nn.Sequential(contract, *list(network.stages.values())[:count])(images)
    assert float(expected.std(dim=0).max()) > 0.1 * float(expected.abs().max())  # the images differ
    torch.testing.assert_close(folded, expected, rtol=0, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.parametrize("backbone", HEAVY)
def test_frozen_stages_are_bit_identical_and_trained_ones_change(backbone: str) -> None:
    preprocess = preprocess_of(backbone, 32)
    pixels = patches(16, preprocess.size)
    network = settled(backbone, pixels, preprocess)
    sizes = [sum(parameter.numel() for parameter in stage.parameters()) for stage in network.stages.values()]
    above = [sum(sizes) - below for below in accumulate(sizes)]
    frozen = next(count for count, trained in enumerate(above, 1) if trained < 20_000_000)  # more takes long
    assert 0 < frozen < len(sizes)
    recipe = Recipe(backbone=backbone, batch_size=8, warmup=0)
    part = LabelledImages(pixels, torch.arange(16) % CLASSES, "patches")
    before = stage_bits(network)
    trainer = Trainer(network, preprocess, recipe, torch.device("cpu"), Silent(), Workers(), ArrayCache(None))
    trainer.fit((Phase("top", frozen, 2, 0.001),), part, part, Saver(Path("unused"), enabled=False), None, lambda epoch: None)
    kept = [same(before[name], tensors) for name, tensors in stage_bits(network).items()]
    assert kept == [position < frozen for position in range(len(sizes))]

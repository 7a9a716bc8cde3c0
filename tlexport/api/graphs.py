"""WHAT is to be estimated, a checkpoint, a bundle's model or any ONNX file: its graph, its precision and what it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

from tlexport.api.subject import find_subject
from tlexport.artifact import PRECISIONS, Precision
from tlexport.checkpoint import RECORD, read_checkpoint
from tlexport.errors import Unsupported, UsageError
from tlexport.files import sha256_of
from tlexport.profile import Profile

if TYPE_CHECKING:
    import onnx

    from tlexport.estimate.cost import GraphCost

Shapes = Mapping[str, Sequence[int]]
EXPORTER_OPSET = 18  # what torch's exporter writes; lower ones are made from it
# which input of a node holds its weights
WEIGHTS = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "FusedConv": 1, "FusedGemm": 1, "FusedMatMul": 1}
INTEGER_WEIGHTS = {"ConvInteger": 1, "MatMulInteger": 1, "QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3}
# what tensors go through before they are computed with
PASSING = ("DequantizeLinear", "QuantizeLinear", "Identity", "Transpose", "Reshape", "Cast")


class Graph:
    """A graph with fixed shapes. What it costs is computed when it is first asked for, and once."""

    def __init__(self, model: onnx.ModelProto, size_bytes: int) -> None:
        self.model, self.size_bytes = model, size_bytes

    @cached_property
    def portable(self) -> tuple[GraphCost, int]:
        """Cost and number of nodes, with the layers as every machine fuses them."""
        return self._cost(layout=False)

    @cached_property
    def native(self) -> tuple[GraphCost, int]:
        """Cost and number of nodes, with the layers as this kind of machine runs them."""
        return self._cost(layout=True)

    @cached_property
    def plain(self) -> GraphCost:
        """Cost of the same layers in FP32, as every machine fuses them."""
        from tlexport.estimate.plain import in_fp32

        model = in_fp32(self.model)
        return (self.portable if model is self.model else Graph(model, self.size_bytes).portable)[0]

    def _cost(self, layout: bool) -> tuple[GraphCost, int]:
        from tlexport.estimate.cost import cost_of
        from tlexport.estimate.graph import fused

        graph = fused(self.model, layout=layout)
        return cost_of(graph), len(graph.graph.node)


@dataclass(frozen=True)
class Estimable:
    """A model that can be estimated."""

    what: str
    precision: Precision
    sha256: str  # of the file; of a checkpoint, of its weights
    graph_for: Callable[[Profile], Graph]
    note: str = ""  # what the user should be told about the model


def find_graph(what: Path, precision: Precision | None = None, shapes: Shapes | None = None) -> Estimable:
    """Look at WHAT.

    Args:
        what: a checkpoint, which is exported to FP32 in memory; a bundle; or an .onnx file, a bundle's or any other.
        precision: which of a bundle's models; None: the chosen one.
        shapes: shape of each input that has free axes other than the first.

    Raises:
        InvalidFile: not there, none of these, or not a graph that can be read.
        VerificationFailed: a bundle's model is not the file that it was made with.
        UsageError: the precision or a shape is none that it has.
        Unsupported: its weights are of a type that is not estimated.
    """
    if what.suffix == ".onnx" and what.is_file():
        return _file(what, precision, shapes)
    subject = find_subject(what, precision=precision)
    if (what / RECORD).is_file():
        return _checkpoint(what, shapes)
    graph = _read(subject.path, shapes)
    return Estimable(str(subject.path), subject.precision, subject.sha256, lambda profile: graph)


def _read(path: Path, shapes: Shapes | None) -> Graph:
    from tlexport.estimate.graph import read

    return Graph(read(path, shapes), path.stat().st_size)


def _file(path: Path, precision: Precision | None, shapes: Shapes | None) -> Estimable:
    graph = _read(path, shapes)
    found, note = precision_of(graph.model, str(path))
    if precision not in (None, found):
        raise UsageError(f"{path} is {found}; {precision} was asked for", "leave out --precision")
    return Estimable(str(path), found, sha256_of(path), lambda profile: graph, note)


def _checkpoint(path: Path, shapes: Shapes | None) -> Estimable:
    """A checkpoint as it would be exported in FP32 for each profile; what differs between profiles is made once for each kind."""
    checkpoint = read_checkpoint(path)
    exported: dict[tuple[str, int], onnx.ModelProto] = {}
    graphs: dict[tuple[str, int], Graph] = {}

    def graph_for(profile: Profile) -> Graph:
        from tlexport.estimate.graph import with_shapes
        from tlexport.export.rewrite import lower
        from tlexport.export.to_onnx import to_onnx
        from tlexport.network import load_network

        dtype, opset = profile.input_dtype.value, profile.opset.value
        if (dtype, opset) not in graphs:
            written = dtype, max(opset, EXPORTER_OPSET)
            if written not in exported:
                network = load_network(path, checkpoint)
                exported[written] = to_onnx(network, checkpoint.preprocess, dtype, written[1])
            model = lower(exported[written], opset)
            graphs[dtype, opset] = Graph(with_shapes(model, shapes or {}, str(path)), model.ByteSize())
        return graphs[dtype, opset]

    return Estimable(str(path), "fp32", checkpoint.weights_sha256, graph_for)


def precision_of(model: onnx.ModelProto, where: str) -> tuple[Precision, str]:
    """Precision that most of the weighted layers of a graph compute in, and a note where not all of them do.

    A layer computes in INT8 where both its weights and its input are 8-bit integers.

    Raises:
        Unsupported: weights of another type, such as BFLOAT16.
    """
    from onnx import TensorProto

    constants = {i.name: i.data_type for i in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    constants |= {
        n.output[0]: n.attribute[0].t.data_type for n in model.graph.node if n.op_type == "Constant" and n.attribute[0].HasField("t")
    }

    def origin(name: str) -> tuple[str, bool]:
        """Where a tensor comes from, and whether it was an integer on the way."""
        quantized = False
        while name in makers and makers[name].op_type in PASSING:
            quantized = quantized or makers[name].op_type == "DequantizeLinear"
            name = makers[name].input[0]
        return name, quantized

    kinds = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16", TensorProto.INT8: "int8", TensorProto.UINT8: "int8"}
    counted: Counter[str] = Counter()
    for node in model.graph.node:
        place = WEIGHTS.get(node.op_type) or INTEGER_WEIGHTS.get(node.op_type)
        if place is None or len(node.input) <= place:
            continue
        source, quantized = origin(node.input[place])
        if source not in constants:
            continue  # a product of two activations
        kind = kinds.get(constants[source])
        if kind is None:
            name = TensorProto.DataType.Name(constants[source])
            raise Unsupported(f"{where} has weights of type {name}", f"what can be estimated is {', '.join(PRECISIONS)}")
        if node.op_type in WEIGHTS and (quantized or kind == "int8"):
            kind = "int8" if quantized and origin(node.input[0])[1] else "fp32"
        counted[kind] += 1
    return _most(counted)


def _most(counted: Counter[str]) -> tuple[Precision, str]:
    if not counted:
        return "fp32", ""
    kind, layers = counted.most_common(1)[0]
    others = ", ".join(f"{count} in {name}" for name, count in counted.items() if name != kind)
    note = f"{layers} of the {counted.total()} layers with weights compute in {kind}, {others}: it is taken for {kind}" if others else ""
    return cast(Precision, kind), note

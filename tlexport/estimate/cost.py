"""Exact cost of a graph: multiply-accumulates, bytes and kind of every layer, and the memory of its tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import onnx

from tlexport.estimate.counted import expect_counted, recurrence
from tlexport.estimate.memory import peak_bytes
from tlexport.estimate.operator_shapes import TensorInfo, factors
from tlexport.estimate.shapes import attributes, infer, of_node
from tlexport.onnx_model.tensors import BITS

Kind = Literal["conv", "pointwise", "depthwise", "grouped", "se", "gemm", "pool", "elementwise", "move", "unknown"]

CONVOLUTIONS = ("Conv", "FusedConv", "NhwcFusedConv", "QLinearConv", "ConvInteger")
FLOAT_PRODUCTS = ("MatMulNBits", "DynamicQuantizeMatMul", "MatMulIntegerToFloat")  # of integer weights
PRODUCTS = ("Gemm", "FusedGemm", "QGemm", "MatMul", "FusedMatMul", "QLinearMatMul", "MatMulInteger", *FLOAT_PRODUCTS)
RECURRENT = ("LSTM", "GRU", "RNN")
TRANSPOSED = ("ConvTranspose",)
POOLS = (
    *("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "NhwcMaxPool", "ReduceMean", "ReduceMax", "ReduceSum"),
    *("ReduceL2", "QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearReduceMean"),
)
# operators that reinterpret the same bytes; no kernel copies anything
FREE = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Constant", "Shape", "Dropout")
MOVES = (
    *("Transpose", "Concat", "QLinearConcat", "Slice", "Split", "Gather", "Pad", "Expand", "Tile", "ReorderInput", "ReorderOutput"),
    *("DepthToSpace", "SpaceToDepth", "GatherND", "Where"),
)
ELEMENTWISE = (
    *("Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Abs", "Neg", "Exp", "Erf", "Clip", "Relu", "LeakyRelu", "PRelu", "Sigmoid", "Tanh"),
    *("HardSigmoid", "HardSwish", "Softmax", "Gelu", "BiasGelu", "FastGelu", "QuickGelu", "LayerNormalization", "Softplus", "Mish"),
    *("SkipLayerNormalization", "BatchNormalization", "LRN", "Cast", "QuantizeLinear", "DequantizeLinear", "Min", "Max", "BiasSoftmax"),
    *("QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", "LpNormalization", "Swish"),
)
_TYPES = onnx.TensorProto
WEIGHT_TYPES = (_TYPES.FLOAT, _TYPES.FLOAT16, _TYPES.BFLOAT16, _TYPES.INT8, _TYPES.UINT8, _TYPES.INT32)


@dataclass(frozen=True)
class LayerCost:
    """One node of a fused graph. A matrix product has the geometry of a 1x1 convolution over its rows."""

    name: str
    op: str  # the operator, with its domain if that implies another channel layout
    kind: Kind
    bits: int  # width of the type that it computes in: 32, 16, 8
    macs: int
    weight_bytes: int
    input_bytes: int  # activations read
    output_bytes: int
    rows: int = 0  # output pixels, or rows of a product, over the whole batch
    width: int = 0  # output pixels of one image row; for a transposition, the last axis of its output
    inner: int = 0  # input channels of one group
    outer: int = 0  # output channels
    groups: int = 0
    kernel: int = 0  # kernel area, elements
    stride: int = 0
    activation: str = ""  # operators fused after it
    inner_axis: int = (
        0  # length of the last axis, along which a copying or normalising kernel runs; for a transposition, the elements that stay adjacent
    )
    since: int = 0  # MACs since its largest input was last accessed, including that layer's own: old data has left the cache


@dataclass(frozen=True)
class GraphCost:
    """Cost of a whole graph for one image, at the shapes of its inputs."""

    layers: tuple[LayerCost, ...]
    macs: int
    parameters: int  # trained values, without the statistics of normalisations
    weight_bytes: int
    peak_activation_bytes: int  # peak size of the live tensors, in the best order of execution
    unknown: tuple[str, ...]  # operators without a cost model


def cost_of(model: onnx.ModelProto) -> GraphCost:
    """Cost of a graph as given. For fused layers, pass the result of :func:`tlexport.estimate.graph.fused`.

    Raises:
        InvalidFile: the shapes contradict each other, or an attribute does not fit its operator.
        Unsupported: shapes depend on values, a tensor is of a type without a size, or the work of a node is not counted.
    """
    tensors = infer(model)
    layers = _layers(model, tensors)
    return GraphCost(
        layers,
        macs=sum(layer.macs for layer in layers),
        parameters=count_parameters(model),
        weight_bytes=sum(tensors[i.name].bytes for i in model.graph.initializer),
        peak_activation_bytes=peak_bytes(model, tensors),
        # no timed network contains transposed convolutions or recurrences: their MACs are known, their rate is unknown
        unknown=tuple(sorted({layer.op for layer in layers if layer.kind == "unknown" or layer.op in (*RECURRENT, *TRANSPOSED)})),
    )


def count_parameters(model: onnx.ModelProto) -> int:
    """Number of weight elements in a graph, of any weight type.

    Not counted: running statistics of BatchNormalization, scalars, and the scales and zero points of a quantized graph.
    """
    constants = {i.name: math.prod(i.dims) for i in model.graph.initializer if i.data_type in WEIGHT_TYPES}
    counted: set[str] = set()
    for node in model.graph.node:
        most = {"BatchNormalization": 3, "QuantizeLinear": 0, "DequantizeLinear": 1}.get(node.op_type, len(node.input))
        counted.update(name for name in node.input[:most] if constants.get(name, 0) > 1)
    return sum(constants[name] for name in counted)


def _layers(model: onnx.ModelProto, tensors: Mapping[str, TensorInfo]) -> tuple[LayerCost, ...]:
    """The layers in graph order, each with the MACs since its input was last accessed."""
    layers: list[LayerCost] = []
    done = 0
    touched: dict[str, int] = {}  # total MACs at the start of the last layer that read or wrote a tensor
    for node in model.graph.node:
        used = [name for name in node.input if name and not tensors[name].constant]
        if not _costs(node, tensors):
            touched.update({name: touched[used[0]] for name in node.output if used and used[0] in touched})
            continue
        with of_node(node):
            layer = _layer(node, tensors)
            expect_counted(node, layer.kind)
        largest = max(used, key=lambda name: tensors[name].bytes, default="")
        layers.append(replace(layer, since=done - touched.get(largest, 0)))
        touched.update(dict.fromkeys((*used, *node.output), done))
        done += layer.macs
    return tuple(layers)


def _costs(node: onnx.NodeProto, tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether a node computes anything when the graph runs."""
    return node.op_type not in FREE and not all(tensors[name].constant for name in node.output if name)


def kind_of(op: str) -> Kind:
    """Kind of an operator without weights; ``unknown`` if no list contains it."""
    if op in POOLS:
        return "pool"
    if op in MOVES:
        return "move"
    return "elementwise" if op in ELEMENTWISE else "unknown"


def _layer(node: onnx.NodeProto, tensors: Mapping[str, TensorInfo]) -> LayerCost:
    options = attributes(node)
    outputs = [tensors[name] for name in node.output if name]
    inputs = [tensors[name] for name in node.input if name]
    common: dict[str, Any] = {
        "name": node.name or node.output[0],
        "op": f"{node.domain}.{node.op_type}" if node.domain.endswith("nchwc") else node.op_type,
        "weight_bytes": sum(t.bytes for t in inputs if t.constant),
        "input_bytes": sum(t.bytes for t in inputs if not t.constant),
        "output_bytes": sum(t.bytes for t in outputs),
        "inner_axis": outputs[0].shape[-1] if outputs[0].shape else 1,
    }
    if node.op_type in CONVOLUTIONS:
        return LayerCost(**common, **_convolution(node, options, tensors))
    if node.op_type in PRODUCTS:
        return LayerCost(**common, **_product(node, options, tensors))
    if node.op_type in TRANSPOSED:
        return LayerCost(**common, **_transposed(node, options, tensors))
    if node.op_type in RECURRENT:
        x, w, r = (tensors[name] for name in node.input[:3])
        return LayerCost(**common, kind="gemm", bits=BITS[w.dtype], **recurrence(options, {"x": x.shape, "w": w.shape, "r": r.shape}))
    if node.op_type == "Einsum" and len(node.input) == 2 and "..." not in options["equation"] and "->" in options["equation"]:
        return LayerCost(**common, **_einsum(node, options, tensors))
    first = next((t for t in inputs if not t.constant), outputs[0])
    bits = BITS[first.dtype]
    area = math.prod(options.get("kernel_shape", ())) or 1
    if node.op_type == "Transpose":
        common |= {"inner_axis": _kept(first.shape, options.get("perm")), "width": outputs[0].shape[-1]}
    return LayerCost(**common, kind=kind_of(node.op_type), bits=bits, macs=0, kernel=area, rows=math.prod(outputs[0].shape))


def _kept(shape: tuple[int, ...], order: Sequence[int] | None) -> int:
    """Number of elements that stay adjacent in a transposition."""
    last = len(shape) - 1
    order = order or list(range(last, -1, -1))
    kept = 1
    while last >= 0 and order[last] == last:
        kept *= shape[last]
        last -= 1
    return kept


def _convolution(node: onnx.NodeProto, options: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> dict[str, Any]:
    weight = tensors[node.input[3 if node.op_type == "QLinearConv" else 1]]
    outer, inner, *kernel = weight.shape
    groups = options.get("group", 1)
    shape = tensors[node.output[0]].shape
    channels_last = bool(options.get("channels_last")) or node.op_type == "NhwcFusedConv"
    sizes = shape[1:-1] if channels_last else shape[2:]
    rows, area = shape[0] * math.prod(sizes), math.prod(kernel)
    kind: Kind = "conv"
    if groups > 1:
        kind = "depthwise" if inner == 1 and groups == outer else "grouped"
    elif area == 1:
        kind = "se" if math.prod(sizes) == 1 else "pointwise"
    return {
        "kind": kind,
        "bits": BITS[weight.dtype],
        "macs": rows * outer * inner * area,
        "rows": rows,
        "width": sizes[-1],
        "inner": inner,
        "outer": outer,
        "groups": groups,
        "kernel": area,
        "stride": max(options.get("strides") or [1]),
        "activation": str(options.get("activation", "")),
    }


def _transposed(node: onnx.NodeProto, options: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> dict[str, Any]:
    """A transposed convolution: each input pixel is multiplied by every element of the kernel."""
    first, weight = tensors[node.input[0]], tensors[node.input[1]]
    inner, outer, *kernel = weight.shape
    groups = options.get("group", 1)
    rows = first.elements // inner
    return {
        "kind": "conv" if groups == 1 else "depthwise" if outer == 1 and groups == inner else "grouped",
        "bits": BITS[weight.dtype],
        "macs": first.elements * outer * math.prod(kernel),
        "rows": rows,
        "width": first.shape[-1],
        "inner": inner // groups,
        "outer": outer * groups,
        "groups": groups,
        "kernel": math.prod(kernel),
        "stride": 1,
    }


def _product(node: onnx.NodeProto, options: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> dict[str, Any]:
    second = tensors[node.input[3 if node.op_type in ("QGemm", "QLinearMatMul") else 1]]
    first, output = tensors[node.input[0]], tensors[node.output[0]]
    inner = first.shape[-1] if node.op_type in FLOAT_PRODUCTS else factors(first.shape, second.shape, options)[0][-1]
    outer = output.shape[-1]
    # a product with a constant is one GEMM over all rows; a product of two activations is one GEMM for each head and window
    groups = 1 if second.constant else math.prod(output.shape[:-2])
    rows = output.elements // max(1, outer * groups)
    return {
        "kind": "gemm",
        "bits": options.get("bits", 4) if node.op_type == "MatMulNBits" else BITS[second.dtype],
        "macs": output.elements * inner,
        "rows": rows,
        "width": rows,
        "inner": inner,
        "outer": outer,
        "groups": groups,
        "kernel": 1,
        "stride": 1,
    }


def _einsum(node: onnx.NodeProto, options: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> dict[str, Any]:
    """An Einsum as a matrix product: it sums over the axes absent from the output, once for each index that all three tensors share."""
    first, second, out = options["equation"].replace(" ", "").replace("->", ",").split(",")
    size: dict[str, int] = {}
    for term, name in zip((first, second), node.input, strict=True):
        size |= zip(term, tensors[name].shape, strict=True)
    a, b, answer = set(first), set(second), set(out)

    def count(axes: set[str]) -> int:
        return math.prod(size[axis] for axis in axes)

    return {
        "kind": "gemm",
        "bits": BITS[tensors[node.input[1]].dtype],
        "macs": count(a | b),
        "rows": count((a - b) & answer),
        "width": count((a - b) & answer),
        "inner": count((a | b) - answer),
        "outer": count((b - a) & answer),
        "groups": count(a & b & answer),
        "kernel": 1,
        "stride": 1,
    }

"""Shapes and types of every tensor of a graph, including those of ONNX Runtime's own operators."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from tlexport.errors import InvalidFile, Unsupported
from tlexport.estimate.operator_shapes import RULES, TensorInfo, like_first
from tlexport.onnx_model.names import printable
from tlexport.onnx_model.structure import AGAIN, bodies_of, name_of
from tlexport.onnx_model.tensors import BITS, type_name

MAX_SHAPE_ELEMENTS = 1024  # elements; no shape tensor is longer
MOST_ELEMENTS = 2**40
BENCH_COMMAND = "tlx bench WHAT"  # in a hint; the caller replaces WHAT
NUMBERS_ONLY = "export the model with numeric tensors only"
SMALLER_SHAPES = "export the model with smaller shapes"
INTEGERS = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL)


@contextmanager
def of_node(node: onnx.NodeProto) -> Iterator[None]:
    """Attribute errors in a node's attributes or shapes to the node. A runtime may accept values that the operator does not allow."""
    try:
        yield
    except (KeyError, IndexError, ValueError, TypeError, AttributeError, ArithmeticError, AssertionError) as error:
        why = printable(str(error).splitlines()[0] if str(error) else type(error).__name__)
        raise InvalidFile(f"{name_of(node)} does not fit its inputs or its operator: {why}", AGAIN) from None


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Attributes of a node by name; strings are decoded."""
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def infer(model: onnx.ModelProto) -> dict[str, TensorInfo]:
    """Shapes and types of every tensor of a graph whose inputs have fixed shapes.

    Standard operators are inferred one by one (``onnx.shape_inference.infer_node_outputs``); ONNX Runtime's own follow
    ``operator_shapes``, after its docs/ContribOperators.md. The output of an unknown operator is taken to be like its first input.

    Raises:
        InvalidFile: a node contradicts its inputs.
        Unsupported: a result is not a tensor of a known size, or its shape depends on values.
    """
    found: dict[str, TensorInfo] = {}
    data = {i.name: i for i in model.graph.initializer}
    for initializer in model.graph.initializer:
        found[initializer.name] = TensorInfo(tuple(initializer.dims), initializer.data_type, constant=True)
    for sparse in model.graph.sparse_initializer:
        found[sparse.values.name] = TensorInfo(tuple(sparse.dims), sparse.values.data_type, constant=True)
    for value in model.graph.input:
        kind = value.type.tensor_type
        found.setdefault(value.name, TensorInfo(tuple(axis.dim_value for axis in kind.shape.dim), kind.elem_type))
    for name, tensor in found.items():
        _expect_countable(tensor, f"'{printable(name)}'")
    opsets = list(model.opset_import)
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            data[node.output[0]] = node.attribute[0].t
        if any(True for _ in bodies_of(node)):
            why = "the number of runs of its inner graph depends on the data"
            raise Unsupported(f"there is no estimate: the work of {name_of(node)} is not counted: {why}", f"measure it: {BENCH_COMMAND}")
        standard = node.domain in ("", "ai.onnx") and onnx.defs.has(node.op_type)
        with of_node(node):
            outputs = _standard(node, found, data, opsets, model.ir_version) if standard else _contributed(node, found)
            found.update({name: tensor for name, tensor in zip(node.output, outputs, strict=False) if name})
            for name in filter(None, node.output):
                _expect_countable(found[name], f"'{printable(name)}', an output of {name_of(node)},")
            if standard and node.op_type != "Constant" and found[node.output[0]].constant:
                data.update(_evaluated(node, found, data, opsets))
    return found


def _expect_countable(tensor: TensorInfo, called: str) -> None:
    """Raise Unsupported for elements without a fixed size, and for more of them than fit into memory."""
    if tensor.dtype not in BITS:
        raise Unsupported(f"there is no estimate: {called} is of type {type_name(tensor.dtype)}, whose size is not known", NUMBERS_ONLY)
    if tensor.elements > MOST_ELEMENTS or any(axis < 0 for axis in tensor.shape):
        raise Unsupported(f"there is no estimate: {called} has the shape {tensor.shape}, too large for any machine", SMALLER_SHAPES)


def _evaluated(
    node: onnx.NodeProto, found: Mapping[str, TensorInfo], data: Mapping[str, onnx.TensorProto], opsets: list[onnx.OperatorSetIdProto]
) -> dict[str, onnx.TensorProto]:
    """Constant outputs of a node that a later node may use as a shape: small integer tensors."""
    if node.op_type == "Shape":
        shape = np.array(found[node.input[0]].shape, np.int64)
        options = attributes(node)
        return {node.output[0]: numpy_helper.from_array(shape[options.get("start", 0) : options.get("end")])}
    used = [name for name in node.input if name]
    if any(name not in data or math.prod(data[name].dims) > MAX_SHAPE_ELEMENTS for name in used):
        return {}
    made = [name for name in node.output if name]
    if any(found[name].dtype not in INTEGERS or found[name].elements > MAX_SHAPE_ELEMENTS for name in made):
        return {}
    values = [helper.make_tensor_value_info(name, found[name].dtype, found[name].shape) for name in (*used, *made)]
    graph = helper.make_graph([node], "constant", values[: len(used)], values[len(used) :])
    try:
        answers = ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets)).run(
            None, {name: numpy_helper.to_array(data[name]) for name in used}
        )
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        # errors of ONNX's reference operators for invalid values: the constant stays unknown
        return {}
    return {name: numpy_helper.from_array(np.asarray(answer)) for name, answer in zip(made, answers, strict=True)}


def _standard(
    node: onnx.NodeProto,
    found: Mapping[str, TensorInfo],
    data: Mapping[str, onnx.TensorProto],
    opsets: list[onnx.OperatorSetIdProto],
    ir_version: int,
) -> list[TensorInfo]:
    version = next((o.version for o in opsets if o.domain in ("", "ai.onnx")), 1)
    schema = onnx.defs.get_schema(node.op_type, version)
    types = {name: helper.make_tensor_type_proto(found[name].dtype, found[name].shape) for name in node.input if name}
    # only constants that may be shapes: copying weights would waste time
    small = {name: data[name] for name in node.input if name in data and math.prod(data[name].dims) <= MAX_SHAPE_ELEMENTS}
    try:
        inferred = shape_inference.infer_node_outputs(schema, node, types, small, opset_imports=opsets, ir_version=ir_version)
    except (shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise InvalidFile(f"{name_of(node)} contradicts its inputs: {printable(' '.join(str(error).split()))}", AGAIN) from None
    constant = node.op_type in ("Constant", "Shape") or (bool(types) and all(found[name].constant for name in types))
    tensors = []
    for name in node.output:
        if name in inferred and inferred[name].WhichOneof("value") not in (None, "tensor_type"):
            raise Unsupported(f"there is no estimate: '{printable(name)}', an output of {name_of(node)}, is not a tensor", NUMBERS_ONLY)
        kind = inferred[name].tensor_type if name in inferred else None
        if kind is None or not kind.HasField("shape") or any(not axis.HasField("dim_value") for axis in kind.shape.dim):
            if name:
                why = f"the shape of '{printable(name)}', an output of {name_of(node)}, depends on values"
                raise Unsupported(f"there is no estimate: {why}", f"measure it: {BENCH_COMMAND}")
            tensors.append(TensorInfo((), onnx.TensorProto.FLOAT))
            continue
        tensors.append(TensorInfo(tuple(axis.dim_value for axis in kind.shape.dim), kind.elem_type, constant))
    return tensors


def _contributed(node: onnx.NodeProto, found: Mapping[str, TensorInfo]) -> list[TensorInfo]:
    given = [found.get(name) for name in node.input]
    options = attributes(node)
    rule = RULES.get(node.op_type, like_first)
    tensor = rule(given, options)
    return [tensor] * len(node.output)

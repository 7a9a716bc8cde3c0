"""Rewrites of an exported graph: each computes the same function. None changes its input; each returns a new graph."""

from __future__ import annotations

import math

import onnx
from onnx import helper, numpy_helper

from tlexport.errors import StepFailed

# ONNX's versioning table (docs/Versioning.md of onnx): the IR version released with each opset
IR_VERSIONS = {13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11, 24: 12, 25: 13}


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """A deep copy."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Initializers by name."""
    return {tensor.name: tensor for tensor in graph.initializer}


def clean(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without what only debugging needs: the exporter's records hold stack traces with paths of the machine that exported."""
    model = copy_of(model)
    graph = model.graph
    for holder in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del holder.metadata_props[:]
        holder.ClearField("doc_string")
    model.producer_name, model.producer_version = "tlexport", ""
    graph.name = "classifier"
    return pool_instead_of_mean(model)


def pool_instead_of_mean(model: onnx.ModelProto) -> onnx.ModelProto:
    """``ReduceMean`` over height and width -> ``GlobalAveragePool``, and the ``Reshape`` to (batch, features) -> ``Flatten``.

    Every runtime has an INT8 kernel for the pool and none for the mean; the pool exists in all opsets with one meaning,
    while the mean's axes moved from an attribute to an input in opset 18.
    """
    model = copy_of(model)
    known, sizes = constants(model.graph), _sizes(model)
    for node in model.graph.node:
        if node.op_type == "ReduceMean" and len(node.input) == 2 and node.input[1] in known:
            axes = numpy_helper.to_array(known[node.input[1]]).tolist()
            keep = next((a.i for a in node.attribute if a.name == "keepdims"), 1)
            if len(sizes.get(node.input[0], ())) == 4 and sorted(axis % 4 for axis in axes) == [2, 3] and keep:
                node.op_type = "GlobalAveragePool"
                del node.input[1:], node.attribute[:]
        elif node.op_type == "Reshape" and node.input[1] in known:
            shape = numpy_helper.to_array(known[node.input[1]]).tolist()
            features = math.prod(sizes.get(node.input[0], (0, 0))[1:])  # 0 where a length is not known
            if len(shape) == 2 and shape[0] == -1 and shape[1] == features > 0:
                node.op_type = "Flatten"
                del node.input[1:], node.attribute[:]
                node.attribute.append(helper.make_attribute("axis", 1))
    return without_unused(model)


def _sizes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Lengths of the axes of each tensor whose rank is known; 0 for an axis that is free."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    tensors = {value.name: value.type.tensor_type for value in (*graph.input, *graph.value_info)}
    return {name: tuple(axis.dim_value for axis in tensor.shape.dim) for name, tensor in tensors.items() if tensor.HasField("shape")}


def without_unused(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without initializers that no node reads."""
    model = copy_of(model)
    read = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def split_hard_swish(model: onnx.ModelProto) -> onnx.ModelProto:
    """``HardSwish`` (opset 14) -> ``HardSigmoid(1/6, 1/2)`` and ``Mul``, its definition in the ONNX standard."""
    model = copy_of(model)
    nodes = []
    for node in model.graph.node:
        if node.op_type != "HardSwish":
            nodes.append(node)
            continue
        gate = f"{node.output[0]}_gate"
        nodes.append(helper.make_node("HardSigmoid", [node.input[0]], [gate], name=gate, alpha=1 / 6, beta=0.5))
        nodes.append(helper.make_node("Mul", [node.input[0], gate], [node.output[0]], name=node.name))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def lower(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The same graph declared at ``opset``, checked against that opset's operator definitions.

    Raises:
        StepFailed: an operator or attribute does not exist at that opset.
    """
    if opset not in IR_VERSIONS:
        raise StepFailed(f"opset {opset} is not known; {min(IR_VERSIONS)} to {max(IR_VERSIONS)} are", "change [opset] in the profile")
    if opset < 14:
        model = split_hard_swish(model)
    model = copy_of(model)
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", opset))
    model.ir_version = IR_VERSIONS[opset]
    if opset < 18:
        # shape records of the exporter may name types that older checkers refuse; they are recomputed below
        del model.graph.value_info[:]
    try:
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise StepFailed(f"the graph cannot be expressed at opset {opset}: {str(error).strip().splitlines()[0]}") from error
    return model

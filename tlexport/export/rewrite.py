"""Rewrites of an exported graph: each computes the same function. None changes its input; each returns a new graph."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tlexport.errors import StepFailed
from tlexport.onnx_model.graph import constants, copy_of, without_unused

KERNEL_OPERATORS = ("Conv", "ConvTranspose")
# ONNX's versioning table (docs/Versioning.md of onnx): the IR version released with each opset
IR_VERSIONS = {13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11, 24: 12, 25: 13}


def clean(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove debugging records: the exporter stores stack traces with paths of this machine."""
    model = copy_of(model)
    graph = model.graph
    for holder in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del holder.metadata_props[:]
        holder.ClearField("doc_string")
    model.producer_name, model.producer_version = "tlexport", ""
    graph.name = "classifier"
    return pool_instead_of_mean(with_kernel_shapes(model))


def with_kernel_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Add ``kernel_shape`` to every convolution with a constant weight.

    ONNX allows inference from the weight, and onnxscript before 0.7.2 omits it (microsoft/onnxscript#2971). TensorRT's parser
    reads the kernel's size from the attribute alone where a DequantizeLinear gives the weight (onnx-tensorrt 8.5 to 10.1, convMultiInput).
    """
    model = copy_of(model)
    known = constants(model.graph)
    for node in model.graph.node:
        if node.op_type not in KERNEL_OPERATORS or node.input[1] not in known:
            continue
        if all(attribute.name != "kernel_shape" for attribute in node.attribute):
            node.attribute.append(helper.make_attribute("kernel_shape", list(known[node.input[1]].dims[2:])))
    return model


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
            features = math.prod(sizes.get(node.input[0], (0, 0))[1:])  # 0: a length is unknown
            if len(shape) == 2 and shape[0] == -1 and shape[1] == features > 0:
                node.op_type = "Flatten"
                del node.input[1:], node.attribute[:]
                node.attribute.append(helper.make_attribute("axis", 1))
    return without_unused(model)


def _sizes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Lengths of the axes of each tensor with known rank; 0 for a free axis."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    tensors = {value.name: value.type.tensor_type for value in (*graph.input, *graph.value_info)}
    return {name: tuple(axis.dim_value for axis in tensor.shape.dim) for name, tensor in tensors.items() if tensor.HasField("shape")}


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


def split_layer_norm(model: onnx.ModelProto) -> onnx.ModelProto:
    """``LayerNormalization`` (opset 17) over the last axis -> mean, deviation, variance: its definition in the ONNX standard.

    The means are written as before opset 18, with their axes in an attribute.
    """
    model = copy_of(model)
    nodes = []
    for node in model.graph.node:
        options = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type != "LayerNormalization" or options.get("axis", -1) != -1 or len(node.output) > 1:
            nodes.append(node)
            continue
        x, scale, *shift = node.input
        y = node.output[0]
        steps = [
            ("ReduceMean", [x], "mean"),
            ("Sub", [x, f"{y}_mean"], "deviation"),
            ("Mul", [f"{y}_deviation", f"{y}_deviation"], "square"),
            ("ReduceMean", [f"{y}_square"], "variance"),
            ("Add", [f"{y}_variance", f"{y}_epsilon"], "positive"),
            ("Sqrt", [f"{y}_positive"], "root"),
            ("Div", [f"{y}_deviation", f"{y}_root"], "normalised"),
            ("Mul", [f"{y}_normalised", scale], "scaled"),
            *([("Add", [f"{y}_scaled", *shift], "shifted")] if shift else []),
        ]
        for kind, inputs, result in steps:
            axes: dict[str, Any] = {"axes": [-1]} if kind == "ReduceMean" else {}
            nodes.append(helper.make_node(kind, inputs, [f"{y}_{result}"], name=f"{y}_{result}", **axes))
        nodes[-1].output[0] = y
        epsilon = np.array(options.get("epsilon", 1e-5), np.float32)
        model.graph.initializer.append(numpy_helper.from_array(epsilon, f"{y}_epsilon"))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def spell_out_splits(model: onnx.ModelProto) -> onnx.ModelProto:
    """``Split`` into a number of equal parts (opset 18) -> into parts of given lengths, if the length of the axis is known."""
    model = copy_of(model)
    sizes = _sizes(model)
    for node in model.graph.node:
        options = {attribute.name: attribute.i for attribute in node.attribute}
        parts, shape = options.get("num_outputs"), sizes.get(node.input[0]) if node.op_type == "Split" else None
        if parts is None or not shape or not (length := shape[options.get("axis", 0)]):
            continue
        longest = -(-length // parts)  # the standard: equal parts, except that the last may be shorter
        lengths = [longest] * (parts - 1) + [length - longest * (parts - 1)]
        model.graph.initializer.append(numpy_helper.from_array(np.array(lengths, np.int64), f"{node.output[0]}_lengths"))
        node.input.append(f"{node.output[0]}_lengths")
        node.attribute.remove(next(attribute for attribute in node.attribute if attribute.name == "num_outputs"))
    return model


def without_allowzero(model: onnx.ModelProto) -> onnx.ModelProto:
    """``Reshape`` without ``allowzero`` (opset 14, the meaning of a 0 in the shape), if the shape has no 0."""
    model = copy_of(model)
    known = constants(model.graph)
    for node in model.graph.node:
        if node.op_type == "Reshape" and node.input[1] in known and numpy_helper.to_array(known[node.input[1]]).all():
            del node.attribute[:]  # the only attribute
    return model


def lower(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The same graph declared at ``opset``, checked against that opset's operator definitions.

    Raises:
        StepFailed: an operator or attribute does not exist at that opset.
    """
    if opset not in IR_VERSIONS:
        raise StepFailed(f"opset {opset} is not known; {min(IR_VERSIONS)} to {max(IR_VERSIONS)} are", "change [opset] in the profile")
    if opset < 14:
        model = without_allowzero(split_hard_swish(model))
    if opset < 17:
        model = split_layer_norm(model)
    if opset < 18:
        model = spell_out_splits(model)
    model = copy_of(model)
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", opset))
    model.ir_version = IR_VERSIONS[opset]
    if opset < 18:
        # older checkers refuse some types in the exporter's shape records, which are recomputed below
        del model.graph.value_info[:]
    try:
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise StepFailed(f"the graph cannot be expressed at opset {opset}: {str(error).strip().splitlines()[0]}") from error
    return model

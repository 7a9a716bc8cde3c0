"""FP16: half precision written into the graph's types, as strongly typed runtimes (TensorRT 10 and later) want it."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tlexport.errors import StepFailed
from tlexport.ports import QuantizeRequest

PRECISION = "fp16"
NEEDS_SAMPLES = False
METHOD = "types in the graph; contract and softmax in FP32"

LARGEST = float(np.finfo(np.float16).max)


def quantize(request: QuantizeRequest) -> onnx.ModelProto:
    """FP32 graph -> the same with FP16 from the first weighted node up to the softmax; inputs and outputs keep their types.

    Raises:
        StepFailed: a weight is not finite or exceeds FP16's range, or an operator has no FP16 form.
    """
    model = onnx.ModelProto()
    model.CopyFrom(request.model)
    graph = model.graph
    del graph.value_info[:]
    first = next((i for i, node in enumerate(graph.node) if node.op_type in ("Conv", "Gemm", "MatMul")), None)
    last = next((i for i, node in enumerate(graph.node) if node.op_type == "Softmax"), None)
    if first is None or last is None or graph.node[last].output[0] != graph.output[0].name:
        raise StepFailed("the graph is not a classifier of ours: no weighted node, or no softmax at its output")
    before, inside, after = list(graph.node[:first]), list(graph.node[first:last]), list(graph.node[last:])
    _halve_constants(graph, inside, {name for node in (*before, *after) for name in node.input})
    border_in, border_out = inside[0].input[0], after[0].input[0]
    halved = f"{border_in}_fp16"
    for node in inside:
        node.input[:] = [halved if name == border_in else name for name in node.input]
    widened = f"{border_out}_fp32"
    after[0].input[0] = widened
    del graph.node[:]
    graph.node.extend(
        [
            *before,
            helper.make_node("Cast", [border_in], [halved], name="to_fp16", to=TensorProto.FLOAT16),
            *inside,
            helper.make_node("Cast", [border_out], [widened], name="to_fp32", to=TensorProto.FLOAT),
            *after,
        ]
    )
    try:
        return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        raise StepFailed(f"the graph cannot be expressed in FP16: {str(error).strip().splitlines()[0]}") from error


def _halve_constants(graph: onnx.GraphProto, nodes: list[onnx.NodeProto], kept: set[str]) -> None:
    """Convert the FP32 initializers that ``nodes`` read; one that an FP32 node reads too (``kept``) is doubled."""
    read = {name for node in nodes for name in node.input}
    doubled = {}
    for tensor in list(graph.initializer):
        if tensor.name not in read or tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if not np.isfinite(values).all() or np.abs(values).max(initial=0) > LARGEST:
            raise StepFailed(f"{tensor.name} holds values that FP16 cannot hold (largest is {LARGEST:.0f})", "export with --precision fp32")
        name = f"{tensor.name}_fp16" if tensor.name in kept else tensor.name
        half = numpy_helper.from_array(values.astype(np.float16), name)
        if name == tensor.name:
            tensor.CopyFrom(half)
        else:
            graph.initializer.append(half)
            doubled[tensor.name] = name
    for node in nodes:
        node.input[:] = [doubled.get(name, name) for name in node.input]

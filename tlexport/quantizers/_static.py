"""Shared by both INT8 quantizers: ONNX Runtime's quantizer writes the Q/DQ pairs for given ranges."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from tlexport.errors import StepFailed
from tlexport.ports import WEIGHTED, QuantizeRequest
from tlexport.quantizers._per_channel import per_channel


def border_nodes(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that stay in float: the contract's normalisation before the first weighted node, and the softmax.

    Raises:
        StepFailed: there is no weighted node.
    """
    nodes = list(model.graph.node)
    first = next((i for i, node in enumerate(nodes) if node.op_type in WEIGHTED), None)
    if first is None:
        raise StepFailed(f"the graph has nothing to quantize: no {', '.join(WEIGHTED)}")
    return [node.name for node in nodes[:first]] + [node.name for node in nodes if node.op_type == "Softmax"]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the advice of ONNX Runtime's quantizer to preprocess the graph, which earlier rewrites have done."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)


def quantize_int8(
    request: QuantizeRequest,
    activations: QuantType,
    operators: Collection[str],
    options: dict[str, Any],
    float_nodes: Collection[str] = (),
    half_scales: bool = False,
) -> onnx.ModelProto:
    """Static INT8 in QDQ form: weights per channel, activations per tensor.

    Args:
        request: the graph, and how to quantize it.
        activations: type of quantized activations.
        operators: the quantized operators.
        options: of ONNX Runtime's quantizer.
        float_nodes: names of other nodes that stay in float, besides those of the request and at the borders.
        half_scales: the scales of weights are stored in FP16.

    Raises:
        StepFailed: weights that are not finite, or ONNX Runtime refused the graph.
    """
    for tensor in request.model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise StepFailed(f"{tensor.name} holds values that are not finite", "train again with a lower --lr")
    excluded = {*border_nodes(request.model), *request.float_nodes, *float_nodes}
    model = onnx.shape_inference.infer_shapes(request.model)
    ranges = {name: tuple(np.float32(end) for end in ends) for name, ends in request.ranges.items()}
    with _quiet():
        try:
            found = TensorsData(CalibrationMethod.MinMax, ranges)
            quantizer = QDQQuantizer(model, False, False, QuantType.QInt8, activations, found, [], list(excluded), list(operators), options)
            quantizer.quantize_model()
            quantizer.model.topological_sort()
        except (ValueError, RuntimeError, NotImplementedError) as error:
            raise StepFailed(f"ONNX Runtime cannot quantize the graph: {error}") from error
    result: onnx.ModelProto = quantizer.model.model
    del result.metadata_props[:]
    per_channel(result, model, half_scales)
    return result

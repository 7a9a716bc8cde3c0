"""What both INT8 quantizers share: ONNX Runtime's static quantization over real training images."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from tlexport.errors import StepFailed, UsageError
from tlexport.ports import Array, QuantizeRequest

WEIGHTED = ("Conv", "Gemm", "MatMul")


class Images(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime ships no types
    """Feeds the calibration images one by one, in the type of the graph's input."""

    def __init__(self, request: QuantizeRequest) -> None:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(request.model.graph.input[0].type.tensor_type.elem_type)
        name = request.model.graph.input[0].name
        self._feeds: Iterator[dict[str, Array]] = ({name: image[None].astype(dtype)} for image in request.samples)

    def get_next(self) -> dict[str, Array] | None:
        """The next image, or None at the end."""
        return next(self._feeds, None)


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
    """ONNX Runtime's quantizer logs advice to preprocess the graph, which the rewrites before have done."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)


def quantize_int8(
    request: QuantizeRequest, activations: QuantType, operators: list[str] | None, options: dict[str, Any]
) -> onnx.ModelProto:
    """Static INT8 in QDQ form: weights per channel, ranges from the minimum and maximum over ``request.samples``.

    Raises:
        UsageError: no calibration images.
        StepFailed: weights that are not finite, or ONNX Runtime refused the graph.
    """
    if len(request.samples) == 0:
        raise UsageError("INT8 needs calibration images, and there are none", "give training data with --data, or use --precision fp16")
    for tensor in request.model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise StepFailed(f"{tensor.name} holds values that are not finite", "train again with a lower --lr")
    with tempfile.TemporaryDirectory(prefix="tlx-") as folder, _quiet():
        output = Path(folder) / "int8.onnx"
        copy = onnx.ModelProto()
        copy.CopyFrom(request.model)  # ONNX Runtime moves the weights of the model that it is given out of it
        try:
            quantize_static(
                copy,
                output,
                Images(request),
                quant_format=QuantFormat.QDQ,
                activation_type=activations,
                weight_type=QuantType.QInt8,
                per_channel=True,
                calibrate_method=CalibrationMethod.MinMax,
                calibration_providers=["CPUExecutionProvider"],
                op_types_to_quantize=operators,
                nodes_to_exclude=border_nodes(request.model),
                extra_options=options,
            )
        except (ValueError, RuntimeError, NotImplementedError) as error:
            raise StepFailed(f"ONNX Runtime cannot quantize the graph: {error}") from error
        model = onnx.load(output)
    del model.metadata_props[:]
    return model

"""FP16: half precision in the graph's types, as strongly typed runtimes (TensorRT 10 and later) require."""

from __future__ import annotations

import onnx

from tlexport.ports import QuantizeRequest
from tlexport.quantizers._half import half, near_overflow, near_zero

PRECISION = "fp16"
METHOD = "types in the graph; contract, softmax, and what FP16 would overflow or round to few bits on the calibration images in FP32"


def quantize(request: QuantizeRequest) -> onnx.ModelProto:
    """FP32 graph -> the same with FP16 from the first weighted node up to the softmax; inputs and outputs keep their types.

    Raises:
        StepFailed: a weight is not finite or exceeds FP16's range, or an operator has no FP16 form.
    """
    return half(request.model, near_overflow(request.model, request.ranges) | near_zero(request.model, request.ranges))

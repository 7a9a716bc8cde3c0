"""INT8 for ONNX Runtime on a CPU: QDQ, per-channel weights; uint8 activations on x86, int8 on ARM."""

from __future__ import annotations

import onnx
from onnxruntime.quantization import QuantType

from tlexport.ports import QuantizeRequest
from tlexport.quantizers._static import quantize_int8

PRECISION = "int8"
NEEDS_SAMPLES = True
METHOD = "static, min-max, QDQ, per-channel weights"


def quantize(request: QuantizeRequest) -> onnx.ModelProto:
    """FP32 graph -> INT8 in the form that ONNX Runtime's CPU kernels fuse (its own guidance: U8S8 on x86, S8S8 on ARM)."""
    unsigned = request.activations == "uint8"
    return quantize_int8(
        request, QuantType.QUInt8 if unsigned else QuantType.QInt8, None, {} if unsigned else {"ActivationSymmetric": True}
    )

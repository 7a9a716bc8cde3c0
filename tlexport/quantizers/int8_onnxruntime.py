"""INT8 for ONNX Runtime on a CPU: QDQ, per-channel weights; uint8 activations on x86, int8 on ARM; in the form that suits its kernels."""

from __future__ import annotations

from dataclasses import replace

import onnx
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from tlexport.ports import QuantizeRequest
from tlexport.quantizers._cpu_form import normalise_in_one, pad_depthwise, swish_in_one
from tlexport.quantizers._gates import gates_in_rows, integer_gates
from tlexport.quantizers._per_channel import weight_only
from tlexport.quantizers._pixels import on_pixels, without_quantization
from tlexport.quantizers._static import quantize_int8

__all__ = ["METHOD", "PRECISION", "VARIANTS", "quantize", "weight_only"]

PRECISION = "int8"
OPERATORS = {*QLinearOpsRegistry, *QDQRegistry}  # all operators with integer kernels
METHOD = "static, QDQ, per-channel weights; pixels as they are, in blocks; depthwise padded, hard sigmoid in integers"
# as QuickGelu in float, or as QLinearSigmoid and QLinearMul. EfficientNet-B0 takes 0.8 of its time with the one on one processor with
# AVX512-VNNI, and 0.9 with the other on another
VARIANTS = ("swish in one node", "swish as a table")
QUICK_GELU = 17  # opset: lower ones are for versions as old as 1.10, which has no QuickGelu


def quantize(request: QuantizeRequest) -> onnx.ModelProto:
    """FP32 graph -> INT8 in the form that ONNX Runtime's CPU kernels fuse (its documentation: U8S8 on x86, S8S8 on ARM)."""
    unsigned = request.activations == "uint8"
    stem = on_pixels(request)
    has_quick_gelu = request.model.opset_import[0].version >= QUICK_GELU
    in_float = request.float_nodes if request.variant == VARIANTS[1] else None
    padded = pad_depthwise(stem.model)
    formed = replace(stem, model=normalise_in_one(swish_in_one(padded, in_float) if has_quick_gelu else padded))
    activations, options = (QuantType.QUInt8, {}) if unsigned else (QuantType.QInt8, {"ActivationSymmetric": True})
    quantized = integer_gates(quantize_int8(formed, activations, OPERATORS, options))
    return without_quantization(gates_in_rows(quantized, formed.model))

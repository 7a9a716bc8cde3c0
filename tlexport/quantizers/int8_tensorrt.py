"""INT8 for TensorRT: explicit QDQ as its parser and fusions want it. Never run this graph on a CPU for speed."""

from __future__ import annotations

import onnx
from onnxruntime.quantization import QuantType

from tlexport.ports import QuantizeRequest
from tlexport.quantizers._static import quantize_int8

PRECISION = "int8"
NEEDS_SAMPLES = True
METHOD = "static, min-max, explicit QDQ for TensorRT: symmetric int8, per-channel weights, float bias"

# TensorRT's parser refuses zero points other than 0 and quantized biases; its fusions want Q/DQ on the inputs of weighted
# layers, nothing between a convolution and its activation, and no quantized outputs (developer guide, explicit quantization)
OPTIONS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "AddQDQPairToWeight": False,  # int8 weights and a DequantizeLinear: a quarter of the file, and as valid as Q/DQ on float weights
    "OpTypesToExcludeOutputQuantization": ["Conv"],
    "QDQKeepRemovableActivations": True,
    "DedicatedQDQPair": False,
}


def quantize(request: QuantizeRequest) -> onnx.ModelProto:
    """FP32 graph -> convolutions in INT8; the classifier's Gemm stays in float (it is a matrix-vector product at batch 1)."""
    return quantize_int8(request, QuantType.QInt8, ["Conv"], OPTIONS)

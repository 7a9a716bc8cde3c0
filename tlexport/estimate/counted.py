"""Checks that the work of every node can be counted; otherwise there is no estimate.

A node can be counted if its multiply-accumulates are known, or if its work depends only on the bytes that it reads and writes. The
time of loop bodies, trees and unknown products is unbounded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import onnx

from tlexport.errors import Unsupported
from tlexport.estimate.operator_shapes import Attributes
from tlexport.estimate.shapes import BENCH_COMMAND, attributes
from tlexport.onnx_model.structure import name_of

# operators without a cost model whose work is proportional to their bytes; each counts as a copy, and the interval gets wider
_LINEAR = """
Acos Acosh AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh Bernoulli BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr
BitwiseXor BlackmanWindow CastLike Ceil Celu CenterCropPad Col2Im Compress ConstantOfShape Cos Cosh CumProd CumSum
DynamicQuantizeLinear Elu Equal EyeLike Floor GatherElements GlobalLpPool Greater GreaterOrEqual GridSample GroupNormalization
HammingWindow HannWindow Hardmax InstanceNormalization IsInf IsNaN Less LessOrEqual Log LogSoftmax LpPool MaxUnpool Mean
MeanVarianceNormalization Mod Multinomial NegativeLogLikelihoodLoss NonZero Not OneHot Or RMSNormalization RandomNormal
RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceLogSum ReduceLogSumExp ReduceMin ReduceProd
ReduceSumSquare Resize ReverseSequence RotaryEmbedding Round Scatter ScatterElements ScatterND Selu Shrink Sign Sin Sinh Size
SoftmaxCrossEntropyLoss Softsign Sum SwiGLU Tan TensorScatter ThresholdedRelu TopK Trilu Unique Upsample Xor
"""
# the same, of ONNX Runtime's own domain
_LINEAR_CONTRIBUTED = """
BiasAdd BiasSplitGelu BitmaskDropout EmbedLayerNormalization MaxpoolWithMask MemcpyFromHost MemcpyToHost NhwcFusedConv QGelu
QLinearWhere QuickGelu SimplifiedLayerNormalization SkipGroupNorm SkipSimplifiedLayerNormalization Upsample
"""
LINEAR = {
    **dict.fromkeys(("", "ai.onnx"), frozenset(_LINEAR.split())),
    "com.microsoft": frozenset((*_LINEAR.split(), *_LINEAR_CONTRIBUTED.split())),
    "ai.onnx.ml": frozenset(("ArrayFeatureExtractor", "Binarizer", "Imputer", "LabelEncoder", "Normalizer", "OneHotEncoder", "Scaler")),
}
# limits on the elements of a pooling window, in all and per element of stride: beyond them, work is not proportional to bytes
LARGE_WINDOW = 400


def expect_counted(node: onnx.NodeProto, kind: str) -> None:
    """Raise Unsupported, naming the node, if the work of a node is unknown."""
    options = attributes(node)
    if kind == "pool" and _overlap(options) > LARGE_WINDOW:
        raise _not_counted(node, f"its window covers {math.prod(options['kernel_shape'])} elements")
    if kind == "unknown" and node.op_type not in LINEAR.get(node.domain, ()):
        raise _not_counted(node, "its operator is unknown to tlexport")


def _overlap(options: Attributes) -> float:
    return math.prod(options.get("kernel_shape") or (1,)) / math.prod(options.get("strides") or (1,))


def _not_counted(node: onnx.NodeProto, why: str) -> Unsupported:
    return Unsupported(f"there is no estimate: the work of {name_of(node)} is not counted: {why}", f"measure it: {BENCH_COMMAND}")


def recurrence(options: Attributes, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Work of LSTM, GRU or RNN: two matrix products for each step and direction.

    Args:
        options: its attributes.
        shapes: of ``x`` (step, batch, input), or (batch, step, input) with ``layout`` 1; ``w`` (direction, gates * hidden, input);
            ``r`` (direction, gates * hidden, hidden).

    Returns:
        Fields of a layer: one matrix product for each step and direction.
    """
    steps, batch = shapes["x"][:2] if not options.get("layout") else shapes["x"][1::-1]
    directions, outer, inner = shapes["w"]
    both = inner + shapes["r"][-1]
    return {
        "macs": steps * batch * directions * outer * both,
        "rows": batch,
        "width": batch,
        "inner": both,
        "outer": outer,
        "groups": steps * directions,
        "kernel": 1,
        "stride": 1,
    }

"""What every exported model must pass, whoever made it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from tlexport.accuracy import Probabilities
from tlexport.contract import TensorSpec
from tlexport.errors import Unsupported, VerificationFailed
from tlexport.ports import WEIGHTED

ONNX_DOMAINS = ("", "ai.onnx")  # two names for ONNX's own domain
SUM_TOLERANCE = 0.01  # of the probabilities of an image: FP16 has three digits, and classes may be many
FP32_AGREEMENT = 1e-4  # largest difference in probability between torch and the FP32 graph


def check_graph(model: onnx.ModelProto, precision: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """The graph is valid, self-contained, has the declared tensors, and is of the declared precision.

    FP32, of which the others are made, has ONNX's own operators alone; a quantizer may add those of its runtime.

    Raises:
        Unsupported: an operator that only some vendor's runtime may know.
        VerificationFailed: names what else is not so.
    """
    foreign = {f"{node.domain}.{node.op_type}": node.name for node in model.graph.node if node.domain not in ONNX_DOMAINS}
    if foreign and precision == "fp32":
        found = ", ".join(f"{operator} (at {name})" for operator, name in foreign.items())
        raise Unsupported(
            f"the {precision} graph has operators that no runtime has to know: {found}; expected are those of ONNX",
            "train a backbone without them: tlx backbones",
        )
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise VerificationFailed(f"the {precision} graph is not valid ONNX: {str(error).strip().splitlines()[0]}") from error
    for declared, found in ((inputs, model.graph.input), (outputs, model.graph.output)):
        actual = tuple(_spec(value) for value in found)
        if actual != tuple(declared):
            raise VerificationFailed(f"the {precision} graph has the tensors {actual}, declared are {tuple(declared)}")
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise VerificationFailed(f"the {precision} graph keeps weights outside its file")
    if precision_of(model) != precision:
        raise VerificationFailed(f"the graph is declared {precision}, but its weighted nodes are {precision_of(model)}")


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(axis.dim_param or axis.dim_value for axis in tensor.shape.dim)
    return TensorSpec.model_validate({"name": value.name, "dtype": helper.tensor_dtype_to_np_dtype(tensor.elem_type).name, "shape": shape})


def precision_of(model: onnx.ModelProto) -> str:
    """``int8`` if the graph dequantizes anything, else ``fp16`` if any weight is, else ``fp32``: single nodes may need FP32's range."""
    if any(node.op_type == "DequantizeLinear" for node in model.graph.node):
        return "int8"
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    weights = {types.get(node.input[1]) for node in model.graph.node if node.op_type in WEIGHTED}
    return "fp16" if TensorProto.FLOAT16 in weights else "fp32"


def check_fp32_agreement(reference: Probabilities, outputs: Probabilities) -> None:
    """The FP32 graph computes what the checkpoint computes, on every image.

    Args:
        reference: of the checkpoint in torch, float32 (image, class).
        outputs: of the graph, likewise.

    Raises:
        VerificationFailed: with the number of images that disagree and the worst difference.
    """
    difference = np.abs(reference - outputs).max(axis=1)
    flipped = reference.argmax(axis=1) != outputs.argmax(axis=1)
    bad = (difference > FP32_AGREEMENT) | flipped | ~np.isfinite(outputs).all(axis=1)
    if bad.any():
        raise VerificationFailed(
            f"the FP32 graph disagrees with the checkpoint on {int(bad.sum())} of {len(bad)} validation images: worst difference in "
            f"probability {difference.max():.2g} (allowed {FP32_AGREEMENT:g}), {int(flipped.sum())} other classes",
            "nothing was written; please report this with the checkpoint's recipe",
        )


def check_probabilities(precision: str, outputs: Probabilities) -> None:
    """What a graph gives are probabilities.

    Args:
        precision: of the graph.
        outputs: float32 (image, class).

    Raises:
        VerificationFailed: some are not finite, as where FP16 overflows, or those of an image do not sum to 1.
    """
    bad = ~np.isfinite(outputs).all(axis=1) | ~(np.abs(outputs.sum(axis=1, dtype=np.float64) - 1) <= SUM_TOLERANCE)
    if bad.any():
        raise VerificationFailed(
            f"the {precision} graph gives no probabilities for {int(bad.sum())} of {len(bad)} validation images: "
            f"{int((~np.isfinite(outputs).all(axis=1)).sum())} rows are not finite, the others do not sum to 1"
        )

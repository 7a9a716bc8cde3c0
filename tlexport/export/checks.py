"""Checks that every exported model must pass, whichever quantizer made it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from tlexport.accuracy import Probabilities
from tlexport.contract import TensorSpec
from tlexport.errors import Unsupported, VerificationFailed
from tlexport.onnx_model.precision import precision_of

ONNX_DOMAINS = ("", "ai.onnx")  # both names of ONNX's own domain
SUM_TOLERANCE = 0.01  # of the sum of an image's probabilities: FP16 has three digits, and there may be many classes
FP32_AGREEMENT = 1e-4  # largest allowed difference in probability between torch and the FP32 graph


def check_graph(model: onnx.ModelProto, precision: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Check that the graph is valid and self-contained, and has the declared tensors and precision.

    The FP32 graph, from which the others are made, may only contain operators of ONNX. A quantizer may add operators of its runtime.

    Raises:
        Unsupported: an operator of one vendor's runtime in the FP32 graph.
        VerificationFailed: another check failed; the message names it.
    """
    foreign = {f"{node.domain}.{node.op_type}": node.name for node in model.graph.node if node.domain not in ONNX_DOMAINS}
    if foreign and precision == "fp32":
        shown = ", ".join(f"{operator} (at {name})" for operator, name in foreign.items())
        raise Unsupported(
            f"the {precision} graph has operators that not every runtime supports: {shown}; expected are operators of ONNX",
            "train a backbone without them: tlx backbones",
        )
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise VerificationFailed(f"the {precision} graph is not valid ONNX: {str(error).strip().splitlines()[0]}") from error
    for declared, values in ((inputs, model.graph.input), (outputs, model.graph.output)):
        actual = tuple(_spec(value) for value in values)
        if actual != tuple(declared):
            raise VerificationFailed(f"the {precision} graph has the tensors {actual}; {tuple(declared)} were declared")
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise VerificationFailed(f"the {precision} graph stores weights outside its file")
    if (found := precision_of(model, f"the {precision} graph").stored) != precision:
        raise VerificationFailed(f"the graph is declared {precision}, but its weights are {found}")


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(axis.dim_param or axis.dim_value for axis in tensor.shape.dim)
    return TensorSpec.model_validate({"name": value.name, "dtype": helper.tensor_dtype_to_np_dtype(tensor.elem_type).name, "shape": shape})


def check_fp32_agreement(reference: Probabilities, outputs: Probabilities) -> None:
    """Check that the FP32 graph agrees with the checkpoint on every image.

    Args:
        reference: of the checkpoint in torch, float32 (image, class).
        outputs: of the graph, float32 (image, class).

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
    """Check that the outputs of a graph are probabilities.

    Args:
        precision: of the graph.
        outputs: float32 (image, class).

    Raises:
        VerificationFailed: some are not finite, for example after an FP16 overflow, or those of an image do not sum to 1.
    """
    bad = ~np.isfinite(outputs).all(axis=1) | ~(np.abs(outputs.sum(axis=1, dtype=np.float64) - 1) <= SUM_TOLERANCE)
    if bad.any():
        raise VerificationFailed(
            f"the {precision} graph gives no probabilities for {int(bad.sum())} of {len(bad)} validation images: "
            f"{int((~np.isfinite(outputs).all(axis=1)).sum())} rows are not finite, the others do not sum to 1"
        )

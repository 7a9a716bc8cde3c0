"""torch -> ONNX, FP32, with the image contract at the borders and the opset of the target."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from typing import Literal

import onnx
import torch

from tlexport.contract import Preprocess
from tlexport.errors import StepFailed
from tlexport.export.rewrite import clean, lower
from tlexport.network import Classifier, Network

EXPORTER_OPSET = 18  # the lowest opset of torch's exporter, which silently writes 18 for lower ones


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's progress on stdout and its advice in the log."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(before)


def _reason(error: BaseException) -> str:
    """The first line of the root cause. The exporter's own text only helps to debug torch."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def to_onnx(network: Network, preprocess: Preprocess, input_dtype: Literal["uint8", "float32"], opset: int) -> onnx.ModelProto:
    """Export in evaluation mode.

    Args:
        network: the trained network, on the CPU.
        preprocess: fixes the input's size and the normalisation inside the graph.
        input_dtype: dtype of the image tensor; its values are always 0..255.
        opset: 13 or higher.

    Returns:
        A graph ``image`` (batch, size, size, 3) -> ``probabilities`` float32 (batch, class) with a free batch axis,
        weights inside, without local paths or class names of the source.

    Raises:
        StepFailed: the exporter could not do it, or the graph cannot be expressed at this opset.
    """
    classifier = Classifier(network, preprocess).eval()
    example = torch.zeros((2, preprocess.size, preprocess.size, 3), dtype=getattr(torch, input_dtype))
    batch = torch.export.Dim("batch", min=1, max=2**16 - 1)
    try:
        with _quiet():
            program = torch.onnx.export(
                classifier,
                (example,),
                dynamo=True,
                opset_version=max(opset, EXPORTER_OPSET),
                input_names=["image"],
                output_names=["probabilities"],
                dynamic_shapes=({0: batch},),
                external_data=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise StepFailed(f"torch cannot export {network.backbone} to ONNX: {_reason(error)}") from error
    if program is None:
        raise StepFailed(f"torch's exporter returned nothing for {network.backbone}")
    return lower(clean(program.model_proto), opset)

"""ONNX Runtime with its TensorRT provider, ``--runtime onnxruntime --provider tensorrt``: the whole graph in TensorRT, or not at all.

The provider takes what it can and leaves the rest to others; here a node that it does not take is an error. It builds its engine while
the model is opened. (onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html.)
"""

from __future__ import annotations

import re
from pathlib import Path

import onnx

from tlexport.errors import Unsupported
from tlexport.onnx_model.file import read_onnx
from tlexport.ports import RunOptions
from tlexport.runtimes.onnxruntime import OnnxRunner, open_with

FORMATS = ("onnx",)
PROVIDER = "TensorrtExecutionProvider"


def auto_device() -> str:
    """The first GPU: TensorRT runs on nothing else."""
    return "cuda:0"


def open_model(path: Path, options: RunOptions) -> OnnxRunner:
    """Open an ONNX file whose weights are inside it.

    FP16 and INT8 are allowed to TensorRT where the graph itself has them, and not elsewhere.

    Raises:
        InvalidFile: missing, not ONNX, broken, or with external data.
        Unsupported: no GPU was asked for; TensorRT's libraries are not here; or it does not take every node.
    """
    found = re.fullmatch(r"cuda:([0-9]+)", options.device)
    if found is None:
        raise Unsupported(f"{PROVIDER} runs on NVIDIA GPUs, and {options.device} was asked for", "leave out --device, or --device cuda")
    if options.simulate_quantization:
        raise Unsupported(f"{path} was to be computed with its Q/DQ pairs as written, and {PROVIDER} fuses them", "leave out --provider")
    return open_with(path, options, PROVIDER, {"device_id": found[1], **_allowed(path)})


def _allowed(path: Path) -> dict[str, str]:
    """The provider's settings for the precisions that are in a graph."""
    graph = read_onnx(path).graph
    operators = {node.op_type for node in graph.node}
    types = {tensor.data_type for tensor in graph.initializer}
    return {
        "trt_fp16_enable": str(int(onnx.TensorProto.FLOAT16 in types)),
        "trt_int8_enable": str(int("QuantizeLinear" in operators)),
    }

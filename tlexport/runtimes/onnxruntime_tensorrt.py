"""ONNX Runtime with its TensorRT provider, ``--runtime onnxruntime --provider tensorrt``: the whole graph runs in TensorRT.

The provider would leave unsupported nodes to other providers; here they are an error. The engine is built while the model is
opened. (onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html.)
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
    """The first GPU; TensorRT requires one."""
    return "cuda:0"


def open_model(path: Path, options: RunOptions) -> OnnxRunner:
    """Open an ONNX file whose weights are inside it.

    TensorRT may use FP16 and INT8 only if the graph contains them.

    Raises:
        InvalidFile: missing, not ONNX, broken, or with external data.
        Unsupported: the device is not a GPU, TensorRT's libraries are missing, or TensorRT cannot run every node.
    """
    found = re.fullmatch(r"cuda:([0-9]+)", options.device)
    if found is None:
        raise Unsupported(
            f"{PROVIDER} runs on NVIDIA GPUs, but the requested device is {options.device}", "leave out --device, or --device cuda"
        )
    if options.simulate_quantization:
        raise Unsupported(f"simulated quantization was requested for {path}, but {PROVIDER} fuses Q/DQ pairs", "leave out --provider")
    return open_with(path, options, PROVIDER, {"device_id": found[1], **_allowed(path)})


def _allowed(path: Path) -> dict[str, str]:
    """Provider settings for the precisions in a graph."""
    graph = read_onnx(path).graph
    operators = {node.op_type for node in graph.node}
    types = {tensor.data_type for tensor in graph.initializer}
    return {
        "trt_fp16_enable": str(int(onnx.TensorProto.FLOAT16 in types)),
        "trt_int8_enable": str(int("QuantizeLinear" in operators)),
    }

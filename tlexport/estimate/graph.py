"""Converts an ONNX file to the graph that ONNX Runtime would run, with fused layers and fixed shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import onnx.checker
import onnx.inliner

from tlexport import plugins
from tlexport.device.runtimes.native_log import plain
from tlexport.errors import InvalidFile, Unsupported, UsageError
from tlexport.onnx_model.external import ExternalModel, batch_of, read_external, settle_inputs
from tlexport.onnx_model.names import printable
from tlexport.onnx_model.runtime_errors import refusal
from tlexport.onnx_model.structure import reads_of, sorted_nodes
from tlexport.onnx_model.tensors import take_in
from tlexport.storage.files import temporary_folder

MAX_BYTES = 1_500_000_000  # bytes of weights; a larger graph does not fit into one protobuf message


def read(path: Path, shapes: Mapping[str, Sequence[int]] | None = None) -> onnx.ModelProto:
    """Read an ONNX file and fix the shapes of its inputs; see :func:`read_with`."""
    return read_with(path, shapes or {}, str(path))[1]


def read_with(path: Path, shapes: Mapping[str, Sequence[int]], what: str) -> tuple[ExternalModel, onnx.ModelProto, int]:
    """Read an external ONNX file and fix the shapes of its inputs.

    Args:
        path: the file; its weights may be in other files beside it.
        shapes: shape of each input that has free axes besides the first; a free first axis is set to one image.
        what: the user's name of the model.

    Returns:
        The model as read; the graph with fixed shapes, local functions inlined and all weights inside; and the length of the first axis.

    Raises:
        InvalidFile: not a valid ONNX file.
        UsageError: an axis is free and no shape is given; a shape does not fit; the weights are too large.
        Unsupported: an input is not a tensor.
    """
    found = read_external(path, what)
    model = found.model
    if found.size_bytes > MAX_BYTES:
        raise UsageError(f"{what} holds {found.size_bytes} bytes; up to {MAX_BYTES} can be estimated", f"measure it: tlx bench {what}")
    settled = _fix(found, shapes)
    take_in(model, path)
    if model.functions:
        try:
            model = onnx.inliner.inline_local_functions(model)
        except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
            raise InvalidFile(f"the functions of {what} cannot be inlined: {printable(str(error))}", "export the model again") from None
    _sort(model, what)
    return found, model, batch_of(settled) or 1


def with_shapes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]], where: str) -> onnx.ModelProto:
    """Fix the shapes of a graph's inputs, in place; see :func:`read_with`."""
    _fix(ExternalModel(Path(where), model, (), where), shapes)
    return model


def _fix(found: ExternalModel, shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """Write the fixed input shapes into the graph, and remove the shapes of its activations."""
    settled, _ = settle_inputs(found, shapes, 1)
    for value in found.inputs():
        axes = value.type.tensor_type.shape
        del axes.dim[:]
        for size in settled[value.name]:
            axes.dim.add().dim_value = size
        axes.SetInParent()  # a scalar has a shape without axes
    del found.model.graph.value_info[:]
    return settled


def _sort(model: onnx.ModelProto, what: str) -> None:
    """Sort the nodes topologically; a sorted graph is unchanged."""
    nodes = list(model.graph.node)
    order = sorted_nodes(nodes, [reads_of(node) for node in nodes], what)
    if order != list(range(len(nodes))):
        copies = [onnx.NodeProto.FromString(nodes[index].SerializeToString()) for index in order]
        del model.graph.node[:]
        model.graph.node.extend(copies)


def fused(model: onnx.ModelProto, *, layout: bool, what: str = "the graph") -> onnx.ModelProto:
    """The graph after ONNX Runtime's own optimizations.

    Args:
        model: a graph with fixed shapes; it is not changed.
        layout: also apply the layouts for this processor (blocked or channels-last convolutions), as in a real run here. Without
            them, the fused layers are the same on every machine.
        what: the user's name of the model.

    Raises:
        InvalidFile: ONNX Runtime refuses the graph.
        UsageError: the graph is too large for ONNX Runtime's interface.
    """
    plugins.runtime("onnxruntime")  # imports the library quietly
    import onnxruntime as ort
    from onnxruntime.capi import onnxruntime_pybind11_state as native

    if model.ByteSize() > MAX_BYTES:
        raise UsageError(f"the graph holds {model.ByteSize()} bytes; up to {MAX_BYTES} can be estimated")
    refused = (native.Fail, native.InvalidArgument, native.InvalidGraph, native.InvalidProtobuf, native.RuntimeException)
    with temporary_folder("tlx-estimate-") as folder:
        out = folder / "fused.onnx"
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        options.optimized_model_filepath = str(out)
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if layout else level.ORT_ENABLE_EXTENDED
        try:
            ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0)
        except native.NotImplemented as error:
            raise Unsupported(*_refusal(what, error, ort.__version__)) from None
        except (*refused, ValueError, RuntimeError) as error:
            raise InvalidFile(*_refusal(what, error, ort.__version__)) from None
        return onnx.load(out)


def _refusal(what: str, error: Exception, version: str) -> tuple[str, str]:
    why, hint = refusal(plain(str(error)), version)
    return f"{what} cannot be estimated: {why}", hint

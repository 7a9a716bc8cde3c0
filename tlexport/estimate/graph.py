"""From an ONNX file to the graph that ONNX Runtime would run: layers fused, shapes fixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from tlexport import plugins
from tlexport.errors import InvalidFile, UsageError
from tlexport.files import temporary_folder
from tlexport.onnx_file import check_onnx_file, read_onnx

LARGE = 1_500_000_000  # bytes of weights, beyond which protobuf cannot hold the graph in one message


def read(path: Path, shapes: Mapping[str, Sequence[int]] | None = None) -> onnx.ModelProto:
    """Read an ONNX file and fix the shapes of its inputs.

    Args:
        path: a file with its weights inside.
        shapes: shape of each input that has free axes other than the first; the first one is taken as one image.

    Raises:
        InvalidFile: not an ONNX file, or it keeps its weights elsewhere.
        UsageError: an axis is free and no shape is given; a shape does not fit.
    """
    check_onnx_file(path)
    model = read_onnx(path)
    if not model.graph.node:
        raise InvalidFile(f"{path} is not an ONNX model: it has no nodes")
    return with_shapes(model, shapes or {}, str(path))


def with_shapes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]], where: str) -> onnx.ModelProto:
    """Fix the shapes of a graph's inputs, in place; see :func:`read`."""
    constants = {i.name for i in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    for name in shapes:
        if name not in {value.name for value in inputs}:
            raise UsageError(f"{where} has no input {name!r}", f"its inputs: {', '.join(value.name for value in inputs)}")
    for value in inputs:
        axes = value.type.tensor_type.shape.dim
        given = shapes.get(value.name)
        if given is not None and len(given) != len(axes):
            raise UsageError(f"{value.name!r} of {where} has {len(axes)} axes; {len(given)} sizes were given")
        for index, axis in enumerate(axes):
            fixed = axis.dim_value if axis.HasField("dim_value") else 0
            size = given[index] if given is not None else fixed or (1 if index == 0 else 0)
            if size < 1:
                raise UsageError(
                    f"input {value.name!r} of {where} has an axis without a length: axis {index}"
                    f"{f' ({axis.dim_param})' if axis.dim_param else ''}",
                    f"give the shape: --shape {value.name}={','.join(str(a.dim_value or (224 if i else 1)) for i, a in enumerate(axes))}",
                )
            if fixed and fixed != size:
                raise UsageError(f"axis {index} of input {value.name!r} of {where} is {fixed}; {size} was given")
            axis.Clear()
            axis.dim_value = size
    del model.graph.value_info[:]
    return model


def fused(model: onnx.ModelProto, *, layout: bool) -> onnx.ModelProto:
    """The graph after ONNX Runtime's own optimizations.

    Args:
        model: with fixed shapes; it is not changed.
        layout: also those for this processor (blocked or channels-last convolutions): what would really run here. Without, the
            fused layers are the same on every machine.

    Raises:
        InvalidFile: ONNX Runtime refuses the graph.
        UsageError: the graph is too large to be handed over.
    """
    plugins.load("runtimes", "onnxruntime")  # imports the library quietly
    import onnxruntime as ort
    from onnxruntime.capi import onnxruntime_pybind11_state as native

    if model.ByteSize() > LARGE:
        raise UsageError(f"the graph holds {model.ByteSize()} bytes; up to {LARGE} can be estimated")
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
        except (native.Fail, native.InvalidArgument, native.InvalidGraph, native.NotImplemented, native.RuntimeException) as error:
            raise InvalidFile(f"ONNX Runtime {ort.__version__} refuses the graph: {' '.join(str(error).split())[:300]}") from None
        return onnx.load(out)

"""External models: ONNX files and engines of any origin, described only by what the file declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tlexport.errors import Unsupported
from tlexport.onnx_model.names import printable

if TYPE_CHECKING:
    from tlexport.onnx_model.external import ExternalModel

ENGINES = (".engine", ".plan", ".trt")
Shapes = Mapping[str, Sequence[int]]
FED = ("FLOAT", "FLOAT16", "DOUBLE", "UINT8", "INT8", "INT32", "INT64", "BOOL")  # element types of synthetic inputs


@dataclass(frozen=True)
class BenchableModel:
    """An external ONNX file, and the shape of each input in a measurement."""

    precision: str
    sha256: str
    size_bytes: int
    shapes: dict[str, tuple[int, ...]]  # of every input
    axes: dict[str, int]  # length of each named free axis
    batch: int
    notes: tuple[str, ...]


def read_external_model(path: Path, shapes: Shapes, batch: int) -> BenchableModel:
    """Read what an ONNX file declares, and fix its free axes.

    Args:
        path: the file.
        shapes: full shapes of inputs, as the user gave them; a first axis of 1 that is free in the model is the batch.
        batch: length of a free first axis.

    Raises:
        InvalidFile: not a valid ONNX file.
        UsageError: a shape is missing, names no input, or does not match the model; two inputs disagree on an axis.
        Unsupported: an input or an output is not a tensor of a supported type; the batch of the model is fixed to another number.
    """
    from tlexport.onnx_model.external import batch_of, read_external, settle_inputs
    from tlexport.onnx_model.precision import precision_of

    found = read_external(path)
    _expect_types(found)
    settled, axes = settle_inputs(found, shapes, batch)
    first = batch_of(settled) or batch
    if batch != 1 and first != batch:
        raise Unsupported(f"cannot fix the batch of {path} to {batch}: its inputs take {first}", "leave out --batch")
    notes = [f"{path} has a fixed batch of {first}; the latency is that of {first} images at once"] if first != batch else []
    if not settled:
        notes.append(f"{path} has no inputs: the runtime may compute its outputs once, when it opens the model")
    try:
        graph = precision_of(found.model, str(path))
        precision, note = str(graph.computed), graph.note
    except Unsupported:  # such as BFLOAT16, which can still be timed
        precision, note = "other", ""
    return BenchableModel(precision, found.sha256, found.size_bytes, settled, axes, first, tuple(one for one in (note, *notes) if one))


def _expect_types(found: ExternalModel) -> None:
    """Raises Unsupported for inputs that cannot be generated, and for outputs that are not tensors."""
    from tlexport.onnx_model.external import kind_of
    from tlexport.onnx_model.tensors import type_name

    for value in found.inputs():
        dtype = type_name(value.type.tensor_type.elem_type)
        if value.type.HasField("tensor_type") and dtype not in FED:
            raise Unsupported(
                f"the input '{printable(value.name)}' of {found.path} is of type {dtype}; inputs can be generated of {', '.join(FED)}",
                "export the model with inputs of one of these types",
            )
    for value in found.model.graph.output:
        kind = value.type.WhichOneof("value")
        dtype = type_name(value.type.tensor_type.elem_type) if kind == "tensor_type" else kind_of(value)
        if kind is not None and dtype not in FED:
            raise Unsupported(
                f"the output '{printable(value.name)}' of {found.path} is {dtype}; expected a tensor of {', '.join(FED)}",
                "export the model with outputs of one of these types",
            )

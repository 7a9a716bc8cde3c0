"""External models: any ONNX file, and engines. All that is known of them is what the file itself declares."""

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
FED = ("FLOAT", "FLOAT16", "DOUBLE", "UINT8", "INT8", "INT32", "INT64", "BOOL")  # element types of inputs that are made


@dataclass(frozen=True)
class BenchableModel:
    """An external ONNX file, and the shape of each input in a measurement."""

    precision: str
    sha256: str
    size_bytes: int
    shapes: dict[str, tuple[int, ...]]  # of every input
    axes: dict[str, int]  # lengths of the free axes that have names
    batch: int
    notes: tuple[str, ...]


def read_external_model(path: Path, shapes: Shapes, batch: int) -> BenchableModel:
    """Read what an ONNX file declares, and settle its free axes.

    Args:
        path: the file.
        shapes: whole shapes of inputs, as the user gave them; a first axis of 1 that is free in the model stands for the batch.
        batch: length of a free first axis.

    Raises:
        InvalidFile: not a valid ONNX file.
        UsageError: a shape is missing, is of no input, or is not one that it can have; two inputs disagree on an axis.
        Unsupported: an input or an output is not a tensor of a type that can be made; the model's batch is fixed to another.
    """
    from tlexport.onnx_model.external import batch_of, read_external, settle_inputs
    from tlexport.onnx_model.precision import precision_of

    found = read_external(path)
    _expect_types(found)
    settled, axes = settle_inputs(found, shapes, batch)
    first = batch_of(settled) or batch
    if batch != 1 and first != batch:
        raise Unsupported(f"cannot fix the batch of {path} to {batch}: its inputs take {first}", "leave out --batch")
    notes = [f"the batch of {path} is {first}, and so it is measured: the latency is that of {first} at once"] if first != batch else []
    if not settled:
        notes.append(f"{path} has no inputs: the runtime may compute its outputs once, when it opens the model")
    try:
        precision: str
        precision, note = precision_of(found.model, str(path))
    except Unsupported:  # BFLOAT16 and the like: it can be timed all the same
        precision, note = "other", ""
    return BenchableModel(precision, found.sha256, found.size_bytes, settled, axes, first, tuple(one for one in (note, *notes) if one))


def _expect_types(found: ExternalModel) -> None:
    """Raises Unsupported for tensors that are not made here, and for results that are not tensors."""
    from tlexport.onnx_model.external import kind_of
    from tlexport.onnx_model.tensors import type_name

    for value in found.inputs():
        dtype = type_name(value.type.tensor_type.elem_type)
        if value.type.HasField("tensor_type") and dtype not in FED:
            raise Unsupported(
                f"the input '{printable(value.name)}' of {found.path} is of type {dtype}, of which no input is made; {', '.join(FED)} are",
                "export the model with inputs of one of these types",
            )
    for value in found.model.graph.output:
        kind = value.type.WhichOneof("value")
        dtype = type_name(value.type.tensor_type.elem_type) if kind == "tensor_type" else kind_of(value)
        if kind is not None and dtype not in FED:
            raise Unsupported(
                f"the output '{printable(value.name)}' of {found.path} is {dtype}; tensors of {', '.join(FED)} are timed",
                "export the model with outputs of one of these types",
            )

"""Models that are nobody's bundle: any ONNX file, and engines. Nothing is known of them but what the file itself declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tlexport.api.graphs import precision_of
from tlexport.errors import InvalidFile, Unsupported, UsageError
from tlexport.files import sha256_of
from tlexport.onnx_file import read_onnx
from tlexport.record import nearest

ENGINES = (".engine", ".plan", ".trt")
Shapes = Mapping[str, Sequence[int]]
Axis = int | str | None  # a length, the name of a free axis, or a free axis without a name


@dataclass(frozen=True)
class Foreign:
    """An ONNX file, with the shapes that it is to be run at."""

    precision: str
    sha256: str
    size_bytes: int
    shapes: dict[str, tuple[int, ...]]  # of every input
    axes: dict[str, int]  # lengths of the free axes that have names
    batch: int
    notes: tuple[str, ...]


def read_foreign(path: Path, shapes: Shapes, batch: int) -> Foreign:
    """Read what an ONNX file declares, and settle its free axes.

    Args:
        path: the file.
        shapes: whole shapes of inputs, as the user gave them; a first axis of 1 that is free in the model stands for the batch.
        batch: length of a free first axis.

    Raises:
        InvalidFile: not an ONNX file.
        UsageError: a shape is of no input, or is not one that it can have; two inputs disagree on an axis.
        Unsupported: a free axis whose length nobody told; the model's batch is fixed to another.
    """
    declared, precision, notes = _declared(path)
    for name in shapes:
        if name not in declared:
            raise UsageError(f"{path} has no input '{name}'{nearest(name, list(declared))}", f"its inputs: {', '.join(declared)}")
    settled, axes = settle(str(path), declared, shapes, batch)
    first = next((shape for shape in settled.values() if shape), (1,))
    if batch != 1 and first[0] != batch:
        raise Unsupported(f"cannot fix the batch of {path} to {batch}: its inputs take {first[0]}", "leave out --batch")
    if first[0] != batch:
        notes = (*notes, f"the batch of {path} is {first[0]}, and so it is measured")
    return Foreign(precision, sha256_of(path), path.stat().st_size, settled, axes, first[0], notes)


def settle(
    what: str, declared: Mapping[str, Sequence[Axis] | None], shapes: Shapes, batch: int
) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """The shape of every input, and the lengths of the free axes that have names; see :func:`read_foreign`.

    Args:
        what: what the user calls the model.
        declared: axes of each input; None where the model declares no shape.
        shapes: as the user gave them.
        batch: length of a free first axis.
    """
    axes: dict[str, int] = {}
    settled = {}
    for name in sorted(declared, key=lambda name: name not in shapes):  # what the user told of an axis holds for all inputs
        axis_list, told = declared[name], shapes.get(name)
        if axis_list is None and told is None:
            raise Unsupported(f"{what} declares no shape of its input '{name}'", f"say what it is: --shape {name}=1x3x224x224")
        if told is not None and axis_list is not None and len(told) != len(axis_list):
            raise UsageError(f"the input '{name}' of {what} has {len(axis_list)} axes, {_text(axis_list)}; --shape has {len(told)}")
        lengths = list(told) if axis_list is None and told is not None else []
        for place, axis in enumerate(axis_list or ()):
            length = _length(axis, place, told, batch, axes)
            if length is None:
                example = "x".join(
                    str(other) if isinstance(other, int) else "N" if at else str(batch) for at, other in enumerate(axis_list or ())
                )
                raise Unsupported(
                    f"the input '{name}' of {what} has free axes, {_text(axis_list or ())}",
                    f"say how long they are: --shape {name}={example}",
                )
            if isinstance(axis, int) and axis != length:
                raise UsageError(f"axis {place} of the input '{name}' of {what} is {axis}; --shape has {length}")
            if isinstance(axis, str) and axes.setdefault(axis, length) != length:
                raise UsageError(f"the axis '{axis}' of {what} is {axes[axis]} in one input and {length} in '{name}'")
            lengths.append(length)
        settled[name] = tuple(lengths)
    return {name: settled[name] for name in declared}, axes


def _length(axis: Axis, place: int, told: Sequence[int] | None, batch: int, axes: Mapping[str, int]) -> int | None:
    """Of one axis; None where nobody told."""
    free = not isinstance(axis, int)
    if told is not None and not (free and place == 0 and told[0] == 1):
        return told[place]
    if isinstance(axis, int):
        return axis
    if axis is not None and axis in axes:
        return axes[axis]
    return batch if place == 0 else None


def _text(axes: Sequence[Axis]) -> str:
    return f"({', '.join('?' if axis is None else str(axis) for axis in axes)})"


def _declared(path: Path) -> tuple[dict[str, Sequence[Axis] | None], str, tuple[str, ...]]:
    """Axes of each input, the precision, and what the user should be told."""
    model = read_onnx(path)
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if not inputs:
        raise InvalidFile(f"{path} has no inputs: its outputs are constant, or it is not an ONNX model")
    declared: dict[str, Sequence[Axis] | None] = {}
    for value in inputs:
        kind = value.type.tensor_type
        if not value.type.HasField("tensor_type"):
            raise Unsupported(f"the input '{value.name}' of {path} is no tensor, and cannot be made up")
        dims = [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else d.dim_param or None for d in kind.shape.dim]
        declared[value.name] = dims if kind.HasField("shape") else None
    try:
        precision, note = precision_of(model, str(path))
    except Unsupported:  # BFLOAT16 and the like: it can be timed all the same
        return declared, "other", ()
    return declared, precision, (note,) if note else ()

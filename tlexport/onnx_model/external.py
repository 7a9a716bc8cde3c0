"""The only entry point for external ONNX models: parses the file, validates it against the ONNX specification, fixes the input shapes."""

from __future__ import annotations

import hashlib
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from tlexport.errors import Unsupported, UsageError
from tlexport.onnx_model.file import may_refer_to_files, read_onnx
from tlexport.onnx_model.names import printable
from tlexport.onnx_model.structure import check_structure, check_texts
from tlexport.onnx_model.tensors import BITS, bytes_of, check_tensors
from tlexport.record import nearest

MOST_BYTES = 4_000_000_000  # of one batch of all inputs
PIXELS, TOKENS, COLOURS = 224, 128, 3  # lengths that a hint proposes for free axes
Shapes = Mapping[str, Sequence[int]]
Axis = int | str | None  # a length, the name of a free axis, or a free axis without a name
Declared = Mapping[str, Sequence[Axis] | None]


@dataclass(frozen=True)
class ExternalModel:
    """A validated external model."""

    path: Path
    model: onnx.ModelProto
    files: tuple[Path, ...]  # files beside it that hold its weights
    what: str  # the user's name of the model

    @property
    def size_bytes(self) -> int:
        """Total size of its files."""
        return sum(file.stat().st_size for file in (self.path, *self.files))

    @property
    def sha256(self) -> str:
        """SHA-256 of the file, followed by the files that hold its weights."""
        digest = hashlib.sha256()
        for file in (self.path, *self.files):
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()

    def inputs(self) -> tuple[onnx.ValueInfoProto, ...]:
        """The inputs without a default value; a run must provide them."""
        graph = self.model.graph
        defaults = {tensor.name for tensor in graph.initializer} | {tensor.values.name for tensor in graph.sparse_initializer}
        return tuple(value for value in graph.input if value.name not in defaults)

    def declared(self) -> Declared:
        """Axes of each input; None where the model declares no shape.

        Raises:
            Unsupported: an input is not a tensor.
        """
        found: dict[str, Sequence[Axis] | None] = {}
        for value in self.inputs():
            kind = value.type.WhichOneof("value")
            if kind != "tensor_type":
                raise Unsupported(
                    f"the input '{printable(value.name)}' of {self.what} is {kind_of(value)}, not a tensor",
                    "export the model with tensors as inputs",
                )
            shape = value.type.tensor_type.shape
            if any(axis.HasField("dim_value") and axis.dim_value == 0 for axis in shape.dim):
                lengths = _text([axis.dim_value for axis in shape.dim])
                raise Unsupported(
                    f"the input '{printable(value.name)}' of {self.what} has an axis of length 0, {lengths}",
                    "export the model with the length of that axis, or with a free axis",
                )
            axes = [axis.dim_value if axis.dim_value > 0 else axis.dim_param or None for axis in shape.dim]
            found[value.name] = axes if value.type.tensor_type.HasField("shape") else None
        return found


def kind_of(value: onnx.ValueInfoProto) -> str:
    """Kind of a value with its article: ``a tensor``, ``an optional``, ..."""
    kind = (value.type.WhichOneof("value") or "value_of no type").removesuffix("_type").replace("_", " ")
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def read_external(path: Path, what: str | None = None) -> ExternalModel:
    """Read and validate a model file.

    Args:
        path: the file.
        what: the user's name of the model; None: its path.

    Raises:
        InvalidFile: missing, not a regular file, too large, not ONNX, or not a valid model; the message names the node or tensor.
    """
    may_refer_to_files(path)
    model = read_onnx(path)
    what = what or str(path)
    check_texts(model, what)
    files = check_tensors(model, path, what)
    check_structure(model, what)
    return ExternalModel(path, model, files, what)


def settle_inputs(found: ExternalModel, shapes: Shapes, batch: int) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """The shape of every input of a model, and the lengths of its named axes; see :func:`settle`.

    Raises:
        UsageError: as for :func:`settle`, or ``shapes`` has an input that the model lacks.
        Unsupported: an input is not a tensor, or too large.
    """
    declared = found.declared()
    for name in shapes:
        if name not in declared:
            known = ", ".join(map(printable, declared)) or "none"
            raise UsageError(f"{found.what} has no input '{printable(name)}'{nearest(name, list(declared))}", f"its inputs: {known}")
    settled, axes = settle(found.what, declared, shapes, batch)
    types = {value.name: value.type.tensor_type.elem_type for value in found.inputs()}
    total = 0
    for name, shape in settled.items():
        total += bytes_of(math.prod(shape), types[name]) if types[name] in BITS else 0
        if total > MOST_BYTES:
            raise Unsupported(
                f"the input '{printable(name)}' of {found.what} has the shape {_text(shape)}; inputs have a limit of {MOST_BYTES} bytes",
                "export the model with a smaller shape",
            )
    return settled, axes


def batch_of(settled: Mapping[str, Sequence[int]]) -> int | None:
    """The first axis of the first input that has one."""
    return next((shape[0] for shape in settled.values() if shape), None)


def settle(what: str, declared: Declared, shapes: Shapes, batch: int) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """The shape of every input, and the lengths of the free axes that have names.

    Args:
        what: the user's name of the model.
        declared: axes of each input; None if the model declares no shape.
        shapes: complete shapes of inputs from the user; a first axis of 1 that is free in the model means the batch.
        batch: length of a free first axis.

    Raises:
        UsageError: a shape is missing or does not fit its input, or two inputs disagree on an axis.
    """
    axes: dict[str, int] = {}
    settled = {}
    for name in sorted(declared, key=lambda name: name not in shapes):  # the user's length of a named axis applies to all inputs
        axis_list, given = declared[name], shapes.get(name)
        shown = printable(name)
        if axis_list is None and given is None:
            raise UsageError(f"{what} declares no shape of its input '{shown}'", _hint(declared, shapes, batch))
        if given is not None and axis_list is not None and len(given) != len(axis_list):
            raise UsageError(
                f"the input '{shown}' of {what} has {len(axis_list)} axes, {_text(axis_list)}; --shape has {len(given)}",
                _hint(declared, {}, batch, only=name),
            )
        lengths = list(given) if axis_list is None and given is not None else []
        for place, axis in enumerate(axis_list or ()):
            length = _length(axis, place, given, batch, axes)
            if length is None:
                raise UsageError(
                    f"the input '{shown}' of {what} has free axes, {_text(axis_list or ())}: axis {place} has no length",
                    _hint(declared, shapes, batch),
                )
            if isinstance(axis, int) and axis != length:
                raise UsageError(
                    f"axis {place} of the input '{shown}' of {what} is {axis}; --shape has {length}", _hint(declared, {}, batch, only=name)
                )
            if isinstance(axis, str) and axes.setdefault(axis, length) != length:
                raise UsageError(
                    f"the axis '{printable(axis)}' of {what} is {axes[axis]} in one input and {length} in '{shown}'",
                    "give the axis one length in every --shape",
                )
            lengths.append(length)
        settled[name] = tuple(lengths)
    return {name: settled[name] for name in declared}, axes


def _length(axis: Axis, place: int, given: Sequence[int] | None, batch: int, axes: Mapping[str, int]) -> int | None:
    """Length of an axis; None if it is unknown."""
    free = not isinstance(axis, int)
    if given is not None and not (free and place == 0 and given[0] == 1):
        return given[place]
    if isinstance(axis, int):
        return axis
    if axis is not None and axis in axes:
        return axes[axis]
    return batch if place == 0 else None


def _hint(declared: Declared, shapes: Shapes, batch: int, only: str | None = None) -> str:
    """Complete options, one for each input that needs a shape, with typical lengths for its free axes."""
    options = []
    for name, axes in declared.items():
        needs = axes is None or any(not isinstance(axis, int) for axis in axes[1:])
        if name not in shapes and (needs if only is None else name == only):
            lengths = (batch, COLOURS, PIXELS, PIXELS) if axes is None else _proposed(axes, batch)
            options.append(f"--shape {_typed(name + '=' + ','.join(map(str, lengths)))}")
    return f"give the shape, such as: {' '.join(options)}"


def _typed(text: str) -> str:
    """An argument, quoted for the shell."""
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + text.encode("unicode_escape").decode().replace("'", "\\'") + "'"


def _proposed(axes: Sequence[Axis], batch: int) -> list[int]:
    last = axes[-1] if axes else None
    channels_last = isinstance(last, int) and last <= 4

    def usual(place: int) -> int:
        if place == 0:
            return batch
        if len(axes) == 4:
            return COLOURS if place == 1 and not channels_last else PIXELS
        return TOKENS

    return [axis if isinstance(axis, int) else usual(place) for place, axis in enumerate(axes)]


def _text(axes: Sequence[Axis]) -> str:
    return f"({', '.join('?' if axis is None else printable(str(axis)) for axis in axes)})"

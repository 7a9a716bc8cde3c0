"""Tensors in an ONNX model: sizes, validation of their data, external data files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

from tlexport.errors import InvalidFile
from tlexport.onnx_model.names import is_external, printable

# bits per element in raw data (onnx.proto)
BITS = {
    **dict.fromkeys((TensorProto.DOUBLE, TensorProto.INT64, TensorProto.UINT64, TensorProto.COMPLEX64), 64),
    **dict.fromkeys((TensorProto.FLOAT, TensorProto.INT32, TensorProto.UINT32), 32),
    **dict.fromkeys((TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT16, TensorProto.UINT16), 16),
    **{number: 8 for name, number in TensorProto.DataType.items() if name.startswith("FLOAT8") or name in ("INT8", "UINT8", "BOOL")},
    **{number: 4 for name, number in TensorProto.DataType.items() if name in ("INT4", "UINT4", "FLOAT4E2M1")},
    **{number: 2 for name, number in TensorProto.DataType.items() if name in ("INT2", "UINT2")},
    TensorProto.COMPLEX128: 128,
}
AGAIN = "export the model again"
MOST_AXES = 64  # axes of a tensor, the limit of NumPy
# field that holds the elements of a tensor without raw data
_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


def type_name(dtype: int) -> str:
    """Name of an element type, such as ``FLOAT16``."""
    names: dict[int, str] = {number: name for name, number in TensorProto.DataType.items()}
    return names.get(dtype, f"number {dtype}")


def bytes_of(elements: int, dtype: int) -> int:
    """Size of ``count`` elements, bytes; 4-bit types are packed. Raises InvalidFile for a type without a fixed size."""
    if dtype not in BITS:
        raise InvalidFile(f"an element of type {type_name(dtype)} has no fixed size")
    return -(-elements * BITS[dtype] // 8)


def tensors_in(message: Any) -> Iterator[onnx.TensorProto]:
    """Every tensor in a message, also in attributes, bodies and functions."""
    if isinstance(message, TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for child in [value] if hasattr(value, "ListFields") else value:
                yield from tensors_in(child)


def check_tensors(model: onnx.ModelProto, path: Path, what: str) -> tuple[Path, ...]:
    """Compare every tensor's declared shape and type with the size of its data. Does not read external data.

    Args:
        model: the parsed file.
        path: the file; external data files are beside it.
        what: the user's name of the model.

    Returns:
        The files beside ``path`` that hold data.

    Raises:
        InvalidFile: an unknown type, a negative axis, data of another size; data in a file that is missing, not a regular file, outside
            the model's folder, or too short.
    """
    files: dict[Path, None] = {}
    for tensor in tensors_in(model):
        if len(tensor.dims) > MOST_AXES or any(axis < 0 for axis in tensor.dims):
            axes = f"{len(tensor.dims)} axes, {_shape(tensor)}"
            raise InvalidFile(f"{_called(tensor, what)} has {axes}; up to {MOST_AXES} of length 0 or more were expected", AGAIN)
        if is_external(tensor):
            files[external_part(tensor, path, what)[0]] = None
        elif tensor.data_type == TensorProto.STRING:
            _expect(len(tensor.string_data), math.prod(tensor.dims), "elements", tensor, what)
        elif tensor.data_type not in BITS:
            raise InvalidFile(f"{_called(tensor, what)} is of type {type_name(tensor.data_type)}, which ONNX does not have", AGAIN)
        elif tensor.HasField("raw_data"):
            _expect(len(tensor.raw_data), bytes_of(math.prod(tensor.dims), tensor.data_type), "bytes", tensor, what)
        else:
            _expect_elements(tensor, what)
    return tuple(files)


def _expect_elements(tensor: onnx.TensorProto, what: str) -> None:
    """The same check for data in a typed field, which holds 4-bit elements as bytes and complex ones as pairs."""
    elements, bits = math.prod(tensor.dims), BITS[tensor.data_type]
    found = sum(len(getattr(tensor, field)) for field in _FIELDS)
    pairs = 2 if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128) else 1
    if bits >= 8 or found != elements:
        _expect(found, elements * pairs if bits >= 8 else -(-elements * bits // 8), "elements", tensor, what)


def _expect(found: int, expected: int, unit: str, tensor: onnx.TensorProto, what: str) -> None:
    if found != expected:
        shape = f"{_shape(tensor)} of type {type_name(tensor.data_type)}"
        raise InvalidFile(
            f"{_called(tensor, what)} holds {found} {unit} of data; {shape} is {expected} {unit}",
            "export the model again: the file is damaged",
        )


def external_part(tensor: onnx.TensorProto, path: Path, what: str) -> tuple[Path, int, int]:
    """The file, the offset and the length of a tensor's external data. Raises as :func:`check_tensors`."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    name = entries.get("location", "")
    told = f"{_called(tensor, what)} keeps its data in '{printable(name)}'"
    hint = f"place the data file beside the model, in {path.parent}, under that name"
    if tensor.data_type not in BITS:
        raise InvalidFile(f"{told}, and is of type {type_name(tensor.data_type)}, which no file can hold", AGAIN)
    if not name or "\0" in name or "\\" in name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise InvalidFile(f"{told}; a file in the model's folder was expected", "save the model again, with its data beside it")
    folder, file = path.resolve().parent, path.parent / name
    try:
        if not file.exists():
            raise InvalidFile(f"{told}, which does not exist in {path.parent}", hint)
        if not file.resolve().is_relative_to(folder) and not file.resolve().is_relative_to(path.parent.resolve()):
            raise InvalidFile(f"{told}, which is a link out of the model's folder", hint)
        if not file.is_file():
            raise InvalidFile(f"{told}, which is not a regular file", hint)
        size = file.stat().st_size
    except OSError as error:
        raise InvalidFile(f"{told}, which cannot be read: {error.strerror or error}", hint) from None
    begin, needed = _number(entries.get("offset", "0")), bytes_of(math.prod(tensor.dims), tensor.data_type)
    length = _number(entries["length"]) if "length" in entries else needed
    if begin is None or length is None:
        raise InvalidFile(f"{told}; its offset or length is not a number", AGAIN)
    if length != needed:
        raise InvalidFile(f"{told}: {length} bytes, but {_shape(tensor)} of type {type_name(tensor.data_type)} is {needed} bytes", AGAIN)
    if begin + length > size:
        raise InvalidFile(
            f"{told}: bytes {begin} to {begin + length}, but the file holds {size}", "copy the data file again: it may be cut short"
        )
    return file, begin, length


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None


def take_in(model: onnx.ModelProto, path: Path) -> None:
    """Read external data into the message, in place; :func:`check_tensors` has accepted the model."""
    for tensor in tensors_in(model):
        if is_external(tensor):
            file, begin, length = external_part(tensor, path, str(path))
            try:
                with file.open("rb") as stream:
                    stream.seek(begin)
                    tensor.raw_data = stream.read(length)
            except OSError as error:
                raise InvalidFile(f"{file} cannot be read: {error.strerror or error}") from None
            del tensor.external_data[:]
            tensor.ClearField("data_location")


def _called(tensor: onnx.TensorProto, what: str) -> str:
    return f"the tensor '{printable(tensor.name)}' of {what}" if tensor.name else f"a constant without a name in {what}"


def _shape(tensor: onnx.TensorProto) -> str:
    return f"({', '.join(map(str, tensor.dims[:8]))}{', ...' if len(tensor.dims) > 8 else ''})"

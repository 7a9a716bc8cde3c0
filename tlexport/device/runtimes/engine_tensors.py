"""Inputs and outputs of an engine, checks of the arrays for its inputs, and the check whether this TensorRT may open it.

Python 3.6 syntax: this file is copied into bundles unchanged.
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import tensorrt as trt

from ..errors import InvalidFile, Unsupported
from .build_options import version_text
from .plan_header import read_plan_version
from .tensorrt_log import tensorrt_version

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    import numpy.typing as npt

# trt.nptype in TensorRT 8 uses names that newer versions of numpy lack
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
_PLANS_TELL = (8, 6)  # the first TensorRT that writes its version into the header of plans
_REBUILD = "build it again on this device: python3 run.py build"


class EngineTensor(NamedTuple):
    """An input or output of an engine. An input has the shapes that the engine was built for; all three shapes of an output are equal."""

    name: str
    dtype: str  # numpy's name
    least: "tuple[int, ...]"
    usual: "tuple[int, ...]"
    most: "tuple[int, ...]"


def read_dtype(engine: "trt.ICudaEngine", name: str, path: Path) -> str:
    """Numpy's name of a tensor's type. Raises Unsupported if numpy lacks the type."""
    found = engine.get_tensor_dtype(name).name
    if found not in _DTYPES:
        raise Unsupported(f"{path}: its tensor {name!r} is of the type {found}; known: {', '.join(_DTYPES)}")
    return _DTYPES[found]


def read_input_tensor(engine: "trt.ICudaEngine", name: str, path: Path) -> EngineTensor:
    """An input with the shapes of the engine's first profile. Raises Unsupported unless it is data on the GPU."""
    if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
        raise Unsupported(f"{path}: its input {name!r} is in host memory, like a shape tensor; an image was expected", _REBUILD)
    least, usual, most = (tuple(shape) for shape in engine.get_tensor_profile_shape(name, 0))
    return EngineTensor(name, read_dtype(engine, name, path), least, usual, most)


def read_output_tensor(engine: "trt.ICudaEngine", name: str, shape: "Sequence[int]", path: Path) -> EngineTensor:
    """An output with its shape for the usual input shapes."""
    axes = tuple(shape)
    return EngineTensor(name, read_dtype(engine, name, path), axes, axes, axes)


def check_feeds(inputs: "Sequence[EngineTensor]", feeds: "Mapping[str, npt.NDArray[Any]]", path: Path) -> None:
    """Raise Unsupported unless there is an array for each input whose dtype and shape fit the engine."""
    if set(feeds) != {tensor.name for tensor in inputs}:
        expected = ", ".join(tensor.name for tensor in inputs)
        raise Unsupported(f"{path} takes the inputs {expected}; found {', '.join(feeds) or 'none'}")
    for tensor in inputs:
        array = feeds[tensor.name]
        lengths = zip(tensor.least, array.shape, tensor.most)
        fits = len(array.shape) == len(tensor.least) and all(low <= length <= high for low, length, high in lengths)
        if not fits or array.dtype != tensor.dtype:
            shapes = str(tensor.most) if tensor.least == tensor.most else f"{tensor.least} to {tensor.most}"
            raise Unsupported(
                f"{path} was built for {tensor.dtype} {shapes} as its input {tensor.name!r}; found {array.dtype} {array.shape}",
                "use the batch that it was built for, or build an engine for another batch",
            )


def refuse_other_version(path: Path) -> None:
    """Check a file before TensorRT opens it: it must be an engine for this TensorRT version.

    Raises:
        InvalidFile: not an engine.
        Unsupported: made by another version.
    """
    here = tensorrt_version()
    if here[:2] < _PLANS_TELL:  # its plans do not state the version; TensorRT checks them itself
        if not path.is_file():
            raise InvalidFile(f"{path} does not exist; an engine was expected", _REBUILD)
        return
    found = read_plan_version(path)
    if any(a != b for a, b in zip(found, here)):  # compare the numbers that the bindings report: not all of them report the fourth
        raise Unsupported(f"{path} was built for TensorRT {version_text(found)}, and this device has {version_text(here)}", _REBUILD)

"""Build and run engines with TensorRT's Python bindings, 8.5 and newer.

TensorRT is imported inside the functions, so that a device without it gets a clear error.

Python 3.6 syntax: this file is copied into bundles unchanged.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import MissingDependency

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from .engine_run import Session

_HINT = (
    "on a Jetson: sudo apt install python3-libnvinfer, or --runtime trtexec; "
    "on a PC with an NVIDIA GPU: pip install 'tlexport[tensorrt]' from NVIDIA's package index"
)


def _missing(error: ImportError) -> MissingDependency:
    library = (error.name or "tensorrt").partition(".")[0]
    if not library.startswith("tensorrt"):  # also tensorrt_bindings and tensorrt_libs; any other name is a bug
        raise error
    return MissingDependency(f"TensorRT's Python bindings cannot be imported: {error}", _HINT)


def describe_gpu(device: int = 0) -> "dict[str, str]":
    """The properties of this device that an engine depends on.

    Returns:
        ``tensorrt``, ``gpu`` (its name), ``compute_capability`` ("8.7") and ``driver`` (the newest supported CUDA, "12.6").

    Raises:
        MissingDependency: no TensorRT, or no CUDA.
        Unsupported: there is no such GPU.
    """
    try:
        from . import engine_build
    except ImportError as error:
        raise _missing(error) from None
    return engine_build.describe_gpu(device)


def build_engine(
    onnx_path: "str | Path",
    engine_path: "str | Path",
    recipe: "Mapping[str, Any]",
    report: "Callable[[str], None]",
    timing_cache: "str | Path | None" = None,
    device: int = 0,
) -> None:
    """Build an engine with this device's TensorRT, for this device's GPU. Takes minutes.

    Args:
        onnx_path: the model; the graph defines the types.
        engine_path: written atomically.
        recipe: ``input`` (the input's name), ``shape`` (image, height, width, channel), ``workspace_mb`` (MiB that a layer may take
            while it computes), ``precision`` and ``opset``, as the bundle's manifest has them.
        report: receives progress messages.
        timing_cache: TensorRT's timing cache; read if it exists, and written after the build.
        device: index of the GPU.

    Raises:
        MissingDependency: no TensorRT, or no CUDA.
        Unsupported: TensorRT has no such precision, or does not take the graph: every node that it refuses, with its operator.
        InvalidFile: not an ONNX file, or not one with the recipe's input.
        DeviceError: the build failed; the text ends with the last lines of TensorRT's log.
    """
    try:
        from . import engine_build
    except ImportError as error:
        raise _missing(error) from None
    engine_build.build(Path(onnx_path), Path(engine_path), recipe, report, None if timing_cache is None else Path(timing_cache), device)


def open_engine(engine_path: "str | Path", device: int = 0, cuda_graph: bool = True, copies: bool = True) -> "Session":
    """Open an engine that was built on this device.

    Args:
        engine_path: the file. It must be trusted: TensorRT checks the version of a plan, not its contents.
        device: index of the GPU.
        cuda_graph: launch the whole network with one call, instead of kernel by kernel.
        copies: whether :meth:`Session.time_run` counts the copies between host and device.

    Raises:
        MissingDependency: no TensorRT, or no CUDA.
        InvalidFile: not an engine.
        Unsupported: the engine was made with another version of TensorRT, or cannot be captured as a CUDA graph.
        DeviceError: it cannot be opened; the text ends with the last lines of TensorRT's log.
    """
    try:
        from . import engine_run
    except ImportError as error:
        raise _missing(error) from None
    return engine_run.Session(Path(engine_path), device, cuda_graph, copies)

"""Build an engine from an ONNX file with TensorRT 8.5 to 11.

Members that differ between versions are looked up by name: TensorRT 11 renumbered enums and removed the flags of weak typing.

Python 3.6 syntax: this file is copied into bundles unchanged.
"""

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import tensorrt as trt

from ..errors import DeviceError, InvalidFile, Unsupported
from .build_options import precision_flags
from .cuda import open_cuda
from .onnx_nodes import read_nodes
from .tensorrt_log import TensorrtLog, explained, made, tensorrt_version

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    Report = Callable[[str], None]

_EVERY = 5.0  # seconds between two reports of progress
_LISTED = 8  # maximum number of parser errors in a message


def describe_gpu(device: int) -> "dict[str, str]":
    """See :func:`tlexport.device.runtimes.engine.describe_gpu`."""
    cuda = open_cuda()
    cuda.use(device)
    capability = cuda.compute_capability(device)
    return {
        "tensorrt": str(trt.__version__),
        "gpu": cuda.device_name(device),
        "compute_capability": capability,
        "driver": cuda.driver_version(),
    }


def build(
    onnx_path: Path, engine_path: Path, recipe: "Mapping[str, Any]", report: "Report", timing_cache: "Path | None", device: int
) -> None:
    """See :func:`tlexport.device.runtimes.engine.build_engine`."""
    flags = precision_flags(tensorrt_version(), recipe["precision"], recipe["opset"])
    open_cuda().use(device)
    log = TensorrtLog()
    action = f"build {engine_path.name} from {onnx_path}"
    with explained(action, log):
        builder = trt.Builder(log)
        network = made(builder.create_network(_creation_flags(flags)), action, log)
        _parse(network, onnx_path, log)
        _check_input(network, onnx_path, recipe)
        config = made(builder.create_builder_config(), action, log)
        _configure(config, flags, recipe)
        profile = made(builder.create_optimization_profile(), action, log)
        shape = tuple(recipe["shape"])
        profile.set_shape(recipe["input"], shape, shape, shape)
        if config.add_optimization_profile(profile) < 0:
            raise Unsupported(f"TensorRT {trt.__version__} does not accept the input shape {shape} for {onnx_path}{log.tail()}")
        kept = _use_timing_cache(config, timing_cache, log, report)
        monitor = _watch(config, report)
        report(f"TensorRT {trt.__version__} builds {engine_path.name}; this takes minutes")
        plan = builder.build_serialized_network(network, config)
        if monitor is not None and monitor.interrupted:
            raise KeyboardInterrupt
        written = made(plan, action, log)
        _write(engine_path, written)
        if timing_cache is not None and kept:
            _write(timing_cache, made(made(config.get_timing_cache(), action, log).serialize(), action, log))


def _creation_flags(flags: "Sequence[str]") -> int:
    """Bits for ``create_network``."""
    wanted = []
    if "stronglyTyped" in flags:
        wanted.append("STRONGLY_TYPED")
    if tensorrt_version()[0] < 10:
        wanted.append("EXPLICIT_BATCH")  # the mode of every parsed graph; TensorRT 10 and later have no other
    bits = 0
    for name in wanted:
        bits |= 1 << int(_member(trt.NetworkDefinitionCreationFlag, name))
    return bits


def _member(kind: "Any", name: str) -> "Any":
    """A member of one of TensorRT's enums, by its name. Raises Unsupported if this version lacks it."""
    member = getattr(kind, name, None)
    if member is None:
        raise Unsupported(
            f"TensorRT {trt.__version__} has no {kind.__name__}.{name}",
            "its networks take their types from the graph: export with a newer opset, or for the TensorRT version of this device",
        )
    return member


def _configure(config: "trt.IBuilderConfig", flags: "Sequence[str]", recipe: "Mapping[str, Any]") -> None:
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(recipe["workspace_mb"]) << 20)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # otherwise an engine only reports the names of its layers
    for flag in flags:
        if flag != "stronglyTyped":
            config.set_flag(_member(trt.BuilderFlag, flag.upper()))
    if recipe["precision"] == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)  # TF32 is on by default; it rounds factors to 10 bits


def _parse(network: "trt.INetworkDefinition", path: Path, log: TensorrtLog) -> None:
    """Read the graph into a network. Raises with every error of the parser."""
    if not path.is_file():
        raise InvalidFile(f"{path} does not exist; the ONNX file to build an engine from was expected")
    parser = trt.OnnxParser(network, log)
    if parser.parse_from_file(str(path)):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    if any(error.code() == trt.ErrorCode.MODEL_DESERIALIZE_FAILED for error in errors):
        raise InvalidFile(f"{path} is not an ONNX file that TensorRT {trt.__version__} can read: {errors[0].desc().strip()}{log.tail()}")
    nodes = () if all(hasattr(error, "node_name") for error in errors) else read_nodes(path)
    told = [f"\n  {_told(error, nodes)}" for error in errors[:_LISTED]]
    if len(errors) > _LISTED:
        told.append(f"\n  and {len(errors) - _LISTED} more")
    raise Unsupported(
        f"TensorRT {trt.__version__} cannot parse the graph of {path}; its parser found {len(errors)} errors:{''.join(told)}{log.tail()}",
        "export for this TensorRT version: tlx export --target with the profile of this board and its JetPack",
    )


def _told(error: "Any", nodes: "Sequence[Any]") -> str:
    """One of the parser's errors, with node and operator."""
    number = error.node()
    name = operator = ""
    if hasattr(error, "node_name"):  # from TensorRT 10 on
        name, operator = error.node_name(), error.node_operator()
    elif 0 <= number < len(nodes):
        name, operator = nodes[number]
    return f"node {number} {name!r} ({operator or 'operator not known'}): {error.desc().strip()}"


def _check_input(network: "trt.INetworkDefinition", path: Path, recipe: "Mapping[str, Any]") -> None:
    """Raise InvalidFile unless the graph has exactly the recipe's input."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    shapes = {tensor.name: tuple(tensor.shape) for tensor in inputs}
    wanted, shape = recipe["input"], tuple(recipe["shape"])
    found = shapes.get(wanted, ())
    fits = len(found) == len(shape) and all(axis in (-1, length) for axis, length in zip(found, shape))
    if len(shapes) != 1 or not fits:
        listed = ", ".join(f"{name!r} {axes}" for name, axes in shapes.items()) or "none"
        raise InvalidFile(f"{path}: one input {wanted!r} of the shape {shape} was expected; found {listed} (-1: any length)")


# --- timing cache -----------------------------------------------------------------------------------------------------


def _use_timing_cache(config: "trt.IBuilderConfig", path: "Path | None", log: TensorrtLog, report: "Report") -> bool:
    """Use a timing cache. Returns whether the build fills one."""
    if path is None:
        return False
    known = path.read_bytes() if path.is_file() else b""
    for content in [known, b""] if known else [b""]:
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):  # False: refuse a cache of another GPU or version
            return True
        if content:
            report(f"{path} belongs to another GPU or TensorRT version; a new one is created{log.tail()}")
    report(f"TensorRT {trt.__version__} does not accept a timing cache; every kernel is timed{log.tail()}")
    return False


# --- progress ---------------------------------------------------------------------------------------------------------


def _watch(config: "trt.IBuilderConfig", report: "Report") -> "Any":
    """Report the progress of the build (from TensorRT 10). Returns an object to keep during the build, or None."""
    base: "Any" = getattr(trt, "IProgressMonitor", None)
    if base is None:
        return None

    class Monitor(base):
        """Reports the progress of phases with several steps at intervals."""

        def __init__(self) -> None:
            base.__init__(self)
            self.interrupted = False
            self._steps: "dict[str, int]" = {}
            self._told = time.monotonic()

        def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
            self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                if time.monotonic() - self._told >= _EVERY:
                    self._told = time.monotonic()
                    report(f"{phase_name}: step {step + 1} of {self._steps.get(phase_name, '?')}")
            except KeyboardInterrupt:  # exceptions must not pass through TensorRT's C++ code; the answer False ends the build
                self.interrupted = True
            return not self.interrupted

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    monitor = Monitor()
    settings: "Any" = config  # older versions do not have the attribute
    settings.progress_monitor = monitor
    return monitor


def _write(path: Path, content: "Any") -> None:
    """Write a buffer to a file beside ``path``, then rename it."""
    beside = path.with_name(path.name + ".tmp")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise DeviceError(f"{path} cannot be written: {error.strerror or error}", "check the free space: df -h") from None

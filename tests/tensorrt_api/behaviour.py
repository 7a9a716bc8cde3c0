"""A small `tensorrt` module: NVIDIA's names, our behaviour. It builds plans of its own making and runs them on `cudart.c`.

A "network" answers, for each image, its mean over 255 and one minus that. What is not asked of a class by our code is left out;
:mod:`strict` puts the real signatures in front of it.
"""

from __future__ import annotations

import ctypes
import enum
import json
import struct
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from tensorrt_api.cudart import Device

TYPES = {onnx.TensorProto.UINT8: "UINT8", onnx.TensorProto.FLOAT: "FLOAT"}
NUMPY = {"UINT8": np.uint8, "FLOAT": np.float32}
REFUSED = "NotInTensorRT"  # an operator that no version has
CLASSES = 2
COMPUTE_MS = 4.0
LAYERS = {"first": 1.5, "second": 2.5}
GPU = b"for the stand-in's GPU:"


class World:
    """What the stand-in is to do, and what was done with it."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.build_fails = False
        self.no_context = False
        self.not_capturable = False
        self.interrupt = False  # Ctrl-C during the build
        self.flags: set[str] = set()
        self.created = 0
        self.workspace = 0
        self.verbosity = ""
        self.cache: bytes | None = None
        self.compiled = 0


def the() -> Any:
    """The module under test."""
    return sys.modules["tensorrt"]


def create(kind: str, *content: Any, **state: Any) -> Any:
    """An object that only TensorRT itself makes."""
    made = getattr(the(), kind).__new__(getattr(the(), kind), *content)
    vars(made).update({f"_{name}": value for name, value in state.items()})
    return made


def say(logger: Any, severity: str, text: str) -> None:
    logger.log(the().ILogger.Severity[severity], text)


def header(version: str) -> bytes:
    """The first bytes of a plan, as the facts of TensorRT's own samples have them."""
    numbers = [*(int(part) for part in version.split(".")), 0, 0][:4]
    return b"ftrt" + struct.pack("<I", 0) + bytes(16) + bytes(numbers)


class Interface:
    """A class to derive from. pybind11 demands that its own constructor is called."""

    def __init__(self) -> None:
        self._constructed = True


def constructed(derived: Any) -> Any:
    if "_constructed" not in vars(derived):
        raise TypeError(f"{type(derived).__name__}: the base class's __init__ was not called")
    return derived


class ILogger(Interface):
    class Severity(enum.IntEnum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError("log was not overridden")


class IProfiler(Interface):
    def report_layer_time(self, layer_name: str, ms: float) -> None:
        raise NotImplementedError("report_layer_time was not overridden")


class IProgressMonitor(Interface):
    def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
        raise NotImplementedError("phase_start was not overridden")

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError("step_complete was not overridden")

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError("phase_finish was not overridden")


class Dims(tuple[int, ...]):
    """Lengths of axes."""


class IHostMemory(bytes):
    """Bytes that TensorRT owns."""


# --- building ---------------------------------------------------------------------------------------------------------


class Builder:
    def __init__(self, logger: Any) -> None:
        self._logger = constructed(logger)

    def create_network(self, flags: int = 0) -> Any:
        the().world.created = flags
        return create("INetworkDefinition", inputs=[])

    def create_builder_config(self) -> Any:
        return create("IBuilderConfig", logger=self._logger, flags={"TF32"}, profiles=[], cache=None)

    def create_optimization_profile(self) -> Any:
        return create("IOptimizationProfile", shapes={})

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        world = the().world
        world.flags, world.verbosity = set(config._flags), getattr(getattr(config, "_profiling_verbosity", None), "name", "")
        say(self._logger, "INFO", "building")
        monitor = getattr(config, "_progress_monitor", None)
        if monitor is not None:
            constructed(monitor).phase_start("Tactics", None, 3)
            if not all(monitor.step_complete("Tactics", step) for step in range(3)):
                return None
            monitor.phase_finish("Tactics")
        if world.build_fails:
            say(self._logger, "WARNING", "not enough memory for a tactic")
            say(self._logger, "INTERNAL_ERROR", "no implementation for node second")
            return None
        world.compiled += 1
        if config._cache is not None:
            config._cache._content += b"kernel"
            world.cache = bytes(config._cache._content)
        [profile], [tensor] = config._profiles, network._inputs
        plan = {"input": tensor.name, "dtype": tensor.dtype.name, "profile": profile._shapes[tensor.name]}
        return create("IHostMemory", header(the().__version__) + json.dumps(plan).encode())


class INetworkDefinition:
    @property
    def num_inputs(self) -> int:
        return len(self._inputs)  # type: ignore[attr-defined]

    def get_input(self, index: int) -> Any:
        return self._inputs[index]  # type: ignore[attr-defined]


class ITensor:
    name = property(lambda self: self._name)
    shape = property(lambda self: self._shape)
    dtype = property(lambda self: self._dtype)


class OnnxParser:
    def __init__(self, network: Any, logger: Any) -> None:
        self._network, self._logger, self._errors = network, constructed(logger), []  # type: ignore[var-annotated]

    def parse_from_file(self, model: str) -> bool:
        try:
            graph = onnx.load_model(model).graph
        except DecodeError as error:
            self._errors.append(create("ParserError", code="MODEL_DESERIALIZE_FAILED", node=-1, name="", operator="", text=str(error)))
            return False
        for index, node in enumerate(graph.node):
            if node.op_type == REFUSED:
                text = f"no importer for {index}"
                self._errors.append(
                    create("ParserError", code="UNSUPPORTED_NODE", node=index, name=node.name, operator=node.op_type, text=text)
                )
        for value in graph.input:
            shape = create("Dims", [axis.dim_value or -1 for axis in value.type.tensor_type.shape.dim])
            dtype = the().DataType[TYPES[value.type.tensor_type.elem_type]]
            self._network._inputs.append(create("ITensor", name=value.name, shape=shape, dtype=dtype))
        return not self._errors

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return self._errors[index]


class ParserError:
    def code(self) -> Any:
        return the().ErrorCode[self._code]  # type: ignore[attr-defined]

    def node(self) -> int:
        return self._node  # type: ignore[attr-defined, no-any-return]

    def desc(self) -> str:
        return self._text  # type: ignore[attr-defined, no-any-return]

    def node_name(self) -> str:
        return self._name  # type: ignore[attr-defined, no-any-return]

    def node_operator(self) -> str:
        return self._operator  # type: ignore[attr-defined, no-any-return]


class IOptimizationProfile:
    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:
        self._shapes[input] = [list(min), list(opt), list(max)]  # type: ignore[attr-defined]


class IBuilderConfig:
    _flags: set[str]
    _cache: Any
    profiling_verbosity: Any = property(
        lambda self: self._profiling_verbosity, lambda self, value: setattr(self, "_profiling_verbosity", value)
    )
    progress_monitor: Any = property(lambda self: self._progress_monitor, lambda self, value: setattr(self, "_progress_monitor", value))

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        assert pool.name == "WORKSPACE"
        the().world.workspace = pool_size

    def set_flag(self, flag: Any) -> None:
        self._flags.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self._flags.discard(flag.name)

    def add_optimization_profile(self, profile: Any) -> int:
        self._profiles.append(profile)  # type: ignore[attr-defined]
        return len(self._profiles) - 1  # type: ignore[attr-defined]

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
        if serialized_timing_cache == b"broken":
            return None
        return create("ITimingCache", content=bytearray(serialized_timing_cache or GPU))

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if not ignore_mismatch and not cache._content.startswith(GPU):
            say(self._logger, "ERROR", "timing cache of another GPU")  # type: ignore[attr-defined]
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._cache


class ITimingCache:
    def serialize(self) -> Any:
        return create("IHostMemory", bytes(self._content))  # type: ignore[attr-defined]


# --- running ----------------------------------------------------------------------------------------------------------


class Runtime:
    def __init__(self, logger: Any) -> None:
        self._logger = constructed(logger)

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
        start = header(the().__version__)
        if not serialized_engine.startswith(start):
            say(self._logger, "ERROR", "the plan is of another version")
            return None
        try:
            return create("ICudaEngine", plan=json.loads(serialized_engine[len(start) :]), logger=self._logger)
        except ValueError:
            say(self._logger, "ERROR", "the plan's body is damaged")
            return None


class ICudaEngine:
    _plan: dict[str, Any]
    num_io_tensors = property(lambda self: 2)

    def get_tensor_name(self, index: int) -> str:
        return str([self._plan["input"], "probabilities"][index])

    def get_tensor_mode(self, name: str) -> Any:
        return the().TensorIOMode["INPUT" if name == self._plan["input"] else "OUTPUT"]

    def get_tensor_dtype(self, name: str) -> Any:
        return the().DataType[self._plan["dtype"] if name == self._plan["input"] else "FLOAT"]

    def get_tensor_location(self, name: str) -> Any:
        return the().TensorLocation.DEVICE

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Any]:
        assert (name, profile_index) == (self._plan["input"], 0)
        return [create("Dims", shape) for shape in self._plan["profile"]]

    def create_execution_context(self) -> Any:
        if the().world.no_context:
            say(self._logger, "ERROR", "no memory for activations")  # type: ignore[attr-defined]
            return None
        return create("IExecutionContext", engine=self, logger=self._logger, shape=None, addresses={}, profiler=None)  # type: ignore[attr-defined]

    def create_engine_inspector(self) -> Any:
        return create("EngineInspector", context=None)


class IExecutionContext:
    profiler: Any = property(lambda self: self._profiler, lambda self, value: setattr(self, "_profiler", constructed(value)))

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        least, _, most = self._engine._plan["profile"]  # type: ignore[attr-defined]
        if not all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True)):
            say(self._logger, "ERROR", "shape outside of the profile")  # type: ignore[attr-defined]
            return False
        self._shape = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> Any:
        assert self._shape is not None
        return create("Dims", self._shape if name == self._engine._plan["input"] else (self._shape[0], CLASSES))  # type: ignore[attr-defined]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory  # type: ignore[attr-defined]
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        plan, addresses, world = self._engine._plan, dict(self._addresses), the().world  # type: ignore[attr-defined]
        if self._shape is None or set(addresses) != {plan["input"], "probabilities"}:
            say(self._logger, "ERROR", "a tensor has no shape or no address")  # type: ignore[attr-defined]
            return False
        self._runs = getattr(self, "_runs", 0) + 1
        if world.not_capturable and self._runs > 1:
            say(self._logger, "ERROR", "a layer waits for the host")  # type: ignore[attr-defined]
            return False
        shape, dtype, profiler = self._shape, NUMPY[plan["dtype"]], self._profiler  # type: ignore[has-type]

        def kernel() -> None:
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            pixels = np.frombuffer(ctypes.string_at(addresses[plan["input"]], size), dtype).reshape(shape)
            mean = pixels.reshape(shape[0], -1).mean(1) / 255
            answer = np.stack([mean, 1 - mean], 1).astype(np.float32).tobytes()
            ctypes.memmove(addresses["probabilities"], answer, len(answer))
            for name, ms in LAYERS.items() if profiler is not None else ():
                profiler.report_layer_time(name, ms)

        world.device.enqueue(stream_handle, kernel, COMPUTE_MS)
        return True


class EngineInspector:
    execution_context: Any = property(lambda self: self._context, lambda self, value: setattr(self, "_context", value))

    def get_engine_information(self, format: Any) -> str:
        assert format.name == "JSON"
        assert self._context is not None
        if int(the().__version__.split(".")[0]) < 11:
            tensors: Any = {"Bindings": ["image", "probabilities"]}
            types: Any = {"Format/Datatype": "Channel major INT8 format where channel % 4 == 0"}
        else:
            tensors = {"I/O Tensors": [{"Name": name, "IOMode": mode} for name, mode in (("image", "Input"), ("probabilities", "Output"))]}
            types = {"Format": "Channel major format where channel % 4 == 0", "DataType": "Int8"}
        layers = [
            {"Name": name, "LayerType": "CaskConvolution", "Inputs": [{"Name": "x", **types}], "Outputs": [{"Name": "y", **types}]}
            for name in LAYERS
        ]
        return json.dumps({"Layers": layers, **tensors})


# --- a module without a real version in front of it -------------------------------------------------------------------

ENUMS = {
    "NetworkDefinitionCreationFlag": "EXPLICIT_BATCH STRONGLY_TYPED",
    "BuilderFlag": "FP16 INT8 TF32",
    "MemoryPoolType": "WORKSPACE",
    "ProfilingVerbosity": "LAYER_NAMES_ONLY DETAILED NONE",
    "ErrorCode": "SUCCESS MODEL_DESERIALIZE_FAILED UNSUPPORTED_NODE",
    "TensorIOMode": "INPUT OUTPUT",
    "TensorLocation": "DEVICE HOST",
    "DataType": "FLOAT UINT8 HALF INT4",
    "LayerInformationFormat": "ONELINE JSON",
}
BEHAVIOUR = {
    name: value for name, value in globals().items() if isinstance(value, type) and value.__module__ == __name__ and name != "World"
}


def loose_module(version: str, world: World) -> ModuleType:
    """A `tensorrt` that takes whatever our classes take."""
    module = ModuleType("tensorrt")
    vars(module).update({name: enum.IntEnum(name, members.split(), start=0) for name, members in ENUMS.items()})
    vars(module).update({name: type(name, (value,), {}) for name, value in BEHAVIOUR.items()})
    vars(module).update(__version__=version, world=world)
    return module

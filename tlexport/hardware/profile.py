"""Profile: a device and the budget of a model on it. Every figure has a source.

A profile is a TOML file; ``profile_file.py`` reads it with the files that it extends and the requested power mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Generic, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, model_validator

from tlexport.artifact import Precision
from tlexport.errors import UsageError
from tlexport.hardware.board_rates import BoardRates
from tlexport.hardware.calibration import CalibratedModel, Sharpened
from tlexport.record import Positive, Record
from tlexport.units import parse_bytes, parse_mj, parse_ms

T = TypeVar("T")
NAME = r"^[a-z0-9][a-z0-9.-]*$"  # of a profile and of a power mode


class Fact(Record, Generic[T]):
    """A figure and its source."""

    value: T
    source: str = Field(min_length=8, description="document, file or measurement; for 'assumed', the reasoning")
    status: Literal["read", "derived", "assumed"]


def _quantity(parse: Callable[[str], float]) -> AfterValidator:
    """A quantity with a unit that ``parse`` reads as more than 0. The text is stored, so a profile is shown as written."""

    def check(text: str) -> str:
        try:
            value = parse(text)
        except UsageError as error:
            raise ValueError(error.hint) from None  # a ValueError, so that the key path is added
        if value <= 0:
            raise ValueError("must be more than 0; leave the key out for no limit")
        return text

    return AfterValidator(check)


def _distinct(precisions: tuple[Precision, ...]) -> tuple[Precision, ...]:
    if len(set(precisions)) != len(precisions):
        raise ValueError("contains a precision twice")
    return precisions


# (TensorRT version, largest opset that its ONNX parser reads); a version between two rows reads what the lower row says.
# Source: docs/operators.md of onnx/onnx-tensorrt in the releases 8.0, 8.4, 9.0 and 10.1; from 10.9 on NVIDIA's ONNX opset guide.
PARSER_OPSETS = (((8, 0), 13), ((8, 4), 17), ((9, 0), 19), ((10, 0), 20), ((10, 9), 22), ((10, 13), 24), ((11, 0), 25))
# (Python, newest ONNX Runtime for it, largest opset that this reads); a Python between two rows has at least what the lower row says.
# Source: the wheels on PyPI, and docs/reference/compatibility.md of microsoft/onnxruntime.
PYTHON_OPSETS = (((3, 6), "1.10", 15), ((3, 7), "1.14", 18), ((3, 8), "1.19", 21), ((3, 10), "1.23", 23), ((3, 11), "1.31", 25))
# TensorRT takes UINT8 network inputs from here on: NVIDIA/TensorRT#1503, and docs/Changelog.md of onnx/onnx-tensorrt for 8.5.
UINT8_INPUT = (8, 5)
# TensorRT reads INT8 constants in a network from here on. 8.0.3, 8.2.5 and 8.4.1 refused them ("invalid weights type of Int8":
# NVIDIA/TensorRT#2163); an assertion of 8.5.1 lists kINT8 as allowed (#2604), but no board has shown that it works.
INT8_CONSTANTS = (10, 0)
# Tegra GPUs without INT8 arithmetic: X1 (Nano, TX1) and X2 (TX2); builder->platformHasFastInt8() is false there.
NO_INT8 = ("5.3", "6.2")


def newest_opset(tensorrt: tuple[int, ...]) -> int:
    """Largest opset of the ONNX parser of a TensorRT version, such as ``(10, 3, 0)``; 0 for unknown older versions."""
    return max((opset for since, opset in PARSER_OPSETS if since <= tensorrt), default=0)


class Budget(Record):
    """The limits of a model on the device. Quantities have units; sizes are decimal (1 MB = 10^6 bytes)."""

    size: Annotated[str, _quantity(parse_bytes)] | None = Field(None, description="largest model file, such as '8 MB'")
    latency_p95: Annotated[str, _quantity(parse_ms)] | None = Field(None, description="95th percentile for one image, such as '10 ms'")
    memory: Annotated[str, _quantity(parse_bytes)] | None = Field(None, description="largest resident process, such as '300 MB'")
    energy: Annotated[str, _quantity(parse_mj)] | None = Field(None, description="energy for one image, such as '50 mJ'")

    @property
    def size_bytes(self) -> int | None:
        """Limit in bytes, or None."""
        return parse_bytes(self.size) if self.size else None

    @property
    def latency_p95_ms(self) -> float | None:
        """Limit in ms, or None."""
        return parse_ms(self.latency_p95) if self.latency_p95 else None

    @property
    def memory_bytes(self) -> int | None:
        """Limit in bytes, or None."""
        return parse_bytes(self.memory) if self.memory else None

    @property
    def energy_mj(self) -> float | None:
        """Limit in mJ for one image, or None."""
        return parse_mj(self.energy) if self.energy else None


class Int8(Record):
    """The form of INT8 graph for the device's runtime."""

    quantizer: str = Field(description="a file name in tlexport/quantizers/")
    activations: Literal["uint8", "int8"] = Field(description="type of quantized activations")


class Match(Record):
    """How to recognize the device."""

    machine: str = Field(description="platform.machine(), such as x86_64 or aarch64")
    device_tree: str | None = Field(None, description="text in /proc/device-tree/model or /proc/device-tree/compatible of the board")
    cpu: str | None = Field(None, description="text in the 'model name' of /proc/cpuinfo")
    gpu: Literal["nvidia"] | None = Field(None, description="nvidia: a GPU with NVIDIA's driver")


class Software(Record):
    """The software of the device that a model depends on."""

    jetpack: Fact[str] | None = Field(None, description="release of NVIDIA's software for the board")
    l4t: Fact[str] | None = Field(None, description="release of the operating system in JetPack, such as 36.5.0")
    python: Fact[Annotated[str, Field(pattern=r"^\d+\.\d+(\.\d+)*$")]] | None = Field(
        None, description="version of the operating system's Python"
    )
    cuda: Fact[str] | None = Field(None, description="version")
    tensorrt: Fact[Annotated[str, Field(pattern=r"^\d+\.\d+(\.\d+)*$")]] | None = Field(None, description="version, such as 10.3.0")


class Hardware(Record):
    """Figures of the device. Peaks are dense, without sparsity."""

    cpu: Fact[str] = Field(description="in words")
    cores: Fact[Annotated[int, Field(ge=1)]] = Field(description="CPU cores that are on")
    memory_mb: Fact[Annotated[int, Field(ge=1)]] = Field(description="10^6 bytes; shared with the GPU on a Jetson")
    bandwidth_gb_s: Fact[Positive] | None = Field(None, description="of the memory, 10^9 bytes per second")
    gpu: Fact[str] | None = Field(None, description="in words")
    compute_capability: Fact[Annotated[str, Field(pattern=r"^\d+\.\d+$")]] | None = Field(None, description="of an NVIDIA GPU")
    cpu_mhz: Fact[Positive] | None = Field(None, description="highest clock of the cores that are on")
    gpu_mhz: Fact[Positive] | None = Field(None, description="highest clock of the GPU")
    fp32_tflops: Fact[Positive] | None = Field(None, description="of the GPU if there is one, else of all cores")
    fp16_tflops: Fact[Positive] | None = Field(None, description="likewise; left out if FP16 is not computed natively")
    int8_tops: Fact[Positive] | None = Field(None, description="likewise; left out if there is no fast 8-bit arithmetic")
    power_w: Fact[Positive] | None = Field(None, description="power limit of the board or module, watts")


class Profile(Record):
    """A target device, in one of its power modes. Export follows it, and a bundle contains it."""

    format: Literal[1] = 1
    name: str = Field(pattern=NAME, description="the file's name without .toml")
    mode: str | None = Field(None, pattern=NAME, description="the power mode whose figures these are; None: no mode")
    title: str = Field(description="common name of the device")
    runtime: Literal["onnxruntime", "tensorrt"] = Field(description="tensorrt: the engine is built on the device, from the bundle")
    device: Literal["cuda"] | None = Field(None, description="cuda: ONNX Runtime computes on the NVIDIA GPU; left out: on the CPU")
    opset: Fact[Annotated[int, Field(ge=13, le=25)]] = Field(description="opset of the exported graphs")
    input_dtype: Fact[Literal["uint8", "float32"]] = Field(description="type of the image tensor; values are 0..255 either way")
    precisions: Fact[Annotated[tuple[Precision, ...], Field(min_length=1), AfterValidator(_distinct)]] = Field(
        description="the precisions of a bundle for the device; the source states which of them the device accelerates"
    )
    int8: Int8 | None = None
    workspace_mb: Fact[Annotated[int, Field(ge=16)]] | None = Field(None, description="TensorRT builder workspace, 2^20 bytes")
    match: Match
    software: Software = Software()
    hardware: Hardware
    budget: Budget
    latency: tuple[BoardRates, ...] = Field((), description="speed of the board, fitted to published latencies")
    calibration: tuple[CalibratedModel, ...] = Field((), description="measured on the device: tlx profiles calibrate")
    sharpened: tuple[Sharpened, ...] = Field((), description="from real runs on the device: tlx profiles calibrate --from")

    @property
    def target(self) -> str:
        """The value of ``--target`` for this profile: ``NAME`` or ``NAME:MODE``."""
        return f"{self.name}:{self.mode}" if self.mode else self.name

    @property
    def tensorrt(self) -> tuple[int, ...] | None:
        """Version of TensorRT that runs the models, such as ``(10, 3, 0)``; None: ONNX Runtime runs them."""
        if self.runtime != "tensorrt" or self.software.tensorrt is None:
            return None
        return tuple(int(part) for part in self.software.tensorrt.value.split("."))

    @property
    def float_weights(self) -> bool:
        """Whether an INT8 model stores its weights in FP32, each with a Q/DQ pair, for a TensorRT that may refuse INT8 constants."""
        return self.tensorrt is not None and self.tensorrt < INT8_CONSTANTS

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if "fp32" not in self.precisions.value:
            raise ValueError("precisions must contain 'fp32': the other precisions are compared with that model")
        if ("int8" in self.precisions.value) != (self.int8 is not None):
            raise ValueError("[int8] is required if precisions contains 'int8', and not allowed otherwise")
        if (self.runtime == "tensorrt") != (self.workspace_mb is not None):
            raise ValueError("workspace_mb is required if runtime is 'tensorrt', and not allowed otherwise")
        if (self.runtime == "tensorrt") != (self.software.tensorrt is not None):
            raise ValueError("[software.tensorrt] is required if runtime is 'tensorrt', and not allowed otherwise")
        if self.runtime == "tensorrt" and self.device is not None:
            raise ValueError("device is for runtime 'onnxruntime'; TensorRT runs on the GPU anyway: leave it out")
        if beyond := "; ".join((*self._beyond_tensorrt(), *self._beyond_python())):
            raise ValueError(beyond)
        for name, tables in (("calibration", self.calibration), ("sharpened", self.sharpened)):
            keys = [table.key for table in tables]
            if twice := next((key for key in keys if keys.count(key) > 1), None):
                raise ValueError("{} has two tables for {}, {} and {} threads".format(name, *twice))
        return self

    def _beyond_python(self) -> Iterator[str]:
        """The settings that the newest ONNX Runtime for the board's Python does not support."""
        if self.runtime != "onnxruntime" or self.software.python is None:
            return
        python = tuple(int(part) for part in self.software.python.value.split(".")[:2])
        newest, opset = next(((version, opset) for since, version, opset in reversed(PYTHON_OPSETS) if since <= python), ("", 0))
        if self.opset.value > opset:
            name = self.software.python.value
            reads = f"ONNX Runtime {newest}, the newest for Python {name}, reads up to {opset}" if opset else f"Python {name} is too old"
            yield f"opset {self.opset.value}: {reads}"

    def _beyond_tensorrt(self) -> Iterator[str]:
        """The settings that the board's TensorRT does not support."""
        if self.software.tensorrt is None:
            return
        version = tuple(int(part) for part in self.software.tensorrt.value.split("."))
        newest = newest_opset(version)
        if self.opset.value > newest:
            yield f"opset {self.opset.value}: the ONNX parser of TensorRT {self.software.tensorrt.value} reads up to {newest}"
        if self.input_dtype.value == "uint8" and version < UINT8_INPUT:
            yield f"input_dtype uint8: TensorRT {self.software.tensorrt.value} has no such input (8.5 is the first); use float32"
        capability = self.hardware.compute_capability
        if capability is not None and capability.value in NO_INT8 and "int8" in self.precisions.value:
            yield f"precisions: a GPU of compute capability {capability.value} has no INT8 arithmetic; leave out 'int8' and [int8]"

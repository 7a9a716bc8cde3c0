"""The protocols that plug-ins fill. A plug-in is a module; its functions and constants are the protocol's members."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from tlexport.contract import TensorSpec

if TYPE_CHECKING:
    import onnx
    from torch import nn

Array = npt.NDArray[Any]
Pixels = npt.NDArray[np.uint8]
Range = tuple[float, float]  # least and largest value that is told apart


@dataclass(frozen=True)
class RunOptions:
    """How a runtime is to run a model. Nothing here is a wish: a runtime that cannot do it raises."""

    device: str = "cpu"  # "cpu", or "cuda:N"
    threads: int | None = None  # intra-op CPU threads; None: the runtime's own choice
    batch: int | None = None  # fix the free batch axis to this length, so that the runtime can plan for it; None: any
    axes: Mapping[str, int] = field(default_factory=dict)  # lengths of other free axes, by their names
    profile: Path | None = None  # the runtime writes its own profile to a file that begins so, when the runner is left
    external_data: bool = False  # the weights may be in files beside the model, which the caller has examined
    simulate_quantization: bool = False  # compute Q/DQ pairs as written, in float, instead of fusing them into integer kernels


class Runner(Protocol):
    """A model that is open and ready. Parity, accuracy and latency are each written once against this."""

    provider: str  # what really runs it, as the runtime reports it after opening: "CPUExecutionProvider", "torch-cpu", ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The tensors that :meth:`run` takes."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The tensors that :meth:`run` gives."""
        ...

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute all outputs. The arrays have the dtypes and shapes of ``inputs``; the results are fresh arrays."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


class LayerTime(NamedTuple):
    """Duration of one layer in one run."""

    name: str
    kind: str  # the runtime's own name of the operation; empty if unknown
    ms: float


@runtime_checkable
class LayerTimer(Runner, Protocol):
    """A runner that can time its layers while the model is open."""

    def layer_times(self, runs: int) -> tuple[LayerTime, ...]:
        """Median time of each layer over ``runs`` runs on the input of the last run, in the order of execution."""
        ...


class Runtime(Protocol):
    """``tlexport/runtimes/<name>.py``."""

    FORMATS: tuple[str, ...]  # what it opens: "onnx", "checkpoint", "engine"

    def auto_device(self) -> str:
        """What ``--device auto`` stands for here: a device name that :meth:`open_model` takes."""
        ...

    def open_model(self, path: Path, options: RunOptions) -> Runner:
        """Open a model file or directory.

        Raises:
            MissingDependency: the runtime's library is not installed.
            Unsupported: it cannot run on ``options.device``, or would silently run elsewhere.
            InvalidFile: not a model of this runtime.
        """
        ...


@dataclass(frozen=True)
class Traits:
    """What is not as usual about a family; the defaults are what is usual."""

    builder: Mapping[str, Any] = field(default_factory=dict)  # arguments for torchvision's builder
    left_out: tuple[str, ...] = ()  # name prefixes in files of weights that belong to parts which the network is built without
    # mean and standard deviation (RGB, of pixels scaled to 0..1) of what the ImageNet weights saw; None: as torchvision's preset says
    normalisation: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None
    smallest: int = 1  # side of the least image that the network can take, pixels


class Backbone(Protocol):
    """``tlexport/backbones/<family>.py``: one family of torchvision classifiers. Members with a default are optional."""

    VARIANTS: Mapping[str, tuple[str, ...]]  # torchvision's builder names, each with the names of its stages, which need no torch then
    TRAITS: Traits = Traits()

    def stages(self, net: nn.Module) -> dict[str, nn.Module]:
        """The network cut into stages, from ``stem`` to ``head``, in order.

        The stages share their modules with ``net``; applied one after the other they compute what ``net`` computes in
        evaluation mode. The last trunk stage gives (batch, features): global pooling and flattening are in the trunk, so that
        what is kept for each image of a frozen trunk is small. Where the classifier is a convolution and pools what it
        gives (SqueezeNet), ``head`` starts from (batch, channels, height, width).
        """
        ...

    def replace_classifier(self, net: nn.Module, num_classes: int) -> None:
        """Put a freshly initialised last layer for ``num_classes`` in place."""
        ...


WEIGHTED = ("Conv", "Gemm", "MatMul")  # operators whose weights are quantized

# opset from which a scale of QuantizeLinear and DequantizeLinear may be FP16 (ONNX's changelog of both): a strongly typed network of
# TensorRT takes the type of what is dequantized from its scale
TYPED_SCALES = 19


@dataclass(frozen=True)
class QuantizeRequest:
    """What a quantizer works on. It returns a new graph and leaves this one unchanged."""

    model: onnx.ModelProto  # FP32, with the image contract at its borders
    ranges: Mapping[str, Range]  # of every float activation, on training images; 0 is in each
    activations: Literal["uint8", "int8"]  # type of quantized activations, as the profile's runtime wants it
    float_nodes: frozenset[str] = frozenset()  # names of nodes that stay in float, whatever else does
    variant: str = ""  # one of the quantizer's; "" is the first
    float_weights: bool = False  # for TensorRT: the file holds INT8 weights in FP32, each with a Q/DQ pair


class Quantizer(Protocol):
    """``tlexport/quantizers/<name>.py``. Members with a default are optional."""

    PRECISION: str
    METHOD: str  # one line for the artifact's record
    # names of alternative graphs whose speed depends on the machine, as the record states them; the first if none can be timed
    VARIANTS: tuple[str, ...] = ("",)
    # FP32 graph -> graph with INT8 weights and float arithmetic; None: the runtime does not support one
    weight_only: Callable[[onnx.ModelProto], onnx.ModelProto] | None = None

    def quantize(self, request: QuantizeRequest) -> onnx.ModelProto:
        """The same function in lower precision, with the same inputs and outputs."""
        ...


class Task(Protocol):
    """A running step: call it to move its bar."""

    def __call__(self, advance: int, text: str = "") -> None:
        """Move on by ``advance`` units; ``text`` replaces what stands beside the bar. One that ends in a newline stays, as a line."""
        ...


class Progress(Protocol):
    """Where the verbs tell what they are doing. Never carries results."""

    def task(self, title: str, total: int) -> AbstractContextManager[Task]:
        """A step of ``total`` units."""
        ...

    def note(self, text: str) -> None:
        """Something the user should know: a decision that was made for them, a warning."""
        ...


class Silent:
    """A Progress that says nothing."""

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Task]:
        """See Progress."""
        yield lambda advance, text="": None

    def note(self, text: str) -> None:
        """See Progress."""

"""The protocols of plug-ins. A plug-in is a module; its functions and constants are the members of the protocol."""

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
    from torch import Tensor, nn

Array = npt.NDArray[Any]
Pixels = npt.NDArray[np.uint8]
Range = tuple[float, float]  # smallest and largest quantized value


@dataclass(frozen=True)
class RunOptions:
    """Settings for running a model. All are mandatory: a runtime that does not support one raises."""

    device: str = "cpu"  # "cpu", or "cuda:N"
    threads: int | None = None  # intra-op CPU threads; None: the runtime's own choice
    batch: int | None = None  # fix the free batch axis to this length, so that the runtime can plan for it; None: any
    axes: Mapping[str, int] = field(default_factory=dict)  # lengths of other free axes, by their names
    profile: Path | None = None  # prefix of the file to which the runtime writes its own profile when the runner is closed
    external_data: bool = False  # the weights may be in files beside the model, which the caller has checked
    simulate_quantization: bool = False  # compute Q/DQ pairs as written, in float, instead of fusing them into integer kernels


class Runner(Protocol):
    """An open model. Parity, accuracy and latency are each implemented once, for this protocol."""

    provider: str  # the provider that runs the model, as reported by the runtime after opening: "CPUExecutionProvider", "torch-cpu", ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs of :meth:`run`."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs of :meth:`run`."""
        ...

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute all outputs. The arrays have the dtypes and shapes of ``inputs``; the results are new arrays."""
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

    FORMATS: tuple[str, ...]  # model formats that it opens: "onnx", "checkpoint", "engine"

    def auto_device(self) -> str:
        """The device of ``--device auto`` on this machine: a device name for :meth:`open_model`."""
        ...

    def open_model(self, path: Path, options: RunOptions) -> Runner:
        """Open a model file or directory.

        Raises:
            MissingDependency: the runtime's library is not installed.
            Unsupported: it cannot run on ``options.device``, or would silently run elsewhere.
            InvalidFile: not a model of this runtime.
        """
        ...


class Packaged(NamedTuple):
    """Pretrained weights in a package on the package index."""

    package: str
    sha256: str  # of the file of weights


@dataclass(frozen=True)
class Traits:
    """The peculiarities of a family. The defaults suit most families."""

    builder: Mapping[str, Any] = field(default_factory=dict)  # arguments for the source's builder
    left_out: tuple[str, ...] = ()  # prefixes of weights to ignore: parts that the network is built without
    # mean and standard deviation (RGB, of pixels scaled to 0..1) for the pretrained weights; None: those of the source's preset
    normalisation: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None
    smallest: int = 1  # side of the smallest input of the network, pixels
    packages: Mapping[str, Packaged] = field(default_factory=dict)  # variant -> its pretrained weights in a package
    top1: Mapping[str, float] = field(default_factory=dict)  # variant -> published ImageNet top-1, %, if the source does not state it


@dataclass(frozen=True)
class Preset:
    """The preprocessing of a network's pretrained weights, and what was published about them."""

    size: int  # side of the input, pixels
    resize: int  # shorter side before the central crop, pixels
    interpolation: str  # "bilinear" or "bicubic"
    mean: tuple[float, ...]  # RGB, of pixels scaled to 0..1
    std: tuple[float, ...]
    weights: str  # the source's name of the weights
    top1: float | None  # on ImageNet-1k, %; None: not published
    licence: str | None  # SPDX identifier; None: unknown
    terms: str  # origin and terms of use of the weights, for the model card


@dataclass(frozen=True)
class Pretrained:
    """Pretrained weights with 1000 classes."""

    state: Mapping[str, Tensor]  # under the parameter names of the source's network
    origin: str  # the file or package that they were read from
    sha256: str  # of that file


class ModelSource(Protocol):
    """``tlexport/model_sources/<name>.py``: a library that builds networks.

    The file can be imported without the library. Members with a default are optional.
    """

    LICENCE: str  # SPDX identifier of the code that builds the networks
    # changes a module in evaluation mode for speed, in place: what computes its padding from the size of its input gets the padding for
    # the size of the example, an input of the module; None: all padding is constant
    pad_statically: Callable[[nn.Module, Tensor], None] | None = None

    def build(self, variant: str, traits: Traits) -> nn.Module:
        """A randomly initialised network with 1000 classes. Raises MissingDependency if the library is not installed."""
        ...

    def preset(self, variant: str, traits: Traits) -> Preset:
        """The preprocessing and the figures of the pretrained weights, without loading them."""
        ...

    def pretrained(self, variant: str, traits: Traits) -> Pretrained:
        """The pretrained weights, without executing code from their file.

        Raises:
            MissingDependency: the weights are neither on this machine nor reachable; names the file to fetch and where to put it.
            StepFailed: they cannot be stored.
            InvalidFile: a file that is damaged or does not fit the network.
        """
        ...


class Backbone(Protocol):
    """``tlexport/backbones/<family>.py``: one family of classifiers. Members with a default are optional."""

    VARIANTS: Mapping[str, tuple[str, ...]]  # the source's builder names with their stage names, available without torch
    SOURCE: str = "torchvision"  # a file name in tlexport/model_sources/
    TRAITS: Traits = Traits()

    def stages(self, net: nn.Module) -> dict[str, nn.Module]:
        """The network as a sequence of stages, from ``stem`` to ``head``.

        The stages share their modules with ``net``; in sequence they compute the same function as ``net`` in evaluation mode. The
        last trunk stage outputs (batch, features): global pooling and flattening are in the trunk, so that the cached features of a
        frozen trunk are small. If the classifier is a convolution with pooling (SqueezeNet), ``head`` takes
        (batch, channels, height, width).
        """
        ...

    def replace_classifier(self, net: nn.Module, num_classes: int) -> None:
        """Replace the last layer by a new one for ``num_classes``."""
        ...


WEIGHTED = ("Conv", "Gemm", "MatMul")  # operators whose weights are quantized

# opset from which a scale of QuantizeLinear and DequantizeLinear may be FP16 (ONNX's changelog of both): a strongly typed network of
# TensorRT derives the type of the dequantized tensor from the scale
TYPED_SCALES = 19


@dataclass(frozen=True)
class QuantizeRequest:
    """The input of a quantizer. The quantizer returns a new graph and does not change this one."""

    model: onnx.ModelProto  # FP32, with the inputs and outputs of the image contract
    ranges: Mapping[str, Range]  # of every float activation, on training images; 0 is in each
    activations: Literal["uint8", "int8"]  # type of quantized activations for the profile's runtime
    float_nodes: frozenset[str] = frozenset()  # names of nodes that must stay in float
    variant: str = ""  # one of the quantizer's variants; "": the first
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
        """The graph in lower precision, with the same inputs and outputs."""
        ...


class Task(Protocol):
    """A running step. Call it to advance its bar."""

    def __call__(self, advance: int, text: str = "") -> None:
        """Advance by ``advance`` units. ``text`` replaces the text beside the bar; if it ends in a newline, it is printed as a line."""
        ...


class Progress(Protocol):
    """The progress reports of the verbs. It never carries results."""

    def task(self, title: str, total: int) -> AbstractContextManager[Task]:
        """A step of ``total`` units."""
        ...

    def note(self, text: str) -> None:
        """A note for the user: an automatic decision, or a warning."""
        ...


class Silent:
    """A Progress that reports nothing."""

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Task]:
        """See Progress."""
        yield lambda advance, text="": None

    def note(self, text: str) -> None:
        """See Progress."""

"""The protocols that plug-ins fill. A plug-in is a module; its functions and constants are the protocol's members."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt

from tlexport.contract import Preprocess, TensorSpec

if TYPE_CHECKING:
    import onnx
    from torch import nn

Array = npt.NDArray[Any]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class RunOptions:
    """How a runtime is to run a model. Nothing here is a wish: a runtime that cannot do it raises."""

    device: str = "cpu"  # "cpu", or "cuda:N"
    threads: int | None = None  # intra-op CPU threads; None: the runtime's own choice
    batch: int | None = None  # fix the free batch axis to this length, so that the runtime can plan for it; None: any
    simulate_quantization: bool = False  # compute Q/DQ pairs as written, in float, instead of fusing them into integer kernels


class Runner(Protocol):
    """A model that is open and ready. Parity, accuracy and latency are each written once against this."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    provider: str  # what really runs it, as the runtime reports it after opening: "CPUExecutionProvider", "torch-cpu", ...

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute all outputs. The arrays have the dtypes and shapes of ``inputs``; the results are fresh arrays."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


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


class Backbone(Protocol):
    """``tlexport/backbones/<family>.py``: one family of torchvision classifiers."""

    VARIANTS: tuple[str, ...]  # torchvision's builder names

    def stages(self, net: nn.Module) -> dict[str, nn.Module]:
        """The network cut into stages, from ``stem`` to ``head``, in order.

        The stages share their modules with ``net``; applied one after the other they compute what ``net`` computes in
        evaluation mode. The last trunk stage ends in pooling and flattening, so that ``head`` starts from (batch, features).
        """
        ...

    def replace_classifier(self, net: nn.Module, num_classes: int) -> None:
        """Put a freshly initialised last layer for ``num_classes`` in place."""
        ...


@dataclass(frozen=True)
class QuantizeRequest:
    """What a quantizer works on. It returns a new graph and leaves this one unchanged."""

    model: onnx.ModelProto  # FP32, with the image contract at its borders
    samples: Pixels  # uint8 (image, height, width, channel): class-balanced training images; empty where NEEDS_SAMPLES is False
    preprocess: Preprocess
    activations: Literal["uint8", "int8"]  # type of quantized activations, as the profile's runtime wants it


class Quantizer(Protocol):
    """``tlexport/quantizers/<name>.py``."""

    PRECISION: str
    NEEDS_SAMPLES: bool
    METHOD: str  # one line for the artifact's record

    def quantize(self, request: QuantizeRequest) -> onnx.ModelProto:
        """The same function in lower precision, with the same inputs and outputs."""
        ...


class Task(Protocol):
    """A running step: call it to move its bar."""

    def __call__(self, advance: int, text: str = "") -> None:
        """Move on by ``advance`` units; ``text`` replaces what stands beside the bar."""
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

"""TensorRT: opens engines that were built on this machine with its GPU and TensorRT version."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tlexport.bundle.device_errors import as_ours
from tlexport.contract import TensorSpec
from tlexport.device.runtimes import engine
from tlexport.errors import Unsupported, UsageError
from tlexport.ports import LayerTime, RunOptions

if TYPE_CHECKING:
    from tlexport.device.runtimes.engine_run import Session
    from tlexport.device.runtimes.engine_tensors import EngineTensor
    from tlexport.ports import Array

FORMATS = ("engine",)


def auto_device() -> str:
    """The first GPU; TensorRT requires one."""
    return "cuda:0"


def open_model(path: Path, options: RunOptions) -> TensorrtRunner:
    """Open an engine.

    Raises:
        MissingDependency: TensorRT's Python bindings, or the CUDA runtime, are not installed.
        Unsupported: no such GPU; the engine is for another version or other batches; ``simulate_quantization``.
        InvalidFile: not an engine.
        UsageError: ``options.device`` is not a GPU, or CPU threads were requested.
    """
    match = re.fullmatch(r"cuda:([0-9]+)", options.device)
    if not match:
        raise UsageError(f"TensorRT runs engines on NVIDIA GPUs only; {options.device!r} is not one", "devices: cuda:0, cuda:1, ...")
    if options.threads is not None:
        raise UsageError("TensorRT computes on the GPU; --threads applies to the CPU", "leave --threads out")
    if options.simulate_quantization:
        raise Unsupported(
            f"{path} is an engine with fused quantized layers; quantization cannot be simulated in it",
            "open the ONNX file that it was built from, with --device cpu",
        )
    with as_ours(), contextlib.ExitStack() as opened:
        session = opened.enter_context(engine.open_engine(path, int(match[1])))
        least, most = session.batch
        if options.batch is not None and not least <= options.batch <= most:
            allowed = str(most) if least == most else f"{least} to {most}"
            raise Unsupported(
                f"{path} was built for batches of {allowed}, but the requested batch is {options.batch}", "build an engine for that batch"
            )
        opened.pop_all()  # the runner closes the session
        return TensorrtRunner(session)


class TensorrtRunner:
    """An open engine; see :class:`tlexport.ports.Runner`.

    Attributes:
        session: the open engine.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.provider: str = session.provider
        least, most = session.batch
        self.inputs = tuple(_spec(tensor, least != most) for tensor in session.inputs)
        self.outputs = tuple(_spec(tensor, least != most) for tensor in session.outputs)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute all outputs.

        Raises:
            Unsupported: an input is missing, or its dtype or shape does not fit the engine.
            StepFailed: TensorRT could not compute it.
        """
        with as_ours():
            return self.session.compute(feeds)

    def layer_times(self, runs: int) -> tuple[LayerTime, ...]:
        """Median time of each layer; see :meth:`tlexport.device.runtimes.engine_run.Session.layer_times`."""
        with as_ours():
            kinds = {layer.name: layer.kind for layer in self.session.layers().layers}
            return tuple(LayerTime(name, kinds.get(name, ""), ms) for name, ms in self.session.layer_times(runs))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with as_ours():
            self.session.close()


def _spec(tensor: EngineTensor, free: bool) -> TensorSpec:
    shape: list[int | str] = ["batch" if free else tensor.usual[0], *tensor.usual[1:]]
    return TensorSpec.model_validate({"name": tensor.name, "dtype": tensor.dtype, "shape": shape})

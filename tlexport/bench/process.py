"""Measure a model in its own process, so that load time and peak memory are those of the model.

The child, ``python -m tlexport.bench.process``, reads the request as one line of JSON from standard input, which stays open while this
process runs, and writes the answer as JSON to standard output.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter_ns
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from tlexport import plugins
from tlexport.artifact import Precision
from tlexport.bench.environment import default_threads, describe_machine
from tlexport.bench.layers import RUNS, engine_profile, profile, prove
from tlexport.bench.stages import time_stages
from tlexport.bench.synthetic_inputs import synthetic_inputs
from tlexport.bench.watching import gpu_memory_used, watching
from tlexport.child import PARENT, Failure, deadline, death, limit_memory, run
from tlexport.contract import Preprocess
from tlexport.device import lifeline
from tlexport.device.board.environment import peak_memory_bytes
from tlexport.device.timing import time_runs
from tlexport.errors import InvalidFile, StepFailed, TlxError, Unsupported
from tlexport.measurement import Measurement
from tlexport.ports import RunOptions
from tlexport.record import Record
from tlexport.storage.untrusted import read_npy

if TYPE_CHECKING:
    from tlexport.contract import TensorSpec
    from tlexport.ports import Array, Runner, Runtime

LONGEST_RUN = 100.0  # seconds to open an external model, or of its first run: a loop in it may never end
INPUT_BYTES = 8_000_000  # maximum size of the input data (at least one batch), because it counts towards the measured memory


class BenchRequest(Record):
    """The model to measure and the settings."""

    what: str = Field(description="the user's name of the model")
    path: Path
    runtime: str = Field(description="a file name in tlexport/runtimes/")
    device: str = Field("cpu", description="'cpu', or 'cuda:N'")
    threads: int | None = Field(None, ge=1, description="None: one for each usable physical core")
    batch: int = Field(1, ge=1)
    artifact_sha256: str
    precision: Precision | Literal["engine", "other"]
    size_bytes: int = Field(ge=1)
    inputs: Path | None = Field(None, description=".npy, (image, ...) of the model's input dtype, used in turn; None: random, as declared")
    shapes: dict[str, tuple[int, ...]] = Field({}, description="shapes of synthetic inputs with free axes other than the first")
    axes: dict[str, int] = Field({}, description="lengths of the model's free axes other than 'batch', by name")
    images: tuple[Path, ...] = Field((), description="image files for timing end to end; empty: not timed")
    preprocess: Preprocess | None = Field(None, description="how image files enter the model")
    external: bool = Field(
        False, description="an ONNX file outside a bundle: its data may be in files beside it, and its memory and time are limited"
    )
    profile: bool = Field(False, description="ask the runtime's profiler which node ran where")
    layers: bool = Field(False, description="also time each layer")
    min_runs: int = Field(100, ge=1, description="with fewer than 100 runs, p99 equals the maximum")
    min_seconds: float = Field(1.0, ge=0)
    max_runs: int = Field(10_000, ge=1)
    warmup_seconds: float = Field(2.0, ge=0, description="longest warm-up")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.max_runs < self.min_runs:
            raise ValueError(f"max_runs ({self.max_runs}) is less than min_runs ({self.min_runs})")
        if self.images and (self.preprocess is None or self.batch != 1):
            raise ValueError("images are timed one at a time, and preprocess says how they enter the model")
        return self

    def absolute(self) -> BenchRequest:
        """The same request with absolute paths, for a process with another working directory."""
        paths = {"path": self.path.absolute(), "inputs": self.inputs and self.inputs.absolute()}
        return self.model_copy(update=paths | {"images": tuple(image.absolute() for image in self.images)})


_ANSWER: TypeAdapter[Measurement | Failure] = TypeAdapter(Measurement | Failure)


def measure(request: BenchRequest) -> Measurement:
    """Measure one model in a new process and wait for it. The child always ends with this process.

    The load time is the time to open the model; the runtime's library is imported before, and the file is usually cached. Peak memory
    covers the whole process: Python, the runtime's library, the model and its working memory.

    Raises:
        StepFailed: the process died; with the last lines it wrote.
        Unsupported: the runtime crashed on the model, or needs longer than ``LONGEST_RUN`` for one run of an external one.
        TlxError: any error of the child.
    """
    code, answers, log = run("tlexport.bench.process", request.absolute().model_dump_json())
    try:
        answer = _ANSWER.validate_json(answers.rpartition("\n")[2])  # the last line: the start of Python may have printed others
    except ValidationError:
        raise death(f"measuring {request.what}", code, log) from None
    print(log, end="", file=sys.stderr)
    if isinstance(answer, Failure):
        raise answer.as_error()
    return answer


def main() -> int:
    """The child: read a request from standard input and measure it. Returns the exit code."""
    orders = follow_parent()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # output of libraries goes to standard error
        try:
            answer: Measurement | Failure = _measure(BenchRequest.model_validate_json(orders.get() or ""))
        except TlxError as error:
            answer = Failure.of(error)
        answers.write(answer.model_dump_json())
    return 0


def follow_parent() -> SimpleQueue[str | None]:
    """End with the parent from now on. Returns a queue of the parent's lines, with None at the end."""
    lifeline.end_with_parent()
    orders: SimpleQueue[str | None] = SimpleQueue()
    lifeline.follow(sys.stdin, orders.put, int(os.environ.get(PARENT, os.getppid())))
    return orders


def run_options(request: BenchRequest, runtime: Runtime) -> RunOptions:
    """Options for opening the model. Engines compute on the GPU and ignore CPU threads."""
    threads = None if runtime.FORMATS == ("engine",) else request.threads or default_threads()
    # free axes of external models have other names
    batch = None if request.external or request.axes or request.shapes else request.batch
    return RunOptions(device=request.device, threads=threads, batch=batch, axes=request.axes, external_data=request.external)


def _measure(request: BenchRequest) -> Measurement:
    runtime = plugins.runtime(request.runtime)  # imports its library: not part of the time to load
    _expect_profiler(request, runtime)
    options = run_options(request, runtime)
    machine = describe_machine(request.device)
    gpu_before = gpu_memory_used(request.device)
    with open_for(request, runtime, options) as (runner, load_ns):
        feeds, inputs = feeds_for(request, runner.inputs)
        begin = perf_counter_ns()
        with deadline_for(request):
            runner.run(feeds[0])
        first_ns = perf_counter_ns() - begin
        with watching() as watch:
            runs = request.min_runs, request.min_seconds, request.max_runs, request.warmup_seconds
            warmup_runs, latencies = time_runs(runner.run, feeds, *runs)
        gpu_after = gpu_memory_used(request.device)
        measurement = Measurement(
            what=request.what,
            artifact_sha256=request.artifact_sha256,
            precision=request.precision,
            runtime=request.runtime,
            provider=runner.provider,
            threads=options.threads or 1,
            batch=request.batch,
            warmup_runs=warmup_runs,
            latencies_ns=latencies,
            load_ns=load_ns,
            peak_memory_bytes=peak_memory_bytes(),
            size_bytes=request.size_bytes,
            environment=machine,
            first_inference_ns=first_ns,
            gpu_memory_bytes=None if gpu_before is None or gpu_after is None else max(0, gpu_after - gpu_before),
            inputs=inputs,
            watch=watch,
        )
        more: dict[str, object] = {}
        if request.images and request.preprocess:
            more["stages"] = time_stages(runner, request.images, request.preprocess, request.min_seconds)
        if request.layers and (layers := engine_profile(runner, RUNS)):
            more["layers"] = layers
    return measurement.model_copy(update=more | _profiled(request, runtime, options, measurement.provider, feeds[0]))


@contextmanager
def open_for(request: BenchRequest, runtime: Runtime, options: RunOptions) -> Iterator[tuple[Runner, int]]:
    """Open the model; also returns the load time in ns. External models have limits on memory and time.

    Raises:
        Unsupported: not enough memory, or an external model fails on synthetic inputs.
        TlxError: any error of the runtime.
    """
    if request.external and request.device == "cpu":
        limit_memory()
    try:
        begin = perf_counter_ns()
        with deadline_for(request):
            opened = runtime.open_model(request.path, options)
        load_ns = perf_counter_ns() - begin
        with opened as runner:
            yield runner, load_ns
    except MemoryError:
        raise Unsupported(f"{request.what} needs more memory than this machine has free", "measure a smaller model or --batch") from None
    except StepFailed as error:
        if not request.external:
            raise
        raise Unsupported(error.message, "its inputs are drawn at random (integers are 0 or 1); another --shape may suit it") from None


def deadline_for(request: BenchRequest) -> AbstractContextManager[None]:
    """Limit the time of a step of an external model on the CPU. Engine builds may take minutes and have no limit."""
    return deadline(LONGEST_RUN) if request.external and request.device == "cpu" else nullcontext()


def _expect_profiler(request: BenchRequest, runtime: Runtime) -> None:
    """Raise Unsupported if layer times were requested but the runtime cannot measure them."""
    if request.layers and not {"onnx", "engine"} & set(runtime.FORMATS):
        raise Unsupported(
            f"--layers is for ONNX models and engines, and {request.what} runs in {request.runtime}", "export it, and bench the bundle"
        )
    if request.layers and "onnx" in runtime.FORMATS and request.device != "cpu":
        raise Unsupported(
            "ONNX Runtime's profiler measures how long it takes to launch a layer on a GPU, not how long the layer runs",
            "leave out --layers, or profile an engine: tlx bench MODEL.engine --layers",
        )


def _profiled(request: BenchRequest, runtime: Runtime, options: RunOptions, provider: str, feed: dict[str, Array]) -> dict[str, object]:
    """The results of ONNX Runtime's profiler, if requested. Raises Unsupported if a node ran on another provider."""
    if "onnx" not in runtime.FORMATS or not (request.profile or request.layers):
        return {}
    found = profile(runtime, request.path, options, feed, RUNS if request.layers else 1)
    prove(found.placement, provider, request.what)
    return {"placement": found.placement} | ({"layers": found.layers} if request.layers else {})


def feeds_for(request: BenchRequest, specs: tuple[TensorSpec, ...]) -> tuple[list[dict[str, Array]], str]:
    """The batches to run in turn (the given images, or one synthetic batch), and their description.

    Raises:
        InvalidFile: see :func:`batches`.
        Unsupported: an axis other than the first is free, so its length is unknown.
    """
    if request.inputs is not None:
        return batches(request.inputs, request.batch, specs), "real images"
    feed, words = synthetic_inputs(request.what, specs, request.batch, request.shapes)
    return [feed], f"synthetic, from the declared shapes: {'; '.join(words)}"


def batches(path: Path, batch: int, specs: tuple[TensorSpec, ...]) -> list[dict[str, Array]]:
    """Batches of the images in a .npy file, up to INPUT_BYTES. The last batch is padded with images from the start.

    Raises:
        InvalidFile: not an array of images of the model's dtype.
        Unsupported: the model has more than one input.
    """
    if len(specs) != 1:
        raise Unsupported(f"{path} is for models with one input; this one has {len(specs)}: {', '.join(spec.name for spec in specs)}")
    images = read_npy(path)
    [spec] = specs
    if images.dtype != spec.dtype or images.ndim != len(spec.shape) or not len(images):
        raise InvalidFile(f"{path} holds {images.dtype} {images.shape}; the model's input '{spec.name}' takes {spec.dtype} {spec.shape}")
    count = max(1, min(-(-len(images) // batch), INPUT_BYTES // (batch * images[0].nbytes)))
    return [{spec.name: np.take(images, np.arange(i * batch, (i + 1) * batch), axis=0, mode="wrap")} for i in range(count)]


if __name__ == "__main__":
    sys.exit(main())

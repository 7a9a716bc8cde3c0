"""Measuring in a process of its own, that does nothing else: only so are load time and peak memory the model's.

The request goes to the child as JSON on its standard input; the answer comes back as JSON on its standard output. The child is
``python -m tlexport.bench.process``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Self, cast

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from tlexport import errors, plugins
from tlexport.artifact import Precision
from tlexport.bench.environment import default_threads, describe
from tlexport.device.environment import peak_memory_bytes
from tlexport.device.timing import time_runs
from tlexport.errors import InvalidFile, StepFailed, TlxError, Unsupported
from tlexport.measurement import Measurement
from tlexport.ports import RunOptions
from tlexport.record import Record

if TYPE_CHECKING:
    from tlexport.contract import TensorSpec
    from tlexport.ports import Array, Runtime

INPUT_BYTES = 8_000_000  # of input data held in memory, or one batch: more would be measured as the model's memory


class BenchRequest(Record):
    """What to measure, and how."""

    what: str = Field(description="what the user calls it")
    path: Path
    runtime: str = Field(description="a file name in tlexport/runtimes/")
    device: str = Field("cpu", description="'cpu', or 'cuda:N'")
    threads: int | None = Field(None, ge=1, description="None: one for each usable physical core")
    batch: int = Field(1, ge=1)
    artifact_sha256: str
    precision: Precision
    size_bytes: int = Field(ge=1)
    inputs: Path | None = Field(None, description=".npy, (image, ...) of the model's input dtype, used in turn; None: random, as declared")
    min_runs: int = Field(100, ge=1, description="100 is the least that tells p99 from the maximum")
    min_seconds: float = Field(1.0, ge=0)
    max_runs: int = Field(10_000, ge=1)
    warmup_seconds: float = Field(2.0, ge=0, description="longest warm-up")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.max_runs < self.min_runs:
            raise ValueError(f"max_runs ({self.max_runs}) is less than min_runs ({self.min_runs})")
        return self


class _Failure(Record):
    """One of our errors, on its way from the child to us."""

    error: str
    message: str
    hint: str


_ANSWER: TypeAdapter[Measurement | _Failure] = TypeAdapter(Measurement | _Failure)


def measure(request: BenchRequest) -> Measurement:
    """Measure one model in a fresh process, and wait for it. When this process is interrupted, that one is ended.

    The time to load is that of opening the model, with the runtime's library imported before and the file most likely in the
    system's cache. Peak memory is the whole process's: Python, the runtime's library, the model and its working memory.

    Raises:
        StepFailed: the process died; with the last lines it wrote.
        TlxError: what the process met, as if it had been met here.
    """
    absolute = {"path": request.path.absolute(), "inputs": request.inputs and request.inputs.absolute()}
    # -P and our own search path: the child finds the modules that we found, be it in a checkout, an editable installation or a
    # wheel, and nothing that happens to lie in the working directory
    search_path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    child = subprocess.run(
        [sys.executable, "-P", "-m", "tlexport.bench.process"],
        input=request.model_copy(update=absolute).model_dump_json(),
        capture_output=True,
        env=os.environ | {"PYTHONPATH": search_path, "PYTHONIOENCODING": "utf-8"},
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    try:
        answer = _ANSWER.validate_json(child.stdout.rpartition("\n")[2])  # the last line: the start of Python may have printed others
    except ValidationError:
        raise _death(request.what, child.returncode, child.stderr) from None
    print(child.stderr, end="", file=sys.stderr)
    if isinstance(answer, _Failure):
        raise getattr(errors, answer.error)(answer.message, answer.hint)
    return answer


def _death(what: str, code: int, log: str) -> StepFailed:
    end = f"was ended by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with exit code {code} and no answer"
    lines = [f"measuring {what} failed: its process {end}", *log.splitlines()[-10:]]
    return StepFailed("\n  ".join(lines), "it may have run out of memory; try a smaller batch" if code == -9 else "")


def main() -> int:
    """The child: measure what standard input asks for. Returns the exit code."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # whatever a library prints goes to standard error
        try:
            answer: Measurement | _Failure = _measure(BenchRequest.model_validate_json(sys.stdin.read()))
        except TlxError as error:
            answer = _Failure(error=type(error).__name__, message=error.message, hint=error.hint)
        answers.write(answer.model_dump_json())
    return 0


def _measure(request: BenchRequest) -> Measurement:
    runtime = cast("Runtime", plugins.load("runtimes", request.runtime))  # imports its library: not part of the time to load
    threads = request.threads or default_threads()
    environment = describe(request.device)
    begin = perf_counter_ns()
    with runtime.open_model(request.path, RunOptions(device=request.device, threads=threads, batch=request.batch)) as runner:
        load_ns = perf_counter_ns() - begin
        feeds = feeds_for(request, runner.inputs)
        settings = request.min_runs, request.min_seconds, request.max_runs, request.warmup_seconds
        warmup_runs, latencies = time_runs(runner.run, feeds, *settings)
        return Measurement(
            what=request.what,
            artifact_sha256=request.artifact_sha256,
            precision=request.precision,
            runtime=request.runtime,
            provider=runner.provider,
            threads=threads,
            batch=request.batch,
            warmup_runs=warmup_runs,
            latencies_ns=latencies,
            load_ns=load_ns,
            peak_memory_bytes=peak_memory_bytes(),
            size_bytes=request.size_bytes,
            environment=environment,
        )


def feeds_for(request: BenchRequest, specs: tuple[TensorSpec, ...]) -> list[dict[str, Array]]:
    """The batches to run, in turn: the given images, else one batch of random pixels.

    Raises:
        InvalidFile: see :func:`batches`.
        Unsupported: an axis other than the first is free, so that there is no telling its length.
    """
    if request.inputs is not None:
        return batches(request.inputs, request.batch, specs)
    draw = np.random.default_rng(0)
    feed: dict[str, Array] = {}
    for spec in specs:
        shape = (request.batch, *(axis for axis in spec.shape[1:] if isinstance(axis, int)))
        if len(shape) != len(spec.shape):
            raise Unsupported(f"no input can be made up for {request.what}: '{spec.name}' has free axes, {spec.shape}")
        feed[spec.name] = draw.integers(0, 256, shape, dtype=np.uint8).astype(spec.dtype)  # pixels are 0..255 in every dtype
    return [feed]


def batches(path: Path, batch: int, specs: tuple[TensorSpec, ...]) -> list[dict[str, Array]]:
    """Batches of the images in a .npy file, as many as INPUT_BYTES hold; the last one is filled up from the start.

    Raises:
        InvalidFile: not an array of images of the model's dtype.
        Unsupported: the model has more than one input.
    """
    if len(specs) != 1:
        raise Unsupported(f"{path} is for models with one input; this one has {len(specs)}: {', '.join(spec.name for spec in specs)}")
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InvalidFile(f"{path} cannot be read as a .npy array: {error}") from None
    [spec] = specs
    if images.dtype != spec.dtype or images.ndim != len(spec.shape) or not len(images):
        raise InvalidFile(f"{path} holds {images.dtype} {images.shape}; the model's input '{spec.name}' takes {spec.dtype} {spec.shape}")
    count = max(1, min(-(-len(images) // batch), INPUT_BYTES // (batch * images[0].nbytes)))
    return [{spec.name: np.take(images, np.arange(i * batch, (i + 1) * batch), axis=0, mode="wrap")} for i in range(count)]


if __name__ == "__main__":
    sys.exit(main())

"""Measure a model of a bundle on this device, with the same figures as `tlx bench`."""

import math
import statistics
import sys
from typing import TYPE_CHECKING, NamedTuple, Optional

import numpy as np

from . import golden
from .board import description as board
from .board import environment
from .board import state as board_state
from .choice import split
from .errors import Unsupported, VerificationFailed
from .model import open_model
from .runtimes import engines
from .runtimes.trtexec_command import TimingOptions
from .terminal import say
from .timing import now_ns, time_runs

if TYPE_CHECKING:
    from typing import Any, Dict, List, Sequence

    import numpy.typing as npt

    from .choice import Choice
    from .manifest import Bundle

WARMUP_SECONDS = 2.0  # longest warm-up
MAX_RUNS = 10000
INPUT_BYTES = 8000000  # maximum size of the input data (at least one batch), because it counts towards the measured memory


class Settings(NamedTuple):
    """Settings of a measurement."""

    threads: Optional[int]  # CPU threads; None: one per usable physical core
    batch: int  # images per run
    runs: int  # minimum number of samples
    seconds: float  # minimum duration
    copies: bool = True  # engines: whether the latency includes copies to and from the GPU; the key "mode" records it


def measure(bundle: "Bundle", record: "Dict[str, Any]", choice: "Choice", settings: Settings) -> "Dict[str, Any]":
    """Time one model on the golden images after a warm-up.

    Args:
        bundle: the bundle.
        record: the model's record in the manifest.
        choice: runtime and device.
        settings: number and duration of the runs.

    Returns:
        All fields of a Measurement, including the raw latencies, and the derived statistics.

    Raises:
        DeviceError: see errors.py.
    """
    artifact = record["artifact"]
    told = {
        "format": 1,
        "what": record["file"],
        "artifact_sha256": artifact["sha256"],
        "precision": artifact["precision"],
        "batch": settings.batch,
    }
    if choice.runtime == "onnxruntime" and not settings.copies:
        raise Unsupported("ONNX Runtime's runs are timed from host memory to host memory", "leave out --no-copies")
    if choice.runtime != "onnxruntime":  # before clocks and sensors are read
        built = engines.ready(bundle, record, choice, say)
    with board_state.Watch() as watch:
        if choice.runtime == "trtexec":
            ran = _by_trtexec(bundle, record, choice, settings)
        else:
            ran = _by_session(bundle, record, choice, settings)
    accelerator = None
    told["size_bytes"] = artifact["size_bytes"]
    if choice.runtime != "onnxruntime":
        accelerator = engines.describe_gpu_of(choice)["gpu"]
        told["size_bytes"] = built.path.stat().st_size
    elif choice.device != "cpu":
        accelerator = choice.device
    ran["environment"] = environment.describe_environment(versions(bundle), accelerator)
    ran["environment"]["board"] = board.describe_board() if board.identity()["module"] else None
    return dict(told, **ran, board_state=watch.report(), **derived(ran["latencies_ns"], settings.batch, ran["load_ns"]))


def _by_session(bundle: "Bundle", record: "Dict[str, Any]", choice: "Choice", settings: Settings) -> "Dict[str, Any]":
    """Time in this process: from host memory to host memory, or with CUDA events and without copies."""
    threads, batch, runs = settings.threads or environment.default_threads(), settings.batch, settings.runs
    images = golden.array(bundle.checked(bundle.data["golden"]["inputs"])).astype(record["artifact"]["inputs"][0]["dtype"])
    if choice.runtime == "onnxruntime":
        from .runtimes import onnx_session

        onnx_session.load()  # not part of the load time
    else:
        open_model(bundle, record, choice, threads, batch).close()  # builds the engine, and loads the libraries
    begin = now_ns()
    with open_model(bundle, record, choice, threads, batch) as session:
        load_ns = now_ns() - begin
        warmup_runs, latencies = time_runs(session.run, feeds(images, batch), runs, settings.seconds, max(runs, MAX_RUNS), WARMUP_SECONDS)
        found = {
            "runtime": choice.runtime,
            "provider": session.provider,
            "threads": threads,
            "warmup_runs": warmup_runs,
            "latencies_ns": list(latencies),
            "load_ns": load_ns,
            "peak_memory_bytes": environment.peak_memory_bytes(),
        }
        return dict(found, **by_events(session, latencies, settings.copies)) if choice.runtime == "tensorrt" else found


def by_events(session: "Any", latencies: "Sequence[int]", copies: bool) -> "Dict[str, Any]":
    """Time an engine with CUDA events, and select the clock of the reported latency.

    Args:
        session: an open engine; it runs once more for each latency.
        latencies: durations of its runs from host memory to host memory, ns.
        copies: False: the latency is that of the GPU, without the copies.

    Returns:
        ``gpu_ms``, medians in milliseconds; ``mode``; and ``latencies_ns`` if the GPU's times replace those of the host.
    """
    times = [session.time_run() for _ in latencies]
    parts = {"compute": "compute_ms", "to_device": "to_device_ms", "to_host": "to_host_ms"}
    gpu = {name: round(statistics.median(getattr(run, field) for run in times), 4) for name, field in parts.items()}
    graph = "CUDA graph" if session.cuda_graph else "no CUDA graph"
    if copies:
        return {"gpu_ms": gpu, "mode": f"{graph}, copies to and from the GPU counted"}
    samples = [max(1, round(run.compute_ms * 1e6)) for run in times]
    return {"gpu_ms": gpu, "mode": f"{graph}, CUDA's events, copies to and from the GPU not counted", "latencies_ns": samples}


def _by_trtexec(bundle: "Bundle", record: "Dict[str, Any]", choice: "Choice", settings: Settings) -> "Dict[str, Any]":
    """Time with trtexec; the key ``mode`` records what the latency includes."""
    from .runtimes import trtexec

    recipe = engines.recipe_of(bundle, record)
    if settings.batch != recipe["shape"][0]:
        raise Unsupported(f"the engine takes {recipe['shape'][0]} image(s) at a time, not {settings.batch}", "leave out --batch")
    path = engines.ready(bundle, record, choice, say).path
    ran = trtexec.bench(
        path, recipe, TimingOptions(settings.runs, settings.seconds, transfers=settings.copies), device=split(choice.device)[1]
    )
    return dict(trtexec.measured(ran))


def derived(latencies: "Sequence[int]", batch: int, load_ns: int) -> "Dict[str, Any]":
    """Statistics of the samples (ns), named as in docs/cli.md. Percentiles use the nearest rank, so each is a real sample."""
    ordered, mean = sorted(latencies), statistics.mean(latencies)
    ranks = {f"p{p}": ordered[max(1, math.ceil(p * len(ordered) / 100)) - 1] / 1e6 for p in (50, 90, 95, 99)}
    figures = {name: round(value, 4) for name, value in ranks.items()}
    return {
        "latency_ms": dict(figures, mean=round(mean / 1e6, 4), n=len(ordered)),
        "throughput_per_s": round(batch / (mean / 1e9), 2),
        "load_ms": round(load_ns / 1e6, 3),
    }


def feeds(images: "npt.NDArray[Any]", batch: int) -> "List[npt.NDArray[Any]]":
    """Batches of the images, up to INPUT_BYTES. The last batch is padded with images from the start."""
    count = max(1, min(-(-len(images) // batch), INPUT_BYTES // (batch * images[0].nbytes)))
    return [np.take(images, np.arange(i * batch, (i + 1) * batch), axis=0, mode="wrap") for i in range(count)]


def check_only(bundle: "Bundle", record: "Dict[str, Any]", choice: "Choice", threads: "Optional[int]") -> "Dict[str, Any]":
    """Run the golden images once and compare classes and probabilities with the stored ones, without timing.

    Raises:
        VerificationFailed: a class differs, or a probability by more than the tolerance.
    """
    for name in (bundle.data["golden"]["inputs"], record["golden_outputs"]):
        bundle.checked(name)
    providers = []  # type: List[str]

    def opened(record: "Dict[str, Any]") -> "Any":
        session = open_model(bundle, record, choice, threads)
        providers.append(session.provider)
        return session

    check = golden.check_model(bundle, record, opened)
    if not check.ok:
        raise VerificationFailed(f"{check.name}: {check.detail}", "find out what differs: python3 run.py verify")
    return {
        "what": record["file"],
        "precision": record["artifact"]["precision"],
        "runtime": choice.runtime,
        "provider": providers[0],
        "checked": True,
        "detail": check.detail,
    }


def versions(bundle: "Bundle") -> "Dict[str, str]":
    """Versions of the exporter, numpy and the loaded runtime."""
    found = {"tlexport": str(bundle.data.get("versions", {}).get("tlexport", "unknown")), "numpy": np.__version__}
    for name in ("onnxruntime", "tensorrt"):
        if name in sys.modules:
            found[name] = str(getattr(sys.modules[name], "__version__", "unknown"))
    return found


def line(measured: "Dict[str, Any]") -> str:
    """A measurement as text."""
    latency, memory = measured["latency_ms"], measured["peak_memory_bytes"]
    return (
        f"{measured['what']} on {measured['provider']}, {measured['threads']} threads, batch {measured['batch']}: "
        f"p50 {latency['p50']:.3f} ms, p95 {latency['p95']:.3f} ms, n {latency['n']}; load {measured['load_ms']:.0f} ms, "
        f"peak memory {'unknown' if memory is None else f'{memory / 1e6:.0f} MB'}, {measured['size_bytes'] / 1e6:.2f} MB on disk"
    )

"""How long each layer of a graph takes, inside the graph: ONNX Runtime's own profiler, and the clock without it."""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from time import perf_counter, perf_counter_ns
from typing import Any

import numpy as np
import onnx

from tlexport.errors import StepFailed
from tlexport.estimate.graph import fused

RUNS = 7  # least number of runs of which the middle is taken: more probes say more than more runs of one
SECONDS = 0.15  # time spent on one probe, twice: with the profiler and without


def runnable(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph as this machine would run it, each node with a name of its own, so that its time can be assigned to it."""
    graph = fused(model, layout=True)
    for index, node in enumerate(graph.graph.node):
        node.name = f"{index}"
    return graph


def time_nodes(graph: onnx.ModelProto, threads: int) -> tuple[dict[str, float], float]:
    """Time every node of a :func:`runnable` graph.

    Returns:
        Time of each node that ran, by name, µs; and that of a whole run without the profiler, µs. Both are medians or the like.

    Raises:
        StepFailed: ONNX Runtime cannot run it.
    """
    feeds = _feeds(graph)
    with tempfile.TemporaryDirectory(prefix="tlx-calibrate-") as folder:
        whole = _run(_session(graph, threads, None), feeds)
        session = _session(graph, threads, Path(folder) / "profile")
        runs = len(_run(session, feeds))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return _medians(events, runs), statistics.median(whole) / 1e3


def _session(model: onnx.ModelProto, threads: int, profile: Path | None) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # it is optimized already
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except RuntimeError as error:
        raise StepFailed(f"ONNX Runtime cannot open the graph that it made itself: {str(error)[:300]}") from None


def _feeds(model: onnx.ModelProto) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    feeds = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        shape = [axis.dim_value for axis in kind.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        feeds[value.name] = draw.integers(0, 256, shape).astype(dtype) if dtype == np.uint8 else draw.standard_normal(shape).astype(dtype)
    return feeds


def _run(session: Any, feeds: dict[str, Any]) -> list[int]:
    """Durations of single runs, ns, after two for warming up."""
    for _ in range(2):
        session.run(None, feeds)
    samples: list[int] = []
    begin = perf_counter()
    while len(samples) < RUNS or (perf_counter() - begin < SECONDS and len(samples) < 500):
        start = perf_counter_ns()
        session.run(None, feeds)
        samples.append(perf_counter_ns() - start)
    return samples


def _medians(events: list[dict[str, Any]], runs: int) -> dict[str, float]:
    """Time of each node: the mean of the middle half of its runs, since single times are whole microseconds."""
    found: dict[str, list[int]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            found.setdefault(event["name"].removesuffix("_kernel_time"), []).append(event["dur"])
    middle = slice(runs // 4, max(runs // 4 + 1, runs - runs // 4))
    return {name: statistics.fmean(sorted(times[-runs:])[middle]) for name, times in found.items()}

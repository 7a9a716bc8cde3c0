"""Times each layer of a graph inside the graph, with ONNX Runtime's profiler, and whole runs without it."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from time import perf_counter, perf_counter_ns
from typing import Any

import numpy as np
import onnx

from tlexport.errors import StepFailed
from tlexport.estimate.graph import fused
from tlexport.storage.files import temporary_folder

VISITS = 3  # the fastest of them counts: disturbances only add time
RUNS = 3  # minimum runs in a visit: more probes give more information than more runs of one
SECONDS = 0.04  # of a visit, at least
MOST_RUNS = 100  # in a visit


def runnable(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph as this machine would run it, with a unique name for each node, so that times can be assigned to nodes."""
    graph = fused(model, layout=True)
    for index, node in enumerate(graph.graph.node):
        node.name = f"{index}"
    return graph


def time_nodes(graph: onnx.ModelProto, threads: int) -> tuple[dict[str, float], float]:
    """Time every node of a :func:`runnable` graph.

    Returns:
        Time of each executed node by name, µs, and time of a whole run without the profiler, µs. Both are robust averages.

    Raises:
        StepFailed: ONNX Runtime cannot run it.
    """
    feeds = _feeds(graph)
    with temporary_folder("tlx-calibrate-") as folder:
        # sequentially: the threads of an idle session spin for a while
        session = _session(graph, threads, folder / "profile")
        profiled = [len(_visit(session, feeds)) for _ in range(VISITS)]
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        del session
    session = _session(graph, threads, None)
    whole = min(statistics.median(_visit(session, feeds)) for _ in range(VISITS))
    return _node_us(events, profiled), whole / 1e3


def _session(model: onnx.ModelProto, threads: int, profile: Path | None) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # the graph is already optimized
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except RuntimeError as error:
        raise StepFailed(f"ONNX Runtime cannot open its own optimized graph: {str(error)[:300]}") from None


def _feeds(model: onnx.ModelProto) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    feeds = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        shape = [axis.dim_value for axis in kind.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        feeds[value.name] = draw.integers(0, 256, shape).astype(dtype) if dtype == np.uint8 else draw.standard_normal(shape).astype(dtype)
    return feeds


def _visit(session: Any, feeds: dict[str, Any]) -> list[int]:
    """Durations of single runs, ns, after one warm-up run."""
    session.run(None, feeds)
    samples: list[int] = []
    begin = perf_counter()
    while len(samples) < RUNS or (perf_counter() - begin < SECONDS and len(samples) < MOST_RUNS):
        start = perf_counter_ns()
        session.run(None, feeds)
        samples.append(perf_counter_ns() - start)
    return samples


def _node_us(events: list[dict[str, Any]], runs: list[int]) -> dict[str, float]:
    """Time of each node in its fastest visit: the mean of the middle runs, since single times are whole microseconds.

    Args:
        events: the profiler's events: for each node one per run, including the warm-up of each visit.
        runs: runs of each visit, without its warm-up.
    """
    found: dict[str, list[int]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            found.setdefault(event["name"].removesuffix("_kernel_time"), []).append(event["dur"])
    visits = []
    begin = 0
    for count in runs:
        middle = slice(count // 4, max(count // 4 + 1, count - count // 4))
        visits.append({name: statistics.fmean(sorted(times[begin + 1 : begin + 1 + count])[middle]) for name, times in found.items()})
        begin += 1 + count
    return min(visits, key=lambda visit: sum(visit.values()))

"""Placement and duration of layers from the runtime's profiler, in a session separate from the measured one."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from tlexport.errors import Unsupported
from tlexport.measurement import Layer, LayerProfile
from tlexport.ports import Array, LayerTimer, Runner, RunOptions, Runtime
from tlexport.storage.files import temporary_folder

SLOWEST = 10  # number of reported layers
RUNS = 30  # profiled, after WARM_UP
WARM_UP = 3
_ENDING = "_kernel_time"  # of the name of an event that is a node's own work


class Profiled(NamedTuple):
    """Contents of a profile."""

    placement: dict[str, int]  # provider -> nodes that ran on it
    layers: LayerProfile | None  # None: no node ran


def profile(runtime: Runtime, path: Path, options: RunOptions, feed: Mapping[str, Array], runs: int) -> Profiled:
    """Open an ONNX model again with the runtime's profiler enabled, and run it.

    Args:
        runtime: ONNX Runtime, whose profile format is read here.
        path: the model.
        options: the options of the measurement.
        feed: a batch.
        runs: number of runs after WARM_UP uncounted runs.
    """
    with temporary_folder("tlx-profile-") as folder:
        prefix = folder / "profile"
        with runtime.open_model(path, replace(options, profile=prefix)) as runner:
            for _ in range(WARM_UP + runs):
                runner.run(feed)
            del runner  # the profile is written when the last reference to the session is gone
        [file] = Path(folder).iterdir()
        events = json.loads(file.read_text(encoding="utf-8"))
    return read_events(events, runs)


def read_events(events: Sequence[Mapping[str, Any]], runs: int) -> Profiled:
    """ONNX Runtime's profile: one event for each run of each node, µs; fused nodes are one. Empty where all outputs are constant."""
    times: dict[str, list[int]] = {}
    about: dict[str, tuple[str, str]] = {}  # operator and provider
    for event in events:
        name = event.get("name", "")
        if event.get("cat") == "Node" and name.endswith(_ENDING):
            times.setdefault(name, []).append(event["dur"])
            about[name] = event["args"]["op_name"], event["args"]["provider"]
    found = [(name.removesuffix(_ENDING), *about[name], _in_one_run(taken, runs)) for name, taken in times.items()]
    return Profiled(dict(Counter(provider for _, provider in about.values())), _ranked(found, runs) if found else None)


def _in_one_run(taken: list[int], runs: int) -> float:
    """Time of a node in one run, µs: the mean of the middle half, since single times are whole microseconds and some are disturbed."""
    each, rest = divmod(len(taken), WARM_UP + runs)
    if rest or not each:  # a node in a branch or a loop does not run equally often in each run
        return sum(taken) / (WARM_UP + runs)
    sums = sorted(sum(taken[begin : begin + each]) for begin in range(WARM_UP * each, len(taken), each))
    quarter = len(sums) // 4
    return statistics.fmean(sums[quarter : len(sums) - quarter])


def _ranked(found: Sequence[tuple[str, str, str, float]], runs: int) -> LayerProfile:
    total = sum(us for *_, us in found)
    slowest = sorted(found, key=lambda layer: -layer[3])[:SLOWEST]
    layers = [Layer(name=n, kind=kind, provider=p, us=round(us, 3), share=us / total if total else 0.0) for n, kind, p, us in slowest]
    return LayerProfile(slowest=tuple(layers), count=len(found), total_us=round(total, 3), runs=runs)


def engine_profile(runner: Runner, runs: int) -> LayerProfile | None:
    """The layers of an open engine, timed on its last input; None if the runner cannot time layers."""
    if not isinstance(runner, LayerTimer):
        return None
    found = [(layer.name, layer.kind, runner.provider, 1e3 * layer.ms) for layer in runner.layer_times(runs)]
    return _ranked(found, runs) if found else None


def prove(placement: Mapping[str, int], provider: str, what: str) -> None:
    """Check that every node ran on the provider of the session.

    Raises:
        Unsupported: some nodes ran elsewhere, so the latency is not the provider's.
    """
    if elsewhere := {name: count for name, count in placement.items() if name != provider}:
        told = ", ".join(f"{count} on {name}" for name, count in elsewhere.items())
        raise Unsupported(
            f"{what} was to run on {provider}, and of its {sum(placement.values())} nodes ran {told}",
            "measure it where all of it runs: --device cpu",
        )

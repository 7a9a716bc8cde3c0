"""The verb ``calibrate``: this machine describes itself, by timing the layers of probe networks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from tlexport import plugins
from tlexport.artifact import Precision
from tlexport.bench.environment import describe
from tlexport.errors import Unsupported
from tlexport.estimate.cost import cost_of
from tlexport.estimate.layer_times import Probe, fit_device, probe_of
from tlexport.estimate.probes import probe
from tlexport.estimate.timing import runnable, time_nodes
from tlexport.export.ranges import Ranges
from tlexport.hardware.device_model import DeviceModel
from tlexport.hardware.profile import Profile
from tlexport.ports import Progress, Quantizer, QuantizeRequest, Silent

if TYPE_CHECKING:
    import onnx

FITTING = 0.12  # share of the time that is kept for fitting


def calibrate(
    profile: Profile, precision: Precision, threads: Sequence[int], seconds: float = 300.0, progress: Progress | None = None
) -> tuple[DeviceModel, ...]:
    """Time layers inside probe networks for a while, and fit a model for each number of threads.

    Args:
        profile: of this machine: it names the quantizer and the types that a model exported for it has.
        precision: ``fp32`` or ``int8``.
        threads: CPU threads of the runtime.
        seconds: all of it, fitting included; the result is better the longer it was.
        progress: where to tell what happens.

    Raises:
        Unsupported: the profile's runtime cannot be calibrated here, or has no such precision.
        StepFailed: too little time for anything.
    """
    progress = progress or Silent()
    if profile.runtime != "onnxruntime" or precision == "fp16" or precision not in profile.precisions.value:
        raise Unsupported(
            f"{profile.name}: {profile.runtime} in {precision} cannot be calibrated", "fp32 and int8 on ONNX Runtime's CPU provider can be"
        )
    environment = describe("cpu")
    timed: dict[int, list[Probe]] = {count: [] for count in threads}
    end = time.perf_counter() + seconds * (1 - FITTING)
    with progress.task("timing layers", round(seconds * (1 - FITTING))) as advance:
        seed, told = 0, 0
        while time.perf_counter() < end:
            graph = runnable(_in_precision(probe(seed), seed, profile, precision))
            cost, nodes = cost_of(graph), len(graph.graph.node)
            for count in threads:
                timed[count].append(probe_of(cost, nodes, *time_nodes(graph, count)))
            seed += 1
            passed = min(round(seconds * (1 - FITTING)), round(seconds * (1 - FITTING) - (end - time.perf_counter())))
            advance(passed - told, f"{seed} networks")
            told = passed
    with progress.task("fitting", len(threads)) as advance:
        models = []
        for count, probes in timed.items():
            models.append(fit_device(probes, precision, count, environment))
            advance(1)
    return tuple(models)


def _in_precision(model: onnx.ModelProto, seed: int, profile: Profile, precision: Precision) -> onnx.ModelProto:
    """A probe as it would be exported for the profile."""
    if precision == "fp32" or profile.int8 is None:
        return model
    quantizer = cast(Quantizer, plugins.load("quantizers", profile.int8.quantizer))
    shape = [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim]
    samples = np.random.default_rng(seed).integers(0, 3, (1, *shape[1:]), dtype=np.uint8)
    return quantizer.quantize(QuantizeRequest(model, Ranges(model, samples).whole, profile.int8.activations))

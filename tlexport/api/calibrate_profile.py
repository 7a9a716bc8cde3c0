"""The verb of ``tlx profiles calibrate``: times the layers of probe networks on this machine, and writes them into a profile of it."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tlexport import plugins
from tlexport.artifact import Precision
from tlexport.bench.environment import default_threads, describe_machine
from tlexport.errors import StepFailed, Unsupported
from tlexport.estimate.cost import cost_of
from tlexport.estimate.layer_times import Probe, fit_device, probe_of
from tlexport.estimate.probes import probe
from tlexport.estimate.timing import runnable, time_nodes
from tlexport.export.ranges import Ranges
from tlexport.hardware.calibration import CalibratedModel
from tlexport.hardware.device_model import DeviceModel
from tlexport.hardware.profile import Profile
from tlexport.hardware.profile_place import find_place
from tlexport.hardware.target import is_here, shipped_here
from tlexport.ports import Progress, QuantizeRequest, Silent

if TYPE_CHECKING:
    import onnx

MOST_SECONDS = 300.0
FITTING = 0.12  # share of the time that is reserved for fitting


@dataclass(frozen=True)
class Settings:
    """The layers to time, and the time to spend."""

    base: str | None = None  # the profile that a new one extends; None: the one of that name, or the shipped one of this machine
    precisions: tuple[Precision, ...] = ()  # empty: FP32 and INT8, if the profile has them
    threads: tuple[int, ...] = ()  # empty: one, and one for each core
    seconds: float = MOST_SECONDS  # for each precision
    folder: Path | None = None  # of the profile; None: where it exists, otherwise ./profiles


def calibrate_profile(name: str | None, settings: Settings, progress: Progress | None = None) -> tuple[Path, tuple[CalibratedModel, ...]]:
    """Time the layers of probe networks on this machine, and write the results into its profile.

    Args:
        name: of the profile; None: that of the shipped profile of this machine, which the user's own file then overrides.
        settings: what to time.
        progress: receives progress and notes.

    A missing profile is created as by ``tlx profiles new``. In an existing one, only the tables of the same runtime, precision and threads
    are replaced. Nothing is written before all timings are complete.

    Returns:
        The file of the profile, and its new tables.

    Raises:
        Unsupported: the profile describes another machine, does not run models on the CPU, or lacks the precision.
        UsageError: see :func:`find_place`.
        StepFailed: the time is too short, or the folder is not writable.
    """
    name = name or shipped_here()
    place = find_place(name, settings.base, settings.folder)
    precisions = _precisions(place.profile, settings)
    _expect_writable(place.path.parent)
    tables, files = [], {}
    for precision in precisions:
        threads = settings.threads or (1, default_threads())
        for model in calibrate(place.profile, precision, sorted(set(threads)), settings.seconds, progress or Silent()):
            file = f"{name}.{precision}-{model.threads}.layers.json"
            files[file] = (model.model_dump_json() + "\n").encode()
            tables.append(_table(model, precision, file, hashlib.sha256(files[file]).hexdigest()))
    place.write(tables, files)
    return place.path, tuple(tables)


def _precisions(profile: Profile, settings: Settings) -> tuple[Precision, ...]:
    if not is_here(profile):
        raise Unsupported(
            f"{profile.name} does not describe this machine, so timings here do not apply to it",
            "run it there; or describe this machine under a name of its own: tlx profiles calibrate my-pc",
        )
    if profile.runtime != "onnxruntime" or profile.device is not None:
        raise Unsupported(
            f"{profile.name} runs models on the GPU; calibration covers ONNX Runtime on a CPU",
            "measure models there: tlx bench, or in a bundle: python3 run.py build, python3 run.py bench",
        )
    both: tuple[Precision, ...] = ("fp32", "int8")
    return settings.precisions or tuple(precision for precision in both if precision in profile.precisions.value)


def _expect_writable(folder: Path) -> None:
    """Check before the minutes of timing. Raises StepFailed."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise StepFailed(f"cannot write into {folder}", "choose another --out")


def _table(model: DeviceModel, precision: Precision, file: str, sha256: str) -> CalibratedModel:
    return CalibratedModel(
        runtime="onnxruntime",
        precision=precision,
        threads=model.threads,
        file=file,
        sha256=sha256,
        date=date.today().isoformat(),
        cpu=model.environment.cpu,
        cores=model.environment.cores,
        version=model.environment.onnxruntime,
        probes=model.probes,
        error=round(model.error, 4),
        within_10=round(model.within_10, 4),
    )


def calibrate(
    profile: Profile, precision: Precision, threads: Sequence[int], seconds: float = 300.0, progress: Progress | None = None
) -> tuple[DeviceModel, ...]:
    """Time layers inside probe networks, and fit a model for each number of threads.

    Args:
        profile: of this machine; it names the quantizer and the dtypes of an exported model.
        precision: ``fp32`` or ``int8``.
        threads: CPU threads of the runtime.
        seconds: in total, with fitting; more time gives better results.
        progress: receives progress and notes.

    Raises:
        Unsupported: calibration does not cover the runtime of the profile, or the profile lacks the precision.
        StepFailed: the time is too short.
    """
    progress = progress or Silent()
    if profile.runtime != "onnxruntime" or precision == "fp16" or precision not in profile.precisions.value:
        raise Unsupported(
            f"{profile.name}: {profile.runtime} in {precision} cannot be calibrated",
            "calibrate fp32 or int8 on ONNX Runtime's CPU provider",
        )
    environment = describe_machine("cpu")
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
    """A probe as exported for the profile."""
    if precision == "fp32" or profile.int8 is None:
        return model
    quantizer = plugins.quantizer(profile.int8.quantizer)
    shape = [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim]
    samples = np.random.default_rng(seed).integers(0, 3, (1, *shape[1:]), dtype=np.uint8)
    return quantizer.quantize(QuantizeRequest(model, Ranges(model, samples).whole, profile.int8.activations))

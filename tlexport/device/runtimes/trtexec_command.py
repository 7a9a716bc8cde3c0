"""The command line of trtexec for each version. Python 3.6 syntax: this file is copied into bundles unchanged.

Which version has which option: AllOptions in samples/common/sampleOptions.cpp of NVIDIA/TensorRT, tags 8.2.1 to v11.1. The
options make all versions measure the same: TensorRT 11 changed three defaults (CUDA graph and spin wait on, copies excluded), so these
are only passed to earlier versions.
"""

import math
from typing import TYPE_CHECKING, NamedTuple, Tuple

from ..errors import InvalidFile
from .build_options import precision_flags

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any, Mapping, Optional, Union

    Name = Union[str, Path]
    Recipe = Mapping[str, Any]

MEMORY_POOLS = (8, 4)  # the first with --memPoolSize; --workspace is gone from 10 on
SKIPS_INFERENCE = (8, 6)  # the first with --skipInference; --buildOnly is gone from 10 on
FRACTIONS = (8, 5)  # the first that takes a fraction of a second for --duration
TURNED = (11,)  # CUDA graph, spin wait, no copies and a separate profile run are the default


class TimingOptions(NamedTuple):
    """How long an engine is timed, and what a run includes."""

    runs: int = 100  # minimum
    seconds: float = 1.0  # minimum; rounded up to whole seconds before TensorRT 8.5
    warmup_ms: int = 200  # runs in this time before the measurement are not counted
    transfers: bool = False  # whether copies to and from the GPU are counted


DEFAULT_TIMING = TimingOptions()


def build_command(
    version: Tuple[int, ...], onnx: "Name", engine: "Name", recipe: "Recipe", timing_cache: "Optional[Name]" = None
) -> Tuple[str, ...]:
    """Arguments that build an engine without running it.

    Args:
        version: of TensorRT.
        onnx: the model.
        engine: the file to write.
        recipe: ``input`` (name of the tensor), ``shape`` (image, height, width, channel), ``workspace_mb`` (MiB), ``precision``,
            ``opset``: a model's key ``engine`` in the manifest.
        timing_cache: file with kernel timings; read if it exists, and written.

    Raises:
        InvalidFile: a key of the recipe is missing or has an invalid value.
        Unsupported: this TensorRT cannot build that precision.
    """
    shape, workspace = shape_text(recipe), _whole(recipe, "workspace_mb")
    command = ["--onnx={}".format(onnx), "--saveEngine={}".format(engine)]
    command += ["--{}Shapes={}".format(kind, shape) for kind in ("min", "opt", "max")]
    pool = "--memPoolSize=workspace:{}" if version >= MEMORY_POOLS else "--workspace={}"
    command.append(pool.format(workspace))
    command += ["--" + flag for flag in precision_flags(version, str(recipe.get("precision")), _whole(recipe, "opset"))]
    if recipe.get("precision") == "fp32":
        command.append("--noTF32")  # on by default: it rounds factors to 10 bits
    if timing_cache is not None:
        command.append("--timingCacheFile={}".format(timing_cache))
    command.append("--skipInference" if version >= SKIPS_INFERENCE else "--buildOnly")
    return tuple(command)


def bench_command(
    version: Tuple[int, ...],
    engine: "Name",
    recipe: "Recipe",
    export_times: "Name",
    export_profile: "Optional[Name]" = None,
    timing: TimingOptions = DEFAULT_TIMING,
) -> Tuple[str, ...]:
    """Arguments that time an engine, with a CUDA graph and busy waiting, one query at a time.

    Args:
        version: of TensorRT.
        engine: the file.
        recipe: as for :func:`build_command`.
        export_times: the file for the time of each run.
        export_profile: the file for the times of the layers, measured in a run of their own after the others.
        timing: number and duration of the runs; see :class:`TimingOptions`.

    Raises:
        InvalidFile: a key of the recipe is missing or has an invalid value.
    """
    duration = "{:g}".format(timing.seconds) if version >= FRACTIONS else str(math.ceil(timing.seconds))
    command = ["--loadEngine={}".format(engine), "--shapes={}".format(shape_text(recipe))]
    command += ["--iterations={}".format(timing.runs), "--duration={}".format(duration), "--warmUp={}".format(timing.warmup_ms)]
    command.append("--exportTimes={}".format(export_times))
    if version < TURNED:
        command += ["--useCudaGraph", "--useSpinWait"]
    if timing.transfers and version >= TURNED:
        command.append("--includeDataTransfers")
    elif not timing.transfers and version < TURNED:
        command.append("--noDataTransfers")
    if export_profile is not None:
        command.append("--exportProfile={}".format(export_profile))
        if version < TURNED:
            command.append("--separateProfileRun")
    return tuple(command)


def predict_command(version: Tuple[int, ...], engine: "Name", recipe: "Recipe", pixels: str, outputs: str) -> Tuple[str, ...]:
    """Arguments that run an engine once on given pixels.

    Args:
        version: of TensorRT.
        engine: the file.
        recipe: as for :func:`build_command`.
        pixels: the file of the input tensor's bytes; a name without comma and colon, which trtexec treats as separators.
        outputs: the file for the outputs, JSON.

    Raises:
        InvalidFile: a key of the recipe is missing or invalid, or ``pixels`` contains a comma or colon.
    """
    if "," in pixels or ":" in pixels:
        raise InvalidFile("trtexec cannot read inputs from {!r}; expected a name without comma and colon".format(pixels))
    command = ["--loadEngine={}".format(engine), "--shapes={}".format(shape_text(recipe))]
    command += ["--loadInputs={}:{}".format(recipe["input"], pixels), "--exportOutput={}".format(outputs)]
    command += ["--iterations=1", "--duration=0", "--warmUp=0"]
    if version >= TURNED:  # no CUDA graph for a single run
        command += ["--includeDataTransfers", "--noCudaGraph"]
    return tuple(command)


def device_option(device: int) -> Tuple[str, ...]:
    """Option that selects a GPU other than the first."""
    return ("--device={}".format(device),) if device else ()


def shape_text(recipe: "Recipe") -> str:
    """``"image:1x224x224x3"``. Raises InvalidFile if the recipe's name or shape is missing or invalid."""
    name, shape = recipe.get("input"), recipe.get("shape")
    if not isinstance(name, str) or not name or any(mark in name for mark in ",:'"):
        raise _odd(recipe, "input", "a tensor's name without comma, colon and quote")
    if not isinstance(shape, (list, tuple)) or not shape or not all(_is_whole(axis) for axis in shape):
        raise _odd(recipe, "shape", "whole numbers from 1 on")
    return "{}:{}".format(name, "x".join(str(axis) for axis in shape))


def _whole(recipe: "Recipe", key: str) -> int:
    value = recipe.get(key)
    if not _is_whole(value):
        raise _odd(recipe, key, "a whole number from 1 on")
    return int(value)  # type: ignore[arg-type]  # it is one: the line above


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _odd(recipe: "Recipe", key: str, expected: str) -> InvalidFile:
    return InvalidFile(
        "the engine's recipe has {} = {!r}: {} was expected".format(key, recipe.get(key), expected), "export again: tlx export"
    )

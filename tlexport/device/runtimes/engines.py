"""Opens the engine of a model; builds it on this device if no compatible one exists.

Uses TensorRT's Python bindings (:mod:`.engine`) or the program trtexec (:mod:`.trtexec`).
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..choice import split
from ..errors import Unsupported

if TYPE_CHECKING:
    from typing import Any, Callable, Dict

    from ..choice import Choice
    from ..manifest import Bundle


class Built(NamedTuple):
    """A compatible engine."""

    path: Path
    built: bool  # built now, rather than found
    reason: str  # why it was built or reused
    seconds: float


def ready(bundle: "Bundle", model: "Dict[str, Any]", choice: "Choice", report: "Callable[[str], None]") -> Built:
    """The engine of a model for this TensorRT, GPU and driver. If necessary it is built, which takes minutes.

    Args:
        bundle: the bundle; the engine is kept outside it: :func:`tlexport.device.runtimes.engine_cache.place`.
        model: the model's record in the manifest.
        choice: runtime "tensorrt" or "trtexec", and a device.
        report: receives progress messages.

    Raises:
        Unsupported: the bundle has no recipe for an engine, too little memory is free, or TensorRT cannot build it.
        MissingDependency: no TensorRT.
        DeviceError: the build failed.
    """
    from . import engine_cache

    recipe = recipe_of(bundle, model)
    source = bundle.checked(model["file"])
    engine = engine_cache.place(model["artifact"]["sha256"], model["file"])
    here = describe_gpu_of(choice)
    options = dict(recipe, runtime=choice.runtime)
    gpu = here["gpu"], here["compute_capability"], here["driver"]
    key = engine_cache.Key(model["artifact"]["sha256"], options, here["tensorrt"], *gpu)
    reason = engine_cache.why_stale(engine, key)
    if not reason:
        return Built(engine, False, "the engine was built from this model, on this device", 0.0)
    from ..board import state as board_state

    board_state.preflight(board_state.needed_for_build(recipe["workspace_mb"] << 20, model["artifact"]["size_bytes"]))
    report(f"building {engine.name}: {reason}; this takes minutes, once")
    begin = time.time()
    if choice.runtime == "tensorrt":
        from . import engine as bindings

        bindings.build_engine(source, engine, recipe, report, engine.with_suffix(".timing.cache"), split(choice.device)[1])
    else:
        from . import trtexec

        trtexec.build(source, engine, recipe, report, split(choice.device)[1])
    engine_cache.write_key(engine, key)
    return Built(engine, True, reason, time.time() - begin)


def recipe_of(bundle: "Bundle", model: "Dict[str, Any]") -> "Dict[str, Any]":
    """The recipe for building the engine of a model. Raises Unsupported if the bundle has none."""
    recipe = model.get("engine")
    if not recipe:
        raise Unsupported(
            f"the bundle is for {bundle.data['target']} and holds no recipe for an engine of TensorRT",
            "export one with a recipe: tlx export --target jetson-orin-nano; or use --runtime onnxruntime",
        )
    return dict(recipe)


def describe_gpu_of(choice: "Choice") -> "Dict[str, str]":
    """Properties of this device that an engine depends on: ``tensorrt``, ``gpu``, ``compute_capability``, ``driver``.

    Raises:
        MissingDependency: no TensorRT, or no CUDA.
    """
    index = split(choice.device)[1]
    if choice.runtime == "tensorrt":
        from . import engine

        return dict(engine.describe_gpu(index))
    from . import trtexec_program
    from .build_options import version_text
    from .cuda import open_cuda

    cuda = open_cuda()
    return {
        "tensorrt": version_text(trtexec_program.ask_version(trtexec_program.find_trtexec())),
        "gpu": cuda.device_name(index),
        "compute_capability": cuda.compute_capability(index),
        "driver": cuda.driver_version(),
    }


def open_engine(bundle: "Bundle", model: "Dict[str, Any]", choice: "Choice", report: "Callable[[str], None]") -> "Any":
    """Open a model's engine, which is built first if necessary. Raises as :func:`ready`."""
    path = ready(bundle, model, choice, report).path
    if choice.runtime == "tensorrt":
        from . import engine

        return engine.open_engine(path, split(choice.device)[1])
    from . import trtexec

    return trtexec.open_trtexec(path, recipe_of(bundle, model), split(choice.device)[1])

"""The engine of a model: built on this device where none lies here that may be loaded, and opened.

By TensorRT's Python bindings (:mod:`.runtimes.engine`) or by the program trtexec (:mod:`.runtimes.trtexec`).
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
    """An engine that may be loaded."""

    path: Path
    built: bool  # just now, not found
    reason: str  # why it was built, or why it was not
    seconds: float


def ready(bundle: "Bundle", model: "Dict[str, Any]", choice: "Choice", report: "Callable[[str], None]") -> Built:
    """The engine of a model, for this TensorRT, GPU and driver; built if need be, which takes minutes.

    Args:
        bundle: the bundle; the engine is kept outside it: :func:`tlexport.device.runtimes.engine_cache.place`.
        model: the model's record in the manifest.
        choice: runtime "tensorrt" or "trtexec", and a device.
        report: told in words what happens.

    Raises:
        Unsupported: the bundle has no recipe for an engine; too little free memory; TensorRT cannot build it.
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
    report(f"building {engine.name}, since {reason}; this takes minutes, once")
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
    """How the engine of a model is built. Raises Unsupported where the bundle does not say it."""
    recipe = model.get("engine")
    if not recipe:
        raise Unsupported(
            f"the bundle is for {bundle.data['target']} and holds no recipe for an engine of TensorRT",
            "export one that does: tlx export --target jetson-orin-nano; or ask for --runtime onnxruntime",
        )
    return dict(recipe)


def describe_gpu_of(choice: "Choice") -> "Dict[str, str]":
    """What an engine that is built here belongs to: ``tensorrt``, ``gpu``, ``compute_capability``, ``driver``.

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
    """A session of a model's engine, which is built first if need be. Raises as :func:`ready` does."""
    path = ready(bundle, model, choice, report).path
    if choice.runtime == "tensorrt":
        from . import engine

        return engine.open_engine(path, split(choice.device)[1])
    from . import trtexec

    return trtexec.open_trtexec(path, recipe_of(bundle, model), split(choice.device)[1])

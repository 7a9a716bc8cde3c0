"""``tlx export --build-engine``: builds the engine of a bundle's chosen model if this machine is the target."""

from __future__ import annotations

from pathlib import Path

from tlexport.bundle.archive import is_archive
from tlexport.bundle.device_errors import as_ours
from tlexport.device import choice
from tlexport.device.manifest import Bundle
from tlexport.device.runtimes import engines
from tlexport.errors import MissingDependency, Unsupported, UsageError
from tlexport.hardware.target import Target
from tlexport.ports import Progress

ON_THE_DEVICE = "leave out --build-engine, copy the bundle to the device, and run there: python3 run.py build"


def expect_buildable(target: Target, out: Path | None) -> None:
    """Check that an engine can be built here. Call it before an export.

    Raises:
        UsageError: the bundle is an archive, which cannot hold an engine.
        Unsupported: the target has no engines, or this machine is not the target.
        MissingDependency: neither TensorRT's Python bindings nor trtexec are here.
    """
    if out is not None and is_archive(out):
        raise UsageError(f"{out} is an archive, which cannot hold an engine", "give --out a directory")
    profile = target.profile
    if profile.runtime != "tensorrt":
        raise Unsupported(f"{profile.title} runs models with {profile.runtime}, which needs no engine", "leave out --build-engine")
    if not target.here:
        raise Unsupported(
            f"an engine runs only on the GPU and TensorRT that built it, and this machine is not a {profile.title}", ON_THE_DEVICE
        )
    no_bindings, no_trtexec = choice.why_no_bindings(), choice.why_no_trtexec()
    if no_bindings and no_trtexec:
        raise MissingDependency(
            f"no engine can be built here: {no_bindings}, and {no_trtexec}",
            "on a Jetson: sudo apt-get install tensorrt python3-libnvinfer; elsewhere: pip install 'tlexport[tensorrt]'",
        )


def build_engine(bundle: Path, progress: Progress) -> Path:
    """Build the engine of the chosen model as the bundle's own runner does, and return its path.

    Raises:
        TlxError: as the runner's ``build``: too little memory, no TensorRT, a graph that TensorRT refuses.
    """
    with as_ours():
        opened = Bundle(bundle)
        return engines.ready(opened, opened.model(), choice.choose(opened), progress.note).path

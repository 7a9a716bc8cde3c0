"""The verb ``doctor``: versions, devices and runtimes found; what is missing and how to get it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from dataclasses import asdict, dataclass
from typing import cast

from tlexport import __version__, plugins
from tlexport.bench.environment import usable_cores
from tlexport.device import board
from tlexport.errors import TlxError
from tlexport.ports import Runtime
from tlexport.target import profile_names, resolve
from tlexport.units import format_bytes


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for."""

    name: str
    ok: bool
    detail: str
    needed: bool = True  # without it the main job does not run

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        return asdict(self)


# what pip calls them; onnxruntime has two names and is looked at below
LIBRARIES = (
    *("torch", "torchvision", "onnx", "onnxscript", "sympy", "numpy", "pillow", "safetensors"),
    *("matplotlib", "scikit-learn", "scipy", "click", "jinja2", "pydantic", "rich", "psutil", "torch-pruning"),
)

SHOWN = {"L4T": "l4t", "JetPack": "jetpack", "CUDA": "cuda", "TensorRT": "tensorrt", "power mode": "power_mode"}  # of a board


def doctor() -> list[Finding]:
    """Look at everything the commands need. Raises nothing: what is wrong is in the findings."""
    return [
        Finding("python", True, platform.python_version()),
        Finding("tlexport", True, __version__),
        *(_library(name) for name in LIBRARIES),
        _onnxruntime(),
        _tensorrt(),
        *(_runtime(name) for name in plugins.names("runtimes")),
        _cuda(),
        Finding("cpu", True, f"{platform.machine()}, {usable_cores()} usable cores"),
        _board(),
        _profiles(),
    ]


def _board(root: str = "/") -> Finding:
    """What a board is and how it is set: whatever decides how fast it is, and what its TensorRT reads."""
    state = board.describe(root)
    if state["module"] is None:
        return Finding("board", True, "none: not a board with a device tree", needed=False)
    locked = {True: "clocks locked", False: "clocks not locked (sudo jetson_clocks locks them)" if state["l4t"] else None, None: None}
    told = (
        state["module"],
        state["part"],
        state["soc"],
        *(f"{title} {state[key]}" for title, key in SHOWN.items() if state[key] is not None),
        state["governor"] and f"governor {state['governor']}",
        locked[state["clocks_locked"]],
        state["free_memory_bytes"] and f"{format_bytes(state['free_memory_bytes'])} of memory free",
        state["temperatures_c"] and f"{max(state['temperatures_c'].values())} °C",
        state["throttled"] and f"throttled: {', '.join(state['throttled'])}",
    )
    return Finding("board", True, ", ".join(part for part in told if part), needed=False)


def _profiles() -> Finding:
    name = "profiles of this machine"
    try:
        here = [profile for profile in profile_names() if resolve(profile).here]
    except TlxError as error:  # a user's own profile that cannot be read, or a folder of theirs that is not there
        return Finding(name, False, f"{error.message} ({error.hint})", needed=False)
    return Finding(name, bool(here), ", ".join(here) or "none; latency is not measured by tlx export", needed=False)


def _library(name: str) -> Finding:
    try:
        return Finding(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, False, "not installed: pip install tlexport")


def _onnxruntime() -> Finding:
    found = [name for name in ("onnxruntime", "onnxruntime-gpu") if _library(name).ok]
    if len(found) == 2:
        return Finding(
            "onnxruntime",
            False,
            "both onnxruntime and onnxruntime-gpu are installed and overwrite each other: uninstall both, then install one",
        )
    if not found:
        return Finding("onnxruntime", False, "not installed: pip install tlexport")
    return Finding("onnxruntime", True, f"{found[0]} {importlib.metadata.version(found[0])}")


def _tensorrt() -> Finding:
    if importlib.util.find_spec("tensorrt") is None:
        detail = "not installed; engines are built on the device (on a PC: pip install 'tlexport[tensorrt]' with NVIDIA's package index)"
        return Finding("tensorrt", False, detail, needed=False)
    version = _library("tensorrt")  # JetPack's own has no entry among pip's packages
    return Finding("tensorrt", True, version.detail if version.ok else "found, not installed by pip", needed=False)


def _runtime(name: str) -> Finding:
    """Whether a runtime's library can be loaded; that one which is not there at all is needed is said elsewhere."""
    there = importlib.util.find_spec(name) is not None
    try:
        runtime = cast(Runtime, plugins.load("runtimes", name))
        return Finding(f"runtime {name}", True, f"opens {' and '.join(runtime.FORMATS)}, --device auto is {runtime.auto_device()}")
    except TlxError as error:
        return Finding(f"runtime {name}", False, f"{error.message} ({error.hint})", needed=there)
    except OSError as error:  # a shared library that is missing or damaged
        return Finding(f"runtime {name}", False, str(error), needed=there)


def _cuda() -> Finding:
    try:
        import torch
    except (ImportError, OSError):
        return Finding("cuda", False, "not known, since torch cannot be imported", needed=False)
    if not torch.cuda.is_available():
        return Finding("cuda", False, "torch finds no CUDA GPU; the CPU is used", needed=False)
    return Finding("cuda", True, ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())), needed=False)

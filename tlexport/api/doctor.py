"""The verb ``doctor``: finds versions, devices and runtimes; reports what is missing and how to install it."""

from __future__ import annotations

import ctypes.util
import importlib
import importlib.metadata
import importlib.util
import platform
from dataclasses import asdict, dataclass

from tlexport import plugins
from tlexport.bench.environment import usable_cores
from tlexport.device.board import description as board
from tlexport.errors import TlxError
from tlexport.hardware.target import profile_names, resolve
from tlexport.units import format_bytes
from tlexport.version import __version__


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    name: str
    ok: bool
    detail: str
    needed: bool = True  # without it the main commands do not run

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        return asdict(self)


# names of packages in pip; onnxruntime has several names and a check of its own below
LIBRARIES = (
    *("torch", "torchvision", "onnx", "onnxscript", "sympy", "numpy", "pillow", "safetensors"),
    *("matplotlib", "scikit-learn", "scipy", "click", "jinja2", "pydantic", "rich", "psutil", "torch-pruning"),
)

ONNX_RUNTIMES = tuple(f"onnxruntime{kind}" for kind in ("", "-gpu", "-openvino", "-directml", "-qnn", "-training"))
REINSTALL = "install it again: pip install --force-reinstall 'tlexport[tensorrt]' with NVIDIA's package index"
SHOWN = {"L4T": "l4t", "JetPack": "jetpack", "CUDA": "cuda", "TensorRT": "tensorrt", "power mode": "power_mode"}  # of a board


def doctor() -> list[Finding]:
    """Check everything that the commands need. Raises nothing: faults are findings."""
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
    """The board, its software, and every setting that affects its speed."""
    state = board.describe_board(root)
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
    except TlxError as error:  # a profile of the user that cannot be read, or a missing folder
        return Finding(name, False, f"{error.message} ({error.hint})", needed=False)
    return Finding(name, bool(here), ", ".join(here) or "none; latency is not measured by tlx export", needed=False)


def _library(name: str) -> Finding:
    try:
        return Finding(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, False, "not installed: pip install tlexport")


def _onnxruntime() -> Finding:
    """The package that provides ONNX Runtime. Several packages write the same files, and the one installed last runs."""
    found = sorted({found for name in ONNX_RUNTIMES for found in _owners(name)})
    if len(found) > 1:
        other = f"{' and '.join(found)} are installed and overwrite each other: pip uninstall {' '.join(found)}, then install one"
        return Finding("onnxruntime", False, other)
    if not found:
        if importlib.util.find_spec("onnxruntime") is not None:
            return Finding("onnxruntime", True, "found, not installed by pip")
        return Finding("onnxruntime", False, "not installed: pip install tlexport")
    if importlib.util.find_spec("onnxruntime") is None:
        again = f"pip lists {found[0]}, but its files are missing: pip install --force-reinstall {found[0]}"
        return Finding("onnxruntime", False, again)
    return Finding("onnxruntime", True, f"{found[0]} {importlib.metadata.version(found[0])}")


def _owners(name: str) -> list[str]:
    """The version of an installed package."""
    return [name] if _library(name).ok else []


def _tensorrt() -> Finding:
    """Whether TensorRT works here. Its package on the package index is a stub; other packages contain the libraries."""
    detail = "not installed; engines are built on the device (on a PC: pip install 'tlexport[tensorrt]' with NVIDIA's package index)"
    listed = importlib.util.find_spec("tensorrt") is not None
    if not listed:
        return Finding("tensorrt", False, detail, needed=False)
    try:
        version = getattr(importlib.import_module("tensorrt"), "__version__", None)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        return Finding("tensorrt", False, f"installed, but cannot be loaded: {_first_line(error)}; {REINSTALL}", needed=False)
    if version is None:  # a stub, or a folder of that name in the working directory
        return Finding("tensorrt", False, f"a module without TensorRT's libraries; {REINSTALL}", needed=False)
    return Finding("tensorrt", True, str(version), needed=False)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _runtime(name: str) -> Finding:
    """Whether a runtime's library can be loaded. Another finding reports a library that is missing altogether."""
    needed = name in ("torch", "onnxruntime") and importlib.util.find_spec(name) is not None
    try:
        runtime = plugins.runtime(name)
        if lacks := _lacks(name):
            return Finding(f"runtime {name}", False, f"cannot open a model here: {lacks}", needed=False)
        return Finding(f"runtime {name}", True, f"opens {' and '.join(runtime.FORMATS)}, --device auto is {runtime.auto_device()}")
    except TlxError as error:
        return Finding(f"runtime {name}", False, f"{error.message} ({error.hint})", needed=needed)
    except (OSError, RuntimeError, ImportError, AttributeError) as error:  # a shared library that is missing or damaged, or a stub
        return Finding(f"runtime {name}", False, _first_line(error), needed=needed)


def _lacks(name: str) -> str | None:
    """What a runtime lacks besides its module; None: nothing."""
    if not name.endswith("tensorrt"):
        return None
    if name == "onnxruntime_tensorrt":
        import onnxruntime

        if "TensorrtExecutionProvider" not in onnxruntime.get_available_providers():
            return "this ONNX Runtime has no TensorRT provider (pip install onnxruntime-gpu)"
        if ctypes.util.find_library("nvinfer") is None and not _tensorrt().ok:
            return "TensorRT is not installed, see tensorrt above"
    elif not _tensorrt().ok:
        return "TensorRT is not installed or not complete, see tensorrt above"
    return None if _cuda().ok else "no CUDA GPU was found, see cuda below"


def _cuda() -> Finding:
    try:
        import torch
    except (ImportError, OSError):
        return Finding("cuda", False, "unknown, because torch cannot be imported", needed=False)
    if torch.version.cuda is None:
        return Finding("cuda", False, "torch is built without CUDA; training uses the CPU", needed=False)
    if not torch.cuda.is_available():
        built = f"torch is built for CUDA {torch.version.cuda} and finds no usable GPU; training uses the CPU"
        return Finding("cuda", False, f"{built} (see: nvidia-smi)", needed=False)
    return Finding("cuda", True, ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())), needed=False)

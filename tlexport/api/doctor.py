"""The verb ``doctor``: versions, devices and runtimes found; what is missing and how to get it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from dataclasses import asdict, dataclass

from tlexport import __version__, plugins
from tlexport.bench.environment import usable_cores
from tlexport.errors import TlxError
from tlexport.target import profile_names, resolve, this_board


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


LIBRARIES = ("torch", "torchvision", "onnx", "onnxscript", "numpy", "pillow", "safetensors", "matplotlib", "scikit-learn", "sympy")


def doctor() -> list[Finding]:
    """Look at everything the commands need. Raises nothing: what is wrong is in the findings."""
    findings = [
        Finding("python", True, platform.python_version()),
        Finding("tlexport", True, __version__),
        *(_library(name) for name in LIBRARIES),
        _onnxruntime(),
        _tensorrt(),
        _cuda(),
        Finding("cpu", True, f"{platform.machine()}, {usable_cores()} usable cores"),
    ]
    board = this_board()
    here = [name for name in profile_names() if _is_here(name)]
    findings.append(Finding("board", True, board or "none: not a board with a device tree", needed=False))
    findings.append(
        Finding("profiles of this machine", bool(here), ", ".join(here) or "none; latency is not measured by tlx export", needed=False)
    )
    findings.append(Finding("runtimes", True, ", ".join(plugins.names("runtimes"))))
    return findings


def _is_here(name: str) -> bool:
    try:
        return resolve(name).here
    except TlxError:
        return False  # a user's own profile that cannot be read: `tlx profiles check` says why


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
    return Finding("tensorrt", True, importlib.metadata.version("tensorrt"), needed=False)


def _cuda() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("cuda", False, "torch is not installed", needed=False)
    import torch

    if not torch.cuda.is_available():
        return Finding("cuda", False, "torch finds no CUDA GPU; the CPU is used", needed=False)
    return Finding("cuda", True, ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())), needed=False)

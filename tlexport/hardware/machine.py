"""Machine: the description of this machine, and whether a profile matches it."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from pathlib import Path

from tlexport.device.board import description as board
from tlexport.hardware.profile import UINT8_INPUT, Match, Profile, newest_opset


@dataclass(frozen=True)
class Machine:
    """The description of a machine by its operating system."""

    architecture: str  # as Linux calls it: x86_64, aarch64
    board: str | None  # name of the board, such as "NVIDIA Jetson Nano Developer Kit"; None without a device tree
    compatible: str  # the device tree's names of board, module and chip, such as "nvidia,p3768-0000+p3767-0004 nvidia,tegra234"
    cpu: str  # the processor's name; empty if the system does not report it (Arm)
    nvidia: bool  # NVIDIA's driver is loaded

    def fits(self, wanted: Match) -> bool:
        """Whether a profile's ``match`` describes this machine."""
        return (
            self.architecture == wanted.machine
            and (wanted.device_tree is None or wanted.device_tree in f"{self.board or ''}\0{self.compatible}")
            and (wanted.cpu is None or wanted.cpu in self.cpu)
            and (wanted.gpu is None or self.nvidia)
        )

    def fit(self, wanted: Match) -> tuple[bool, int]:
        """How specific a fitting ``match`` is: a module's part number is more specific than a name, a longer name than a shorter one."""
        text = wanted.device_tree or ""
        return text not in (self.board or ""), len(text)


def this_machine(root: Path = Path("/"), architecture: str = "") -> Machine:
    """This machine.

    Args:
        root: root of the file system that describes it.
        architecture: default: ``platform.machine()``.
    """
    name = re.search(r"^model name\s*:\s*(.*)$", _text(root / "proc/cpuinfo"), re.MULTILINE)
    return Machine(
        architecture=_architecture(architecture or platform.machine()),
        board=_text(root / "proc/device-tree/model").rstrip("\0\n") or None,
        compatible=_text(root / "proc/device-tree/compatible").rstrip("\0").replace("\0", " "),
        cpu=name[1] if name else "",
        nvidia=(root / "proc/driver/nvidia/version").exists(),
    )


def may_be(architecture: str, cpu: str, wanted: Match) -> bool:
    """Whether a profile's ``match`` may describe the machine of a measurement.

    Args:
        architecture: its ``platform.machine()``.
        cpu: name of the processor; of a board with an Arm processor, whose kernel tells none, the name of the board.
        wanted: of the profile. A ``device_tree`` that is a name, and not one of the tree's own words, must be in that of the board.
    """
    board = wanted.device_tree if " " in (wanted.device_tree or "") else None
    return _architecture(architecture) == wanted.machine and all(text in cpu for text in (wanted.cpu, board) if text is not None)


def software_note(profile: Profile, root: Path = Path("/")) -> str:
    """The differences between this board's software and its profile, and their consequences.

    Args:
        profile: of this board.
        root: root of the file system that describes it.

    Returns:
        A sentence with both versions, their source files and a remedy; empty if nothing differs, or this is not a Jetson.
    """
    found, wanted = board.software(str(root)), profile.software
    if found["l4t"] is None or wanted.l4t is None or wanted.tensorrt is None:
        return ""
    jetpack = f", JetPack {found['jetpack']} ({found['jetpack_source']})" if found["jetpack"] else ""
    l4t = f"L4T {found['l4t']} (/{board.NV_RELEASE}){jetpack}"
    meant = f"{profile.name} was written for L4T {wanted.l4t.value}" + (f", JetPack {wanted.jetpack.value}" if wanted.jetpack else "")
    if found["tensorrt"] is None:
        known = "is installed" if (root / board.PACKAGES).exists() else "could be found"
        return f"this board has {l4t}, but no TensorRT {known} (/{board.PACKAGES}): sudo apt install nvidia-jetpack"
    here = board.version_tuple(found["tensorrt"])
    if here[:3] == board.version_tuple(wanted.tensorrt.value)[:3]:
        same = f"this board has {l4t}; {meant}; TensorRT {wanted.tensorrt.value} is the same, so models and engines are compatible"
        return "" if found["l4t"] == wanted.l4t.value else same
    newest, opset = newest_opset(here), profile.opset.value
    beyond = [f"its ONNX parser reads opset {newest} at most, and the models get {opset}"] if opset > newest else []
    if profile.input_dtype.value == "uint8" and here < UINT8_INPUT:
        beyond.append("it takes no uint8 input")
    effect = (
        f"{' and '.join(beyond)}, so no engine can be built" if beyond else f"its ONNX parser reads opset {newest}, the models get {opset}"
    )
    fit = f"opset {min(opset, newest)}, software.tensorrt {'.'.join(map(str, here[:3]))} and software.l4t {found['l4t']}"
    return (
        f"this board has TensorRT {found['tensorrt']} ({found['tensorrt_source']}), {l4t}; {meant} and TensorRT "
        f"{wanted.tensorrt.value} ({wanted.tensorrt.source}). {effect}; an engine runs only with the TensorRT version that built it. "
        f"Write a profile: tlx profiles new NAME --from {profile.name}, with {fit}; or install what the profile is for"
    )


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", errors="replace")
    except OSError:
        return ""


def _architecture(machine: str) -> str:
    """One name where operating systems differ: Windows says AMD64 and macOS arm64 for what Linux calls x86_64 and aarch64."""
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine.lower(), machine.lower())

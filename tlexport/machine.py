"""Machine: what this one says it is, and whether that is the device which a profile describes."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from pathlib import Path

from tlexport.profile import Match


@dataclass(frozen=True)
class Machine:
    """What an operating system tells of its machine."""

    architecture: str  # as Linux calls it: x86_64, aarch64
    board: str | None  # what the board calls itself, such as "NVIDIA Jetson Nano Developer Kit"; None without a device tree
    compatible: str  # the device tree's names of board, module and chip, such as "nvidia,p3768-0000+p3767-0004 nvidia,tegra234"
    cpu: str  # the processor's name; empty where the system does not say it (ARM)
    nvidia: bool  # NVIDIA's driver is loaded

    def fits(self, wanted: Match) -> bool:
        """Whether this is a machine that a profile's ``match`` describes."""
        return (
            self.architecture == wanted.machine
            and (wanted.device_tree is None or wanted.device_tree in f"{self.board or ''}\0{self.compatible}")
            and (wanted.cpu is None or wanted.cpu in self.cpu)
            and (wanted.gpu is None or self.nvidia)
        )

    def fit(self, wanted: Match) -> tuple[bool, int]:
        """How much a ``match`` that fits says about the board: a module's part number more than its name, a longer name more."""
        text = wanted.device_tree or ""
        return text not in (self.board or ""), len(text)


def this_machine(root: Path = Path("/"), architecture: str = "") -> Machine:
    """This machine.

    Args:
        root: root of the file system that describes it.
        architecture: default what ``platform.machine()`` says.
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
    """Whether a machine of which no more is known than a measurement tells may be what a profile's ``match`` describes.

    Args:
        architecture: what ``platform.machine()`` said there.
        cpu: name of the processor; of a board with an Arm processor, whose kernel tells none, the name of the board.
        wanted: of the profile. A ``device_tree`` that is a name, and not one of the tree's own words, must be in that of the board.
    """
    board = wanted.device_tree if " " in (wanted.device_tree or "") else None
    return _architecture(architecture) == wanted.machine and all(text in cpu for text in (wanted.cpu, board) if text is not None)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", errors="replace")
    except OSError:
        return ""


def _architecture(machine: str) -> str:
    """One name where operating systems differ: Windows says AMD64 and macOS arm64 for what Linux calls x86_64 and aarch64."""
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine.lower(), machine.lower())

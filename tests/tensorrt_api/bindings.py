"""The real signatures of a TensorRT version, read from NVIDIA's bindings without its libraries.

The wheels are fetched from the package index when a test runs, and nothing of them is kept: they may not be passed on. They hold the
Python module alone; the libraries it is linked to are made here, empty, so that it can be imported and asked for its names.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from tensorrt_api.cudart import COMPILER

# what the package index calls the bindings of each version that our code is for
WHEELS = {
    "8.6.1": "tensorrt-bindings==8.6.1",
    "10.3": "tensorrt-cu12-bindings==10.3.0",
    "10.7": "tensorrt-cu12-bindings==10.7.0",
    "10.13": "tensorrt-cu12-bindings==10.13.3.9",
    "10.16": "tensorrt-cu12-bindings==10.16.1.11",
    "11.4": "tensorrt-cu13-bindings==11.4.0.106",
}
TOOLS = ("readelf", "nm")
_OF_THE_SYSTEM = re.compile(r"_?Py|dl(open|close|sym|error)$|_?_?(cxa|gmon|ITM)_")


class NotHere(Exception):
    """Why the signatures cannot be read on this machine."""


def download(requirement: str, folder: Path) -> Path:
    """The wheel of a requirement for this Python, without what it depends on."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder), requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    except subprocess.TimeoutExpired:
        raise NotHere(f"{requirement} did not come from the package index within two minutes") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        raise NotHere(f"{requirement} cannot be fetched for Python {sys.version_info[0]}.{sys.version_info[1]}: {said[-1]}")
    [wheel] = folder.glob("*.whl")
    return wheel


def read_bindings(requirement: str, folder: Path) -> dict[str, Any]:
    """Fetch a version's bindings and read what they offer. Raises NotHere with the reason where that cannot be."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if COMPILER is None or missing:
        raise NotHere(f"no {', '.join(missing) or 'C compiler'} on this machine to make stand-ins of TensorRT's libraries with")
    folder.mkdir(parents=True)
    zipfile.ZipFile(download(requirement, folder)).extractall(folder / "site")
    [module] = (folder / "site").glob("tensorrt*/tensorrt*.so")
    _make_libraries(module, folder / "lib")
    environment = os.environ | {"LD_LIBRARY_PATH": str(folder / "lib"), "PYTHONPATH": str(folder / "site")}
    script = Path(__file__).with_name("read_api.py")
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotHere(f"the bindings of {requirement} cannot be imported here: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _make_libraries(module: Path, folder: Path) -> None:
    """Empty libraries under the names that the module is linked to, with the functions that it wants, all answering 0."""
    folder.mkdir()
    linked = subprocess.run(["readelf", "-d", str(module)], capture_output=True, text=True, check=True).stdout
    wanted = subprocess.run(["nm", "-D", "--undefined-only", str(module)], capture_output=True, text=True, check=True).stdout
    # what the system's libraries give carries a version behind an @; weak symbols (w) may stay undefined
    names = [line.split()[-1] for line in wanted.splitlines() if line.split()[-2] == "U" and "@" not in line]
    source = folder / "empty.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in names if not _OF_THE_SYSTEM.match(name)))
    for library in re.findall(r"NEEDED.*\[(libnv[^\]]+)\]", linked):
        command = [str(COMPILER), "-shared", "-fPIC", f"-Wl,-soname,{library}", str(source), "-o", str(folder / library)]
        subprocess.run(command, check=True)

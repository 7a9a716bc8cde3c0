"""Device code on every Python version installed on this machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trtexec_files as fake
from commands import ROOT

DEVICE = ROOT / "tlexport" / "device"
OLDEST = (3, 6)


def pythons() -> dict[str, Path]:
    """Version -> interpreter: this one, and those that pyenv installed."""
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found = {path.parent.parent.name: path for path in sorted(root.glob("versions/*/bin/python"))}
    numbered = {version: path for version, path in found.items() if re.fullmatch(r"3\.\d+\.\d+", version)}
    known = {version: path for version, path in numbered.items() if tuple(map(int, version.split("."))) >= OLDEST}
    return known | {".".join(map(str, sys.version_info[:3])): Path(sys.executable)}


def cases() -> list[Any]:
    """Every installed version; the oldest one as a skip if it is missing."""
    found = [pytest.param(path, id=version) for version, path in pythons().items()]
    if any(version.startswith("3.6.") for version in pythons()):
        return found
    reason = "no Python 3.6 of pyenv on this machine: what goes to JetPack 4 is tried with newer ones alone"
    return [*found, pytest.param(Path(), id="3.6", marks=pytest.mark.skip(reason=reason))]


each = pytest.mark.parametrize("python", cases())


def run(python: Path, code: str, *arguments: str) -> str:
    """What a program prints. It finds ``tlexport.device`` as a bundle has it: a folder ``tlx``."""
    command = [str(python), "-I", "-W", "error", "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return with_runner(tmp_path)


def with_runner(folder: Path) -> Path:
    shutil.copytree(DEVICE, folder / "tlx", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> object:
    """What this Python answers."""
    return answer(Path(sys.executable), with_runner(tmp_path_factory.mktemp("here")))


@each
def test_every_file_compiles(python: Path) -> None:
    code = "import sys\nfor name in sys.argv[1:]: compile(open(name, encoding='utf-8').read(), name, 'exec')\nprint(len(sys.argv) - 1)"
    files = sorted(map(str, DEVICE.rglob("*.py")))
    assert int(run(python, code, *files)) == len(files) > 1


READ = """
import json, sys
sys.path.insert(0, sys.argv[1]); sys.dont_write_bytecode = True
from tlx.runtimes import engine_cache, trtexec, trtexec_json, trtexec_log
from tlx.runtimes.trtexec_command import bench_command, build_command
given = json.loads(open(sys.argv[2], encoding="utf-8").read())
log = trtexec_log.require(given["log"], trtexec_log.MEASURED)
times = trtexec_json.read_times(given["times"], log.queries, log.warmup_queries)
layers = trtexec_json.read_profile(given["profile"])
recipe, version = given["recipe"], tuple(given["version"])
key = engine_cache.Key("0" * 64, recipe, "10.3.0.30", "Orin", "8.7", None)
engine_cache.write_key(given["engine"], key)
print(json.dumps({
    "figures": [log.tensorrt, log.latency.max, max(times), [layer.name for layer in layers]],
    "mode": trtexec.mode_text(log),
    "commands": [build_command(version, "m.onnx", "m.engine", recipe), bench_command(version, "m.engine", recipe, "t.json")],
    "stale": [engine_cache.why_stale(given["engine"], key), engine_cache.why_stale(given["engine"], key._replace(gpu="Xavier"))],
    "version": trtexec.ask_version(given["program"]) if given["program"] else [],
}))
"""


def answer(python: Path, bundle: Path) -> object:
    (bundle / "tlx/__init__.py").write_text("", encoding="utf-8")
    version, trace = (8, 2, 1), fake.queries(50, True, 200.0)
    (bundle / "m.engine").write_bytes(fake.plan((10, 3, 0, 30), b""))
    given = {
        "log": "\n".join(fake.bench_log(version, "trtexec", trace, 20, graph=True, spin=True, transfers=True)),
        "times": fake.times_file(version, fake.queries(20, True), trace),
        "profile": fake.profile_file(version),
        "recipe": {"input": "image", "shape": [1, 8, 8, 3], "workspace_mb": 512, "precision": "fp16", "opset": 13},
        "version": version,
        "engine": str(bundle / "m.engine"),
        "program": str(fake.program(bundle, version)) if os.name == "posix" else "",
    }
    (bundle / "given.json").write_text(json.dumps(given), encoding="utf-8")
    return json.loads(run(python, READ, str(bundle), str(bundle / "given.json")))


@each
def test_the_way_through_trtexec_works_without_numpy(python: Path, bundle: Path, here: object) -> None:
    """The oldest boards' Python gives what this one does, also where it has no numpy: the package's front needs it, these files do not."""
    found = answer(python, bundle)
    assert found == here
    assert isinstance(found, dict)
    assert (found["figures"][0], found["stale"][0]) == ("8.2.1", "")

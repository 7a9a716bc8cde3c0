"""Calls of TensorRT, checked against the signatures of the supported versions. Nothing here runs TensorRT.

The signatures are read from NVIDIA's bindings, which the tests download. Without them, the tests are skipped.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from tensorrt_api.behaviour import LAYERS, World
from tensorrt_api.bindings import WHEELS, NotHere, read_bindings
from tensorrt_api.cudart import Device, compile_cudart
from tensorrt_api.device import RECIPE, copy_device, expected, load_device, onnx_file, pixels, refused_file
from tensorrt_api.strict import strict_module
from tensorrt_api.stubs import write_stubs

import tlexport.device
from tlexport.device.runtimes.build_options import parse_version

pytestmark = pytest.mark.slow
OLDEST, *_, NEWEST = WHEELS
CHECKED = (
    "runtimes/engine.py",
    "runtimes/engine_build.py",
    "runtimes/engine_run.py",
    "runtimes/engine_tensors.py",
    "runtimes/tensorrt_log.py",
)


class Bindings:
    """The signatures of each version, fetched once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._found: dict[str, Any] = {}

    def __getitem__(self, version: str) -> dict[str, Any]:
        if version not in self._found:
            try:
                self._found[version] = read_bindings(WHEELS[version], self.folder / version)
            except NotHere as reason:
                self._found[version] = reason
        found = self._found[version]
        if isinstance(found, NotHere):
            pytest.skip(str(found))
        return dict(found)


@pytest.fixture(scope="session")
def bindings(tmp_path_factory: pytest.TempPathFactory) -> Bindings:
    return Bindings(tmp_path_factory.mktemp("bindings"))


@pytest.fixture(params=list(WHEELS))
def api(bindings: Bindings, request: pytest.FixtureRequest) -> dict[str, Any]:
    return bindings[request.param]


@pytest.fixture(scope="module")
def gpu(tmp_path_factory: pytest.TempPathFactory) -> Device:
    return Device(compile_cudart(tmp_path_factory.mktemp("cuda") / "libcudart.so"))


class Way:
    """Everything that our code does with TensorRT, once."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path, api: dict[str, Any], gpu: Device, replaced: Any = ()) -> None:
        self.folder, self.said = folder, list[str]()
        self.world = World(gpu)
        self.device = load_device(patch, folder / "site", strict_module(api, self.world), gpu, replaced)
        patch.setattr(self.device.engine_build, "_EVERY", 0.0)

    def go(self, precision: str = "fp32", opset: int = 20) -> Any:
        engine, plan = self.device.engine, self.folder / "model.engine"
        recipe = {**RECIPE, "precision": precision, "opset": opset}
        for _ in range(2):  # the second time the timing cache is there
            engine.build_engine(onnx_file(self.folder / "model.onnx"), plan, recipe, self.said.append, self.folder / "timing.cache")
        with engine.open_engine(plan) as session:
            answer = session.run(pixels())
            session.time_run()
            assert [layer.name for layer in session.layers().layers] == list(LAYERS)
            assert {layer.outputs for layer in session.layers().layers} == {("int8",)}
            times = dict(session.layer_times(2))
            if self.world.device.raised:
                raise self.world.device.raised.pop()
            assert times == LAYERS
        np.testing.assert_array_equal(answer, expected(pixels()))
        with pytest.raises(self.device.errors.Unsupported, match=r"node 1 'odd one' \(NotInTensorRT\)"):
            engine.build_engine(refused_file(self.folder / "refused.onnx"), plan, RECIPE, self.said.append)


# --- signatures of the bindings ---------------------------------------------------------------------------------------


def test_the_signatures_are_those_of_the_version(api: dict[str, Any], request: pytest.FixtureRequest) -> None:
    """Known facts of each version, so that what is read is known to be read right."""
    version, classes = parse_version(api["version"]), api["classes"]
    assert api["version"].startswith(request.node.callspec.params["api"])
    assert ("INT8" in classes["BuilderFlag"]["enum"]) == (version < (11,))
    assert classes["NetworkDefinitionCreationFlag"]["enum"].get("STRONGLY_TYPED") == {8: None, 10: 1, 11: 0}[version[0]]
    assert ("IProgressMonitor" in classes) == (version >= (10,))
    assert "-> IHostMemory" in classes["Builder"]["methods"]["build_serialized_network"][0]


def members_of(path: Path) -> Iterator[tuple[str, ...]]:
    """Every `trt.A.B` in a file, as names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names, at = [], node
        while isinstance(at, ast.Attribute):
            names.append(at.attr)
            at = at.value
        if names and isinstance(at, ast.Name) and at.id == "trt":
            yield tuple(reversed(names))


def test_every_name_that_is_written_out_exists(api: dict[str, Any]) -> None:
    folder = Path(tlexport.device.__file__).parent
    used = {names for file in CHECKED for names in members_of(folder / file)}
    assert {("Builder",), ("MemoryPoolType", "WORKSPACE"), ("IProfiler", "__init__")} <= used
    for kind, *rest in used - {("__version__",)}:
        found = api["classes"].get(kind)
        assert found is not None, f"{kind} is not in TensorRT {api['version']}"
        known = {name for part in ("enum", "methods", "properties", "nested") for name in found.get(part, ())}
        assert set(rest[:1]) <= known, f"{kind}.{rest[0]} is not in TensorRT {api['version']}"


# --- our code against them --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "opset"), [("fp32", 17), ("fp16", 20), ("int8", 17), ("int8", 20)])
def test_we_build_and_run(
    api: dict[str, Any], precision: str, opset: int, gpu: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    way, before = Way(monkeypatch, tmp_path, api, gpu), gpu.live
    way.go(precision, opset)
    weak = parse_version(api["version"]) < (10,) or (parse_version(api["version"]) < (11,) and opset < 19)
    assert ("INT8" in way.world.flags) == (precision == "int8" and weak)
    assert any(text.startswith("Tactics: step") for text in way.said) == (parse_version(api["version"]) >= (10,))
    assert gpu.live == before


class Mistake(NamedTuple):
    file: str
    text: str
    instead: str
    named: str  # expected in the report of the mistake
    typed: bool = True  # mypy sees it too


MISTAKES = {
    "a member of TensorRT 8": Mistake(
        "runtimes/engine_run.py", "context.set_input_shape(name, shape)", "context.set_binding_shape(0, shape)", "set_binding_shape"
    ),
    "a keyword": Mistake(
        "runtimes/engine_run.py", "execute_async_v3(self._stream)", "execute_async_v3(stream=self._stream)", "execute_async_v3"
    ),
    "the order": Mistake(
        "runtimes/engine_run.py", "set_tensor_address(name, buffer.device)", "set_tensor_address(buffer.device, name)", "set_tensor_address"
    ),
    "an argument too few": Mistake(
        "runtimes/engine_build.py", "set_timing_cache(cache, False)", "set_timing_cache(cache)", "set_timing_cache"
    ),
    "an argument too many": Mistake(
        "runtimes/engine_build.py", "builder.create_builder_config()", "builder.create_builder_config(0)", "create_builder_config"
    ),
    "a number for a name": Mistake(
        "runtimes/engine_build.py",
        "set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE,",
        "set_memory_pool_limit(0,",
        "set_memory_pool_limit",
    ),
    "a member of an enum": Mistake("runtimes/engine_build.py", "trt.ProfilingVerbosity.DETAILED", "trt.ProfilingVerbosity.FULL", "FULL"),
    "an attribute": Mistake("runtimes/engine_build.py", "config.profiling_verbosity =", "config.verbosity =", "verbosity"),
    "an attribute that only newer ones have": Mistake(
        "runtimes/engine_build.py", "settings.progress_monitor =", "settings.monitor =", "monitor", False
    ),
    "a callback's name": Mistake("runtimes/engine_run.py", "def report_layer_time(", "def report_time(", "report_layer_time", False),
    "a base class that is not set up": Mistake(
        "runtimes/tensorrt_log.py", "trt.ILogger.__init__(self)", "super(trt.ILogger, self).__init__()", "__init__", False
    ),
}


@pytest.mark.parametrize("name", list(MISTAKES))
def test_a_planted_mistake_is_caught(bindings: Bindings, name: str, gpu: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mistake = MISTAKES[name]
    way = Way(monkeypatch, tmp_path, bindings[NEWEST], gpu, [mistake[:3]])
    with pytest.raises((AttributeError, NotImplementedError, way.device.errors.DeviceError), match=mistake.named):
        way.go()


# --- mypy -------------------------------------------------------------------------------------------------------------


def mypy(api: dict[str, Any], folder: Path, replaced: Any = ()) -> list[str]:
    """mypy's errors in the device's files with the version's signatures, except errors in the signatures themselves (overlaps)."""
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed: pip install 'tlexport[dev]'")
    package = copy_device(folder / "checked", replaced)
    stubs = write_stubs(api, folder / "stubs")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        f"--cache-dir={folder.parent / 'mypy'}",
        "--follow-imports=silent",
    ]
    # a base class looked up by name has no type; the project's own ignores do not apply here
    command += ["--allow-subclassing-any", "--no-warn-unused-ignores", *(str(package / file) for file in CHECKED)]
    done = subprocess.run(command, cwd=folder, env=os.environ | {"MYPYPATH": str(stubs)}, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return [
        line for line in done.stdout.splitlines() if ": error:" in line and not line.startswith("stubs")
    ]  # in stubs: overloads that overlap


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_mypy_agrees(bindings: Bindings, version: str, tmp_path: Path) -> None:
    assert mypy(bindings[version], tmp_path) == []


def test_mypy_sees_planted_mistakes(bindings: Bindings, tmp_path: Path) -> None:
    """All at once: it takes seconds, and each has a line of its own."""
    seen = [mistake for mistake in MISTAKES.values() if mistake.typed]
    errors = mypy(bindings[NEWEST], tmp_path, [mistake[:3] for mistake in seen])
    for mistake in seen:
        assert any(mistake.file in line and mistake.named in line for line in errors), (mistake, errors)

"""The runtime `tensorrt`: engines behind the Runner protocol, with stand-ins for TensorRT and CUDA."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from tensorrt_api.behaviour import LAYERS, World, header, loose_module
from tensorrt_api.cudart import COMPILER, Device, compile_cudart
from tensorrt_api.device import RECIPE, expected, onnx_file, pixels

import tlexport.device.runtimes
from tlexport import plugins
from tlexport.contract import TensorSpec
from tlexport.device.runtimes import cuda
from tlexport.errors import InvalidFile, MissingDependency, StepFailed, TlxError, Unsupported, UsageError
from tlexport.ports import LayerTimer, RunOptions

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler on this machine to make the stand-in of CUDA's runtime with")
GPU = RunOptions("cuda:0")
LEAVES = ("engine_build", "engine_run", "engine_tensors", "tensorrt_log")  # they import TensorRT at the top


@pytest.fixture(scope="module")
def gpu(tmp_path_factory: pytest.TempPathFactory) -> Device:
    return Device(compile_cudart(tmp_path_factory.mktemp("cuda") / "libcudart.so"))


@pytest.fixture
def imported_anew(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Unload the TensorRT of an earlier test, and afterwards this test's."""
    for leaf in LEAVES:
        monkeypatch.setitem(sys.modules, f"tlexport.device.runtimes.{leaf}", None)  # so that it is put back
        monkeypatch.delitem(sys.modules, f"tlexport.device.runtimes.{leaf}")
        monkeypatch.setattr(tlexport.device.runtimes, leaf, None, raising=False)
        monkeypatch.delattr(tlexport.device.runtimes, leaf)
    return monkeypatch


@pytest.fixture
def world(imported_anew: pytest.MonkeyPatch, gpu: Device) -> World:
    world = World(gpu)
    imported_anew.setitem(sys.modules, "tensorrt", loose_module("10.3.0", world))
    imported_anew.setattr(cuda, "LIBRARIES", (str(gpu.path),))
    return world


@pytest.fixture
def engine(world: World, tmp_path: Path) -> Path:
    from tlexport.device.runtimes.engine import build_engine

    build_engine(onnx_file(tmp_path / "model.onnx"), tmp_path / "model.engine", RECIPE, print)
    return tmp_path / "model.engine"


runtime = plugins.runtime("tensorrt")


def refused(kind: type[TlxError], path: Path, options: RunOptions = GPU) -> TlxError:
    with pytest.raises(kind) as caught:
        runtime.open_model(path, options)
    assert type(caught.value) is kind
    return caught.value


def test_an_engine_is_a_runner(engine: Path, gpu: Device) -> None:
    before = gpu.live
    with runtime.open_model(engine, GPU) as runner:
        assert runner.provider == "tensorrt"
        assert runner.inputs == (TensorSpec(name="image", dtype="uint8", shape=(1, 4, 4, 3)),)
        assert runner.outputs == (TensorSpec(name="probabilities", dtype="float32", shape=(1, 2)),)
        first, second = (runner.run({"image": pixels(seed=seed)})["probabilities"] for seed in (1, 2))
        np.testing.assert_array_equal(first, expected(pixels(seed=1)))  # a fresh array: the second run has not changed it
        np.testing.assert_array_equal(second, expected(pixels(seed=2)))
        with pytest.raises(Unsupported, match=r"uint8 \(1, 4, 4, 3\)"):
            runner.run({"image": pixels(2)})
        with pytest.raises(Unsupported, match="found picture"):
            runner.run({"picture": pixels()})
        assert isinstance(runner, LayerTimer)
        assert {layer.name: layer.ms for layer in runner.layer_times(3)} == LAYERS
        gpu.fail("cudaGraphLaunch", 2)
        with pytest.raises(StepFailed, match="out of memory"):
            runner.run({"image": pixels()})
    assert gpu.live == before


def test_it_runs_on_gpus_alone_and_takes_no_wishes_that_mean_nothing_to_it(engine: Path, gpu: Device) -> None:
    before = gpu.live
    assert runtime.auto_device() == "cuda:0"
    assert "cuda:0" in refused(UsageError, engine, RunOptions("cpu")).hint
    assert "threads" in refused(UsageError, engine, RunOptions("cuda:0", threads=2)).message
    assert "fused" in refused(Unsupported, engine, RunOptions("cuda:0", simulate_quantization=True)).message
    assert "batches of 1, but" in refused(Unsupported, engine, RunOptions("cuda:0", batch=32)).message
    assert "cuda:5" in refused(Unsupported, engine, RunOptions("cuda:5")).message
    with runtime.open_model(engine, RunOptions("cuda:1", batch=1)):
        pass
    assert gpu.live == before


def test_files_that_are_no_engine_of_this_device(world: World, tmp_path: Path) -> None:
    path = tmp_path / "x.engine"
    refused(InvalidFile, path)
    path.write_bytes(b"something else entirely, and long enough for a header")
    refused(InvalidFile, path)
    path.write_bytes(header("8.6.1"))
    assert "run.py build" in refused(Unsupported, path).hint
    path.write_bytes(header("10.3.0") + b"damaged")
    assert "the plan's body is damaged" in refused(StepFailed, path).message


def test_without_tensorrt_the_extra_is_named(imported_anew: pytest.MonkeyPatch, tmp_path: Path) -> None:
    imported_anew.setitem(sys.modules, "tensorrt", None)
    assert "tlexport[tensorrt]" in refused(MissingDependency, tmp_path / "x.engine").hint


def test_without_cuda_that_is_said(engine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nowhere = str(tmp_path / "libcudart.so.99")
    open_cuda = cuda.open_cuda
    with runtime.open_model(engine, GPU):  # so that what is patched has been imported
        monkeypatch.setattr("tlexport.device.runtimes.engine_run.open_cuda", lambda: open_cuda([nowhere]))
    assert nowhere in refused(MissingDependency, engine).message

"""Building and running engines, with stand-ins for TensorRT and CUDA that compute a simple function.

test_tensorrt_contract.py checks TensorRT's signatures. TensorRT itself can only be tested on a board.
"""

from __future__ import annotations

import itertools
import json
import sys
from enum import IntEnum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tensorrt_api.behaviour import COMPUTE_MS, GPU, LAYERS, World, header, loose_module
from tensorrt_api.cudart import COMPILER, Device, compile_cudart
from tensorrt_api.device import RECIPE, expected, load_device, onnx_file, pixels, refused_file

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler on this machine to make the stand-in of CUDA's runtime with")
VERSIONS = ["8.6.1", "10.3.0", "11.4.0.106"]


@pytest.fixture(scope="module")
def gpu(tmp_path_factory: pytest.TempPathFactory) -> Device:
    return Device(compile_cudart(tmp_path_factory.mktemp("cuda") / "libcudart.so"))


class Here:
    """A device with a TensorRT of some version."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path, gpu: Device, version: str) -> None:
        self.world, self.folder = World(gpu), folder
        self.trt: ModuleType = loose_module(version, self.world)
        self.device = load_device(patch, folder / "site", self.trt, gpu)
        self.said: list[str] = []
        self.onnx, self.plan, self.cache = (folder / name for name in ("model.onnx", "model.engine", "timing.cache"))
        onnx_file(self.onnx)

    def build(self, cached: bool = False, **recipe: Any) -> None:
        cache = self.cache if cached else None
        self.device.engine.build_engine(self.onnx, self.plan, {**RECIPE, **recipe}, self.said.append, cache)

    def open(self, **options: Any) -> Any:
        return self.device.engine.open_engine(self.plan, **options)

    def fails(self, kind: str) -> Any:
        return pytest.raises(getattr(self.device.errors, kind))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpu: Device, request: pytest.FixtureRequest) -> Here:
    return Here(monkeypatch, tmp_path, gpu, getattr(request, "param", "10.3.0"))


every_version = pytest.mark.parametrize("here", VERSIONS, indirect=True)

# --- build, then run --------------------------------------------------------------------------------------------------


@every_version
@pytest.mark.parametrize(("graph", "copies"), list(itertools.product([True, False], repeat=2)))
def test_an_engine_answers_what_the_network_does(here: Here, gpu: Device, graph: bool, copies: bool) -> None:
    before = gpu.live
    here.build()
    with here.open(cuda_graph=graph, copies=copies) as session:
        assert (session.provider, session.tensorrt, session.cuda_graph) == ("tensorrt", here.trt.__version__, graph)
        answers = [session.run(pixels(seed=seed)) for seed in range(3)]  # three, so that none is another's memory
        for seed, answer in enumerate(answers):
            assert answer.dtype == np.float32
            np.testing.assert_array_equal(answer, expected(pixels(seed=seed)))
        times = session.time_run()
        assert session.copies == copies
        assert times.compute_ms == COMPUTE_MS
        assert times.total_ms == times.to_device_ms + times.compute_ms + times.to_host_ms
        assert (times.to_device_ms > 0, times.to_host_ms > 0) == (copies, copies)
        np.testing.assert_array_equal(session.run(pixels(seed=9)), expected(pixels(seed=9)))  # timing leaves it usable
    assert gpu.live == before, "the session kept something"


@every_version
def test_layers_and_their_times(here: Here, gpu: Device) -> None:
    here.build()
    before = gpu.live
    with here.open() as session:
        found = session.layers()
        assert [layer.name for layer in found.layers] == list(LAYERS)
        assert {(layer.kind, layer.inputs, layer.outputs) for layer in found.layers} == {("CaskConvolution", ("int8",), ("int8",))}
        assert found.tensors == ("image", "probabilities")
        assert dict(session.layer_times(3)) == LAYERS
        np.testing.assert_array_equal(session.run(pixels()), expected(pixels()))
    assert gpu.live == before
    assert here.world.verbosity == "DETAILED"


def test_the_engine_is_for_the_recipe_s_shape_and_refuses_others(here: Here) -> None:
    here.build(shape=[2, 4, 4, 3])
    with here.open() as session:
        assert session.batch == (2, 2)
        np.testing.assert_array_equal(session.run(pixels(2)), expected(pixels(2)))
        for wrong in (pixels(1), pixels(2).astype(np.float32), pixels(2)[..., 0]):
            with here.fails("Unsupported") as caught:
                session.run(wrong)
            assert "uint8 (2, 4, 4, 3)" in caught.value.message
            assert str(wrong.shape) in caught.value.message


def test_an_engine_for_several_batches_is_set_up_anew_for_each(here: Here, gpu: Device) -> None:
    here.build()
    plan = json.loads(here.plan.read_bytes()[28:])
    plan["profile"] = [[1, 4, 4, 3], [2, 4, 4, 3], [4, 4, 4, 3]]
    here.plan.write_bytes(header(here.trt.__version__) + json.dumps(plan).encode())
    with here.open() as session:
        assert session.batch == (1, 4)
        live = set()
        for count in (1, 4, 2, 2, 3):
            np.testing.assert_array_equal(session.run(pixels(count)), expected(pixels(count)))
            live.add(gpu.live)
        assert len(live) == 1


def test_what_an_engine_belongs_to(here: Here) -> None:
    found = here.device.engine.describe_gpu(1)
    assert found == {"tensorrt": "10.3.0", "gpu": "Stand-in B", "compute_capability": "8.7", "driver": "12.6"}


# --- settings of the builder ------------------------------------------------------------------------------------------


@every_version
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("opset", [17, 20])
def test_the_builder_is_told_what_trtexec_would_be(here: Here, precision: str, opset: int) -> None:
    from tlexport.device.runtimes.build_options import parse_version, precision_flags

    version = parse_version(here.trt.__version__)
    flags = precision_flags(version, precision, opset)
    here.build(precision=precision, opset=opset)
    typed = here.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    assert bool(here.world.created & 1 << int(typed)) == ("stronglyTyped" in flags)
    assert here.world.flags - {"TF32"} == {flag.upper() for flag in flags} - {"STRONGLYTYPED"}
    assert ("TF32" in here.world.flags) == (precision != "fp32")
    assert here.world.workspace == RECIPE["workspace_mb"] * 1024 * 1024


@pytest.mark.parametrize(("kind", "name", "opset"), [("BuilderFlag", "INT8", 17), ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED", 20)])
def test_what_a_version_lacks_is_named(here: Here, kind: str, name: str, opset: int) -> None:
    whole = getattr(here.trt, kind)
    setattr(here.trt, kind, IntEnum(kind, [member.name for member in whole if member.name != name]))
    with here.fails("Unsupported") as caught:
        here.build(precision="int8", opset=opset)
    assert f"{kind}.{name}" in caught.value.message
    assert not here.plan.exists()


# --- timing cache, progress -------------------------------------------------------------------------------------------


def test_the_timing_cache_is_kept_and_used_again(here: Here) -> None:
    here.build(cached=True)
    first = here.cache.read_bytes()
    here.build(cached=True)
    assert here.cache.read_bytes() == first + b"kernel" == GPU + b"kernelkernel"
    assert not any("a new one is created" in text for text in here.said)
    assert sorted(path.name for path in here.folder.iterdir() if path.is_file()) == ["model.engine", "model.onnx", "timing.cache"]


@pytest.mark.parametrize("content", [b"broken", b"for another GPU: kernel"])
def test_another_gpu_s_timing_cache_is_made_anew_and_that_is_said(here: Here, content: bytes) -> None:
    here.cache.write_bytes(content)
    here.build(cached=True)
    assert any(str(here.cache) in text and "a new one is created" in text for text in here.said)
    assert here.cache.read_bytes() == GPU + b"kernel"


def test_no_timing_cache_unless_asked_for(here: Here) -> None:
    here.build()
    assert here.world.cache is None


def test_a_long_build_tells_how_far_it_is(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here.device.engine_build, "_EVERY", 0.0)
    here.build()
    assert [text for text in here.said if text.startswith("Tactics")] == [f"Tactics: step {step} of 3" for step in (1, 2, 3)]


def test_a_short_build_does_not_chatter(here: Here) -> None:
    here.build()
    assert len(here.said) == 1


def test_ctrl_c_during_a_build_ends_it(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(text: str) -> None:
        if text.startswith("Tactics"):
            raise KeyboardInterrupt

    monkeypatch.setattr(here.device.engine_build, "_EVERY", 0.0)
    with pytest.raises(KeyboardInterrupt):
        here.device.engine.build_engine(here.onnx, here.plan, RECIPE, interrupt)
    assert not here.plan.exists()


# --- errors -----------------------------------------------------------------------------------------------------------


@every_version
@pytest.mark.parametrize("known", [True, False], ids=["node names by TensorRT", "by the number alone"])
def test_every_node_that_is_refused_is_named(here: Here, known: bool) -> None:
    if not known:  # as in TensorRT 8
        here.trt.ParserError = type("ParserError", (), {name: getattr(here.trt.ParserError, name) for name in ("code", "node", "desc")})  # type: ignore[attr-defined]
    refused_file(here.onnx)
    with here.fails("Unsupported") as caught:
        here.build()
    for number, name in ((1, "odd one"), (3, "another")):
        assert f"node {number} '{name}' (NotInTensorRT): no importer for {number}" in caught.value.message
    assert here.world.compiled == 0


def test_a_file_that_is_not_onnx(here: Here) -> None:
    here.onnx.write_bytes(b"\xff\xff not onnx")
    with here.fails("InvalidFile") as caught:
        here.build()
    assert str(here.onnx) in caught.value.message
    here.onnx.unlink()
    with here.fails("InvalidFile") as caught:
        here.build()
    assert "does not exist" in caught.value.message


@pytest.mark.parametrize("recipe", [{"input": "pixels"}, {"shape": [1, 8, 8, 3]}, {"shape": [1, 4, 4]}])
def test_a_graph_that_is_not_the_recipe_s(here: Here, recipe: dict[str, Any]) -> None:
    with here.fails("InvalidFile") as caught:
        here.build(**recipe)
    assert "'image' (-1, 4, 4, 3)" in caught.value.message
    wanted = {**RECIPE, **recipe}
    assert f"{wanted['input']!r} of the shape {tuple(wanted['shape'])}" in caught.value.message


def test_a_failed_build_ends_with_the_log_and_leaves_the_old_engine(here: Here) -> None:
    here.plan.write_bytes(b"old")
    here.world.build_fails = True
    with here.fails("DeviceError") as caught:
        here.build(cached=True)
    assert caught.value.message.endswith("\n  warning: not enough memory for a tactic\n  internal error: no implementation for node second")
    assert "building" not in caught.value.message
    assert here.plan.read_bytes() == b"old"
    assert not here.cache.exists()


def test_an_engine_that_cannot_be_written(here: Here) -> None:
    here.plan = here.folder / "nowhere" / "model.engine"
    with here.fails("DeviceError") as caught:
        here.build()
    assert str(here.plan) in caught.value.message


@pytest.mark.parametrize("error", [TypeError, RuntimeError, ValueError, MemoryError])
def test_what_the_bindings_raise_becomes_a_device_error(here: Here, error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise error("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(here.trt.Builder, "create_builder_config", broken)
    with here.fails("DeviceError") as caught:
        here.build()
    assert "nullptr" in caught.value.message


@every_version
@pytest.mark.parametrize("other", ["8.6.2", "10.3.1", "10.7.0", "11.0.0"])
def test_an_engine_of_another_version_is_refused_before_tensorrt_sees_it(here: Here, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here.plan.write_bytes(header(other) + b"body")
    monkeypatch.setattr(here.trt, "Runtime", None)  # whoever calls it fails otherwise
    with here.fails("Unsupported") as caught:
        here.open()
    assert other in caught.value.message
    assert here.trt.__version__ in caught.value.message
    assert "run.py build" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 something else entirely, longer than a header", None])
def test_a_file_that_is_no_engine(here: Here, content: bytes | None) -> None:
    if content is not None:
        here.plan.write_bytes(content)
    with here.fails("InvalidFile") as caught:
        here.open()
    assert str(here.plan) in caught.value.message


def test_an_engine_that_cannot_be_opened_says_what_tensorrt_says(here: Here, gpu: Device) -> None:
    before = gpu.live
    here.plan.write_bytes(header(here.trt.__version__) + b"not a plan")
    with here.fails("DeviceError") as caught:
        here.open()
    assert caught.value.message.endswith("\n  error: the plan's body is damaged")
    here.build()
    here.world.no_context = True
    with here.fails("DeviceError") as caught:
        here.open()
    assert caught.value.message.endswith("\n  error: no memory for activations")
    assert gpu.live == before


def test_a_network_that_cannot_be_captured_is_not_run_some_other_way(here: Here, gpu: Device) -> None:
    here.build()
    here.world.not_capturable = True
    before = gpu.live
    with here.fails("Unsupported") as caught:
        here.open()
    assert "a layer waits for the host" in caught.value.message
    assert "cuda_graph=False" in caught.value.hint
    assert gpu.live == before


@pytest.mark.parametrize(
    "function", ["cudaMalloc", "cudaHostAlloc", "cudaStreamCreate", "cudaEventCreate", "cudaGraphInstantiateWithFlags"]
)
def test_an_error_of_cuda_while_opening_leaves_nothing_behind(here: Here, gpu: Device, function: str) -> None:
    here.build()
    before = gpu.live
    gpu.fail(function, 2)
    with here.fails("DeviceError") as caught:
        here.open()
    assert f"{function} failed: out of memory" in caught.value.message
    assert gpu.live == before
    with here.open() as session:
        np.testing.assert_array_equal(session.run(pixels()), expected(pixels()))


# --- TensorRT not installed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["describe_gpu", "build_engine", "open_engine"])
def test_without_tensorrt_the_way_to_get_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpu: Device, call: str) -> None:
    device = load_device(monkeypatch, tmp_path, None, gpu)
    arguments = {"describe_gpu": (), "build_engine": ("m.onnx", "m.engine", RECIPE, print), "open_engine": ("m.engine",)}
    with pytest.raises(device.errors.MissingDependency, match="TensorRT") as caught:
        getattr(device.engine, call)(*arguments[call])
    assert caught.value.exit_code == 3
    assert "tlexport[tensorrt]" in caught.value.hint
    assert "trtexec" in caught.value.hint


@pytest.mark.parametrize("name", [None, "tensorrt", "tensorrt.tensorrt", "tensorrt_bindings.tensorrt", "tensorrt_libs"])
def test_bindings_whose_libraries_are_missing_are_missing_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpu: Device, name: str | None
) -> None:
    device = load_device(monkeypatch, tmp_path, None, gpu)
    (tmp_path / "tensorrt.py").write_text(f'raise ImportError("libnvinfer.so.10: cannot open shared object file", name={name!r})')
    monkeypatch.delitem(sys.modules, "tensorrt")
    with pytest.raises(device.errors.MissingDependency, match=r"libnvinfer\.so\.10"):
        device.engine.describe_gpu()


def test_a_bug_of_ours_is_not_taken_for_its_absence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpu: Device, here: Here) -> None:
    replaced = [("runtimes/engine_build.py", "from .onnx_nodes import", "from .onnx_knots import")]
    device = load_device(monkeypatch, tmp_path / "bug", here.trt, gpu, replaced)
    with pytest.raises(ModuleNotFoundError, match="onnx_knots"):
        device.engine.describe_gpu()


# --- pieces -----------------------------------------------------------------------------------------------------------


def test_node_names_without_the_onnx_package(tmp_path: Path) -> None:
    import onnx

    from tlexport.device.runtimes.onnx_nodes import read_nodes

    model = onnx.load_model(refused_file(tmp_path / "m.onnx"))
    assert [tuple(node) for node in read_nodes(tmp_path / "m.onnx")] == [(node.name, node.op_type) for node in model.graph.node]
    whole = (tmp_path / "m.onnx").read_bytes()
    for length in range(len(whole)):  # any truncation ends without an error
        (tmp_path / "cut.onnx").write_bytes(whole[:length])
        assert len(read_nodes(tmp_path / "cut.onnx")) <= len(model.graph.node)
    assert read_nodes(tmp_path / "nowhere.onnx") == []


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"Layers": 3}', '{"Layers": [{}]}', '{"Layers": [{"Name": "a", "Inputs": [1]}]}'])
def test_layer_information_that_is_not_as_expected(text: str) -> None:
    from tlexport.device.errors import DeviceError
    from tlexport.device.runtimes.engine_layers import read_layers

    with pytest.raises(DeviceError, match="engine information"):
        read_layers(text)


def test_layer_information_of_names_alone_and_of_other_types() -> None:
    from tlexport.device.runtimes.engine_layers import read_layers

    assert [layer.name for layer in read_layers('{"Layers": ["conv1 + relu1", "fc"], "Bindings": []}').layers] == ["conv1 + relu1", "fc"]
    types = {
        "Row major linear FP32": "float32",
        "Channel major FP16 format where channel % 8 == 0": "float16",
        "Two wide channel vectorized row major UInt8 format": "uint8",
        "BFloat16": "bfloat16",
        "Int32": "int32",
        "something new": "something new",
    }
    tensors = [{"Name": "t", "Format/Datatype": text} for text in types]
    [layer] = read_layers(json.dumps({"Layers": [{"Name": "a", "LayerType": "Reformat", "Inputs": tensors}]})).layers
    assert layer.inputs == tuple(types.values())


class EventsOnly:
    """An engine as far as the bench's clock is concerned: every run takes so much longer than the one before."""

    cuda_graph = True

    def __init__(self) -> None:
        self.runs = 0

    def time_run(self) -> SimpleNamespace:
        self.runs += 1
        return SimpleNamespace(compute_ms=0.5 + 0.1 * self.runs, to_device_ms=0.2, to_host_ms=0.01)


@pytest.mark.parametrize("copies", [True, False])
def test_a_bench_says_what_its_latency_counts(copies: bool) -> None:
    from tlexport.device.bench import by_events

    session = EventsOnly()
    found = by_events(session, [900_000, 910_000, 920_000], copies)
    assert session.runs == 3
    assert found["gpu_ms"] == {"compute": 0.7, "to_device": 0.2, "to_host": 0.01}
    assert ("not counted" in found["mode"]) != copies
    assert found.get("latencies_ns") == (None if copies else [600_000, 700_000, 800_000])

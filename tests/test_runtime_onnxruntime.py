"""The ONNX Runtime plug-in: correct results, no silent fallback, and errors that name their cause."""

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from commands import here
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, numpy_helper

from tlexport import plugins
from tlexport.contract import TensorSpec
from tlexport.errors import InvalidFile, StepFailed, Unsupported, UsageError
from tlexport.ports import RunOptions
from tlexport.runtimes import onnxruntime as runtime
from tlexport.runtimes import onnxruntime_tensorrt

CLASSIFIER = """
<ir_version: 8, opset_import: ["": 17]>
classifier (uint8[batch,8,8,3] image) => (float[batch,3] probabilities) {
  pixels = Cast<to=1>(image)
  means = ReduceMean<axes=[1,2], keepdims=0>(pixels)
  hundredth = Constant<value_float=0.01>()
  logits = Mul(means, hundredth)
  probabilities = Softmax<axis=-1>(logits)
}
"""


def save(text: str, path: Path) -> Path:
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    return path


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    return save(CLASSIFIER, tmp_path / "model.onnx")


def images(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def by_hand(image: Any) -> Any:
    logits = image.astype(np.float64).mean(axis=(1, 2)) * 0.01
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def test_computes_what_the_graph_says(classifier: Path) -> None:
    with runtime.open_model(classifier, RunOptions()) as runner:
        assert runner.provider == "CPUExecutionProvider"
        assert runner.inputs == (TensorSpec(name="image", dtype="uint8", shape=("batch", 8, 8, 3)),)
        assert runner.outputs == (TensorSpec(name="probabilities", dtype="float32", shape=("batch", 3)),)
        found = runner.run({"image": images(5)})
    assert list(found) == ["probabilities"]
    assert found["probabilities"].dtype == np.float32
    np.testing.assert_allclose(found["probabilities"], by_hand(images(5)), atol=1e-6)


def test_results_are_fresh_arrays(classifier: Path) -> None:
    with runtime.open_model(classifier, RunOptions()) as runner:
        first = runner.run({"image": images(1, seed=1)})["probabilities"]
        runner.run({"image": images(1, seed=2)})
    np.testing.assert_allclose(first, by_hand(images(1, seed=1)), atol=1e-6)


def test_a_batch_is_its_images_one_by_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    with runtime.open_model(save(CLASSIFIER, tmp_path_factory.mktemp("law") / "model.onnx"), RunOptions(threads=1)) as runner:

        @settings(max_examples=25, deadline=None)
        @given(st.integers(1, 4).flatmap(lambda n: arrays.arrays(np.uint8, (n, 8, 8, 3))))
        def law(batch: Any) -> None:
            together = runner.run({"image": batch})["probabilities"]
            alone = [runner.run({"image": image[None]})["probabilities"][0] for image in batch]
            np.testing.assert_allclose(together, alone, atol=1e-6)

        law()


@pytest.mark.parametrize("onnx_type", ["uint8", "int8", "int32", "int64", "bool", "float16", "float", "double"])
def test_every_declared_dtype_is_read_and_accepted(onnx_type: str, tmp_path: Path) -> None:
    path = save(
        f'<ir_version: 8, opset_import: ["": 17]> g ({onnx_type}[2] x) => ({onnx_type}[2] y) {{ y = Identity(x) }}', tmp_path / "m.onnx"
    )
    with runtime.open_model(path, RunOptions()) as runner:
        given_array = np.array([0, 1], dtype=runner.inputs[0].dtype)
        found = runner.run({"x": given_array})["y"]
    assert found.dtype == given_array.dtype
    assert found.tolist() == given_array.tolist()


def test_other_tensor_types_are_refused(tmp_path: Path) -> None:
    path = save('<ir_version: 8, opset_import: ["": 17]> g (string[2] x) => (string[2] y) { y = Identity(x) }', tmp_path / "m.onnx")
    with pytest.raises(Unsupported, match=r"'x' of .* is a tensor\(string\)"):
        runtime.open_model(path, RunOptions())


def test_free_axes_keep_their_names_and_nameless_ones_get_one(tmp_path: Path) -> None:
    path = save('<ir_version: 8, opset_import: ["": 17]> g (float[n,?,5] x) => (float[n,?,5] y) { y = Relu(x) }', tmp_path / "m.onnx")
    with runtime.open_model(path, RunOptions()) as runner:
        assert runner.inputs[0].shape == ("n", "x.1", 5)
        assert runner.run({"x": np.ones((2, 3, 5), np.float32)})["y"].shape == (2, 3, 5)


# --- batch, threads, quantization -------------------------------------------------------------------------------------------


def test_batch_is_fixed_through_the_whole_graph(classifier: Path) -> None:
    with runtime.open_model(classifier, RunOptions(batch=4)) as runner:
        assert runner.inputs[0].shape == (4, 8, 8, 3)
        assert runner.outputs[0].shape == (4, 3)
        np.testing.assert_allclose(runner.run({"image": images(4)})["probabilities"], by_hand(images(4)), atol=1e-6)
        with pytest.raises(UsageError, match=r"'image' takes uint8 \(4, 8, 8, 3\); found uint8 \(2, 8, 8, 3\)"):
            runner.run({"image": images(2)})


@pytest.mark.parametrize("axis", ["1", "other"])
def test_a_batch_that_cannot_be_fixed_is_refused(axis: str, tmp_path: Path) -> None:
    path = save(CLASSIFIER.replace("batch", axis), tmp_path / "model.onnx")
    with pytest.raises(Unsupported, match=rf"to 4: its input 'image' has the shape \({axis}, 8, 8, 3\)") as caught:
        runtime.open_model(path, RunOptions(batch=4))
    assert caught.value.exit_code == 4


COUNT_THREADS = """
import sys
from pathlib import Path

import psutil

from tlexport.ports import RunOptions
from tlexport.runtimes import onnxruntime as runtime

before = psutil.Process().num_threads()
with runtime.open_model(Path(sys.argv[1]), RunOptions(threads=int(sys.argv[2]))):
    print(psutil.Process().num_threads() - before)
"""


@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_is_the_one_asked_for(threads: int, classifier: Path) -> None:
    """In a process of its own: in this one threads of earlier tests may still be ending."""
    ran = subprocess.run([sys.executable, "-c", COUNT_THREADS, classifier, str(threads)], capture_output=True, text=True, check=True)
    assert int(ran.stdout) == threads - 1  # the caller's thread works too


@pytest.mark.parametrize(
    "options", [RunOptions(threads=0), RunOptions(threads=-2), RunOptions(batch=0), RunOptions(device="gpu"), RunOptions(device="cuda")]
)
def test_options_that_cannot_be(options: RunOptions, classifier: Path) -> None:
    with pytest.raises(UsageError):
        runtime.open_model(classifier, options)


def test_simulated_quantization_computes_in_float(tmp_path: Path) -> None:
    """255 x 127 x 70000 overflows the int32 accumulator of an integer kernel, but not a float."""
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    dot (float[1,70000] x) => (float[1,1] y) <float one = {1.0}, uint8 zero = {0}, float step = {10000000.0}> {
      xq = QuantizeLinear(x, one, zero)
      xd = DequantizeLinear(xq, one, zero)
      wd = DequantizeLinear(w, one)
      s = MatMul(xd, wd)
      sq = QuantizeLinear(s, step, zero)
      y = DequantizeLinear(sq, step, zero)
    }
    """
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(np.full((70000, 1), 127, np.int8), "w"))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with runtime.open_model(path, RunOptions(simulate_quantization=True)) as runner:
        found = runner.run({"x": np.full((1, 70000), 255, np.float32)})["y"]
    assert found.item() == pytest.approx(255 * 127 * 70000, abs=0.5e7)  # half a quantization step


# --- feeds ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"image": np.zeros((1, 8, 8, 3), np.float32)}, r"'image' takes uint8 \(batch, 8, 8, 3\); found float32 \(1, 8, 8, 3\)"),
        ({"image": np.zeros((1, 3, 8, 8), np.uint8)}, r"'image' takes uint8 \(batch, 8, 8, 3\); found uint8 \(1, 3, 8, 8\)"),
        ({"image": np.zeros((8, 8, 3), np.uint8)}, r"'image' takes uint8 \(batch, 8, 8, 3\); found uint8 \(8, 8, 3\)"),
        ({}, r"'image' takes uint8 \(batch, 8, 8, 3\); found nothing"),
        ({"image": np.zeros((1, 8, 8, 3), np.uint8), "imaeg": np.zeros(1)}, "no input 'imaeg'; did you mean 'image'"),
    ],
)
def test_wrong_feeds_are_named(feeds: dict[str, Any], message: str, classifier: Path) -> None:
    """On the first run, after one that was right, and when tried again."""
    with runtime.open_model(classifier, RunOptions()) as runner:
        for _ in range(2):
            with pytest.raises(UsageError, match=message) as caught:
                runner.run(feeds)
            assert caught.value.exit_code == 2
            assert runner.run({"image": images(1)})["probabilities"].shape == (1, 3)


def test_a_failing_run_says_why(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[n,3] x) => (float[2,3] y) <int64[2] shape = {2, 3}> { y = Reshape(x, shape) }'
    with runtime.open_model(save(text, tmp_path / "m.onnx"), RunOptions()) as runner:
        assert runner.run({"x": np.zeros((2, 3), np.float32)})["y"].shape == (2, 3)
        with pytest.raises(StepFailed, match=r"m\.onnx.*Reshape") as caught:
            runner.run({"x": np.zeros((5, 3), np.float32)})
    assert "\n" not in caught.value.message


# --- files ------------------------------------------------------------------------------------------------------------------


def broken(kind: str, path: Path) -> None:
    model = onnx.parser.parse_model(CLASSIFIER)
    if kind == "truncated":
        path.write_bytes(model.SerializeToString()[:-40])
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("this is no model\n" * 20)
    elif kind == "text with the suspicious word":
        path.write_text("location, location, location\n" * 20)
    elif kind == "directory":
        path.mkdir()
    elif kind == "unknown operator":
        model.graph.node[0].op_type = "Cats"
        path.write_bytes(model.SerializeToString())
    elif kind == "dangling edge":
        model.graph.node[1].input[0] = "nowhere"
        path.write_bytes(model.SerializeToString())
    elif kind == "future format":
        model.ir_version = 999
        path.write_bytes(model.SerializeToString())
    elif kind == "future opset":
        model.opset_import[0].version = 999
        path.write_bytes(model.SerializeToString())


KINDS = [
    "missing",
    "truncated",
    "empty",
    "text",
    "text with the suspicious word",
    "directory",
    "unknown operator",
    "dangling edge",
    "future format",
    "future opset",
]


@pytest.mark.parametrize("kind", KINDS)
def test_broken_files_are_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    broken(kind, path)
    with pytest.raises(InvalidFile) as caught:
        runtime.open_model(path, RunOptions())
    assert str(path) in caught.value.message
    assert caught.value.exit_code == 2


def test_an_operator_without_a_kernel_is_unsupported(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["": 17]> g (double[1,1,4,4] x, double[1,1,3,3] w) => (double[1,1,2,2] y) { y = Conv(x, w) }'
    with pytest.raises(Unsupported, match="Conv") as caught:
        runtime.open_model(save(text, tmp_path / "m.onnx"), RunOptions())
    assert caught.value.exit_code == 4


def point_outside(tensor: TensorProto, location: str) -> None:
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)


@pytest.mark.parametrize("place", ["initializer", "attribute", "subgraph"])
def test_weights_in_other_files_are_refused(place: str, tmp_path: Path) -> None:
    """Even where the other file is there and would be read."""
    weights = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    (tmp_path / "weights.bin").write_bytes(np.ones((4, 4), np.float32).tobytes())
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[4,4] x) => (float[4,4] y) { y = Add(x, w) }'
    model = onnx.parser.parse_model(text)
    if place == "initializer":
        model.graph.initializer.append(weights)
        point_outside(model.graph.initializer[0], "weights.bin")
    else:
        constant = onnx.helper.make_node("Constant", [], ["w"], value=weights)
        point_outside(constant.attribute[0].t, "weights.bin")
        if place == "attribute":
            model.graph.node.insert(0, constant)
        else:
            inner = [
                onnx.helper.make_graph([constant], "branch", [], [onnx.helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 4])])
            ] * 2
            condition = onnx.helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True)))
            model.graph.node.insert(0, onnx.helper.make_node("If", ["yes"], ["w"], then_branch=inner[0], else_branch=inner[1]))
            model.graph.node.insert(0, condition)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InvalidFile, match="external data"):
        runtime.open_model(path, RunOptions())


def test_a_model_that_only_mentions_locations_is_opened(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(CLASSIFIER)
    model.metadata_props.add(key="location", value="../elsewhere")
    model.graph.node[0].name = "allocation"
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with runtime.open_model(path, RunOptions()) as runner:
        np.testing.assert_allclose(runner.run({"image": images(1)})["probabilities"], by_hand(images(1)), atol=1e-6)


# --- devices and the log ----------------------------------------------------------------------------------------------------

OPEN = """
import json, sys
from pathlib import Path
from tlexport.errors import TlxError
from tlexport import plugins
from tlexport.ports import RunOptions
try:
    with plugins.runtime(sys.argv[3]).open_model(Path(sys.argv[1]), RunOptions(device=sys.argv[2])) as runner:
        print(json.dumps({"provider": runner.provider}))
except TlxError as error:
    print(json.dumps({"kind": type(error).__name__, "message": error.message, "hint": error.hint, "exit_code": error.exit_code}))
"""


def opened_elsewhere(path: Path, device: str, name: str = "onnxruntime", **environment: str) -> tuple[dict[str, Any], str]:
    """Output of opening a model in a new process, and that process's standard error."""
    search_path = os.pathsep.join([str(Path(plugins.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", OPEN, str(path), device, name]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": search_path} | environment)
    return json.loads(done.stdout), done.stderr


def test_opening_on_the_cpu_writes_nothing_to_standard_error(classifier: Path) -> None:
    assert opened_elsewhere(classifier, "cpu") == ({"provider": "CPUExecutionProvider"}, "")


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime_tensorrt"])
def test_a_gpu_that_is_not_there_is_unsupported_and_never_the_cpu(classifier: Path, name: str) -> None:
    found, log = opened_elsewhere(classifier, "cuda:0", name, CUDA_VISIBLE_DEVICES="")
    assert found["kind"] == "Unsupported"
    assert found["exit_code"] == 4
    assert f"cannot run {classifier} on cuda:0: " in found["message"]
    assert len(found["message"].partition("cuda:0: ")[2]) > 10  # a reason
    assert "--device cpu" in found["hint"]
    assert log == ""  # the reason is in the message; the raw log is not shown as well


def test_tensorrt_as_a_provider_is_refused_what_it_would_not_do(classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="requested device is cpu"):
        onnxruntime_tensorrt.open_model(classifier, RunOptions())
    with pytest.raises(Unsupported, match="simulated quantization"):
        onnxruntime_tensorrt.open_model(classifier, RunOptions(device="cuda:0", simulate_quantization=True))
    (tmp_path / "text.onnx").write_text("no model")
    for path in (tmp_path / "text.onnx", tmp_path / "nothing.onnx"):
        with pytest.raises(InvalidFile, match=path.name):
            onnxruntime_tensorrt.open_model(path, RunOptions(device="cuda:0"))


def test_tensorrt_as_a_provider_is_allowed_the_precisions_of_the_graph(classifier: Path, bundle: Path) -> None:
    settings = {path.name: onnxruntime_tensorrt._allowed(path) for path in (classifier, *bundle.glob("*.onnx"))}
    allowed = {name: (found["trt_fp16_enable"], found["trt_int8_enable"]) for name, found in settings.items()}
    assert allowed[classifier.name] == allowed["model.fp32.onnx"] == ("0", "0")
    assert allowed["model.fp16.onnx"] == ("1", "0")
    assert allowed["model.int8.onnx"][1] == "1"


@pytest.mark.parametrize(("words", "code"), [(("--runtime", "torch", "--provider", "tensorrt"), 2), (("--provider", "tensorrt"), 4)])
def test_the_provider_is_chosen_on_the_command_line(
    words: tuple[str, ...], code: int, bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ended = here(capfd, "bench", bundle, "--precision", "fp32", *words)
    assert (ended.code, ended.out) == (code, "")
    assert ("--provider needs --runtime onnxruntime, not torch" if code == 2 else "cuda:0") in ended.err


def gpu_driver() -> bool:
    try:
        return bool(ctypes.CDLL("libcuda.so.1").cuInit(0) == 0)
    except OSError:
        return False


@pytest.mark.skipif(not gpu_driver(), reason="needs an NVIDIA GPU and its driver")
def test_a_gpu_that_is_there_runs_the_model(classifier: Path) -> None:
    with runtime.open_model(classifier, RunOptions(device="cuda:0")) as runner:
        assert runner.provider == "CUDAExecutionProvider"
        np.testing.assert_allclose(runner.run({"image": images(4)})["probabilities"], by_hand(images(4)), atol=1e-5)


def test_the_library_log_hides_warnings_and_keeps_errors(capfd: pytest.CaptureFixture[str]) -> None:
    with runtime.native_log() as log:
        os.write(2, b"\x1b[0;93m2026-01-01 00:00:00.0 [W:onnxruntime:Default, device_discovery.cc:1 f] no card\x1b[m\n")
        os.write(2, b"\x1b[1;31m2026-01-01 00:00:00.0 [E:onnxruntime:Default, provider.cc:1 f] broken card\x1b[m\n")
        os.write(2, b"from another library\n")
    assert capfd.readouterr().err == ""
    runtime.pass_on(log)
    shown = capfd.readouterr().err.splitlines()
    assert [line.rpartition("] ")[2] for line in shown] == ["broken card", "from another library"]


def test_a_missing_library_is_a_missing_dependency() -> None:
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from tlexport import plugins\nfrom tlexport.errors import MissingDependency\n"
        "try: plugins.runtime('onnxruntime')\n"
        "except MissingDependency as error: print(error.exit_code, error.message, error.hint, sep='|')\n"
    )
    search_path = os.pathsep.join([str(Path(plugins.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": search_path}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    exit_code, message, hint = done.stdout.split("|")
    assert exit_code == "3"
    assert "'onnxruntime'" in message
    assert "pip install" in hint

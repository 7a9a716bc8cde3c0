"""Measuring: properties of the timing loop, and measurements in real processes."""

import gc
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnx.parser
import psutil
import pytest
from bench_requests import CLASSIFIER, request
from hypothesis import given, settings
from hypothesis import strategies as st

import tlexport
from tlexport.bench import process
from tlexport.bench.environment import default_threads, describe_machine, usable_cores
from tlexport.bench.process import batches, feeds_for, measure, peak_memory_bytes
from tlexport.contract import TensorSpec, image_input
from tlexport.device import timing
from tlexport.errors import InvalidFile, StepFailed, Unsupported, UsageError
from tlexport.measurement import Measurement
from tlexport.storage.files import sha256_of

ROOT = Path(tlexport.__file__).parents[1]


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx.parser.parse_model(CLASSIFIER).SerializeToString())
    return path


# --- the clock --------------------------------------------------------------------------------------------------------------


class Recorder:
    """A runner that only records its calls and their times."""

    inputs = (image_input(8, "uint8"),)
    outputs = ()
    provider = "none"

    def __init__(self, seconds: float = 0.0, fail_at: int | None = None) -> None:
        self.seconds = seconds
        self.fail_at = fail_at
        self.seen: list[Any] = []
        self.times: list[float] = []
        self.collecting: list[bool] = []

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        self.seen.append(feeds["turn"])
        self.times.append(time.perf_counter())
        self.collecting.append(gc.isenabled())
        if len(self.seen) == self.fail_at:
            raise StepFailed("on purpose")
        time.sleep(self.seconds)
        return {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass


@settings(deadline=None, max_examples=20)
@given(feeds=st.integers(1, 7), runs=st.integers(1, 300))
def test_every_run_is_a_sample_and_feeds_take_turns(feeds: int, runs: int) -> None:
    runner = Recorder()
    warmup_runs, samples = timing.time_runs(runner.run, [{"turn": np.array(i)} for i in range(feeds)], runs, 0, 300, 0.002)
    assert len(samples) == runs
    assert warmup_runs >= 1
    assert len(runner.seen) == warmup_runs + runs
    assert [int(turn) for turn in runner.seen] == [i % feeds for i in range(len(runner.seen))]
    assert all(sample > 0 for sample in samples)


def test_samples_hold_the_whole_run() -> None:
    _, samples = timing.time_runs(Recorder(seconds=0.003).run, [{"turn": np.array(0)}], 5, 0, 5, 0)
    assert min(samples) >= 3_000_000


def test_timing_goes_on_for_the_time_asked_for() -> None:
    runner = Recorder(seconds=0.002)
    warmup_runs, samples = timing.time_runs(runner.run, [{"turn": np.array(0)}], 1, 0.05, 10_000, 0)
    assert time.perf_counter() - runner.times[warmup_runs] >= 0.045
    assert 2 <= len(samples) <= 25  # each sleeps for 2 ms or longer


def test_the_largest_number_of_runs_ends_it_before_the_time() -> None:
    _, samples = timing.time_runs(Recorder().run, [{"turn": np.array(0)}], 3, 3600, 7, 0)
    assert len(samples) == 7


def test_warm_up_ends_in_time_even_if_never_steady() -> None:
    class Unsteady(Recorder):
        def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
            self.seconds = 0.0002 * 2 ** (len(self.seen) // timing.WINDOW)  # twice as long in each window
            return super().run(feeds)

    assert timing.warm_up(Unsteady().run, iter([{"turn": np.array(0)}] * 10**5), 0.15) < 10**4
    assert timing.warm_up(Recorder(seconds=0.001).run, iter([{"turn": np.array(0)}] * 10), 0) == 1


def test_steady_compares_the_last_two_windows() -> None:
    window = timing.WINDOW
    assert timing._steady([100] * window + [105] * window)
    assert timing._steady([900] * window + [100] * window + [95] * window)
    assert timing._steady([100] * window + [10_000] + [100] * (window - 1))  # one outlier does not move a median
    assert not timing._steady([100] * window + [106] * window)
    assert not timing._steady([100] * window + [94] * window)
    assert not timing._steady([100] * (2 * window - 1))


def test_garbage_is_not_collected_while_timing_and_is_afterwards() -> None:
    assert gc.isenabled()
    runner = Recorder()
    timing.time_runs(runner.run, [{"turn": np.array(0)}], 3, 0, 3, 0)
    assert not any(runner.collecting)
    assert gc.isenabled()
    with pytest.raises(StepFailed):
        timing.time_runs(Recorder(fail_at=2).run, [{"turn": np.array(0)}], 3, 0, 3, 0)
    assert gc.isenabled()
    gc.disable()
    try:
        timing.time_runs(Recorder().run, [{"turn": np.array(0)}], 3, 0, 3, 0)
        assert not gc.isenabled()
    finally:
        gc.enable()


# --- inputs -----------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(count=st.integers(1, 30), batch=st.integers(1, 12))
def test_batches_hold_every_image_in_order(count: int, batch: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    images = np.arange(count * 8 * 8 * 3, dtype=np.uint32).astype(np.uint8).reshape(count, 8, 8, 3)
    path = tmp_path_factory.mktemp("images") / "images.npy"
    np.save(path, images)
    found = [feed["image"] for feed in batches(path, batch, (image_input(8, "uint8"),))]
    assert all(array.shape == (batch, 8, 8, 3) and array.dtype == np.uint8 for array in found)
    together = np.concatenate(found)
    assert count <= len(together) < count + batch
    np.testing.assert_array_equal(together, images[np.arange(len(together)) % count])


def test_batches_stay_within_the_memory_they_are_allowed(tmp_path: Path) -> None:
    size = 512
    image_bytes = size * size * 3
    count = process.INPUT_BYTES // image_bytes + 5
    np.save(tmp_path / "images.npy", np.zeros((count, size, size, 3), np.uint8))
    for batch in (1, 3, count):
        found = batches(tmp_path / "images.npy", batch, (image_input(size, "uint8"),))
        held = sum(feed["image"].nbytes for feed in found)
        assert held <= max(process.INPUT_BYTES, batch * image_bytes)
        assert held + batch * image_bytes > process.INPUT_BYTES  # one more would not fit


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_made_up_pixels_have_the_declared_shape_and_range(dtype: Any, classifier: Path) -> None:
    [feed], words = feeds_for(request(classifier, batch=3), (image_input(8, dtype),))
    assert words == f"synthetic, from the declared shapes: image {dtype} 3x8x8x3, random pixels 0..255"
    assert (feed["image"].shape, feed["image"].dtype) == ((3, 8, 8, 3), dtype)
    assert feed["image"].min() < 30
    assert 225 < feed["image"].max() <= 255
    np.testing.assert_array_equal(feed["image"], feeds_for(request(classifier, batch=3), (image_input(8, dtype),))[0][0]["image"])


def test_nothing_is_made_up_for_free_axes(classifier: Path) -> None:
    with pytest.raises(Unsupported, match="'image' has free axes"):
        feeds_for(request(classifier), (TensorSpec(name="image", dtype="uint8", shape=("batch", "height", 8, 3)),))


@pytest.mark.parametrize(
    "images",
    [np.zeros((4, 8, 8, 3), np.float32), np.zeros((8, 8, 3), np.uint8), np.zeros((0, 8, 8, 3), np.uint8), np.array([{}], dtype=object)],
)
def test_inputs_of_another_kind_are_refused(images: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", images)
    with pytest.raises(InvalidFile, match=r"images\.npy"):
        batches(tmp_path / "images.npy", 1, (image_input(8, "uint8"),))


@pytest.mark.parametrize("content", [None, b"", b"not an array", b"\x93NUMPY\x01\x00"])
def test_inputs_that_cannot_be_read_are_refused(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "images.npy").write_bytes(content)
    with pytest.raises(InvalidFile, match=r"images\.npy"):
        batches(tmp_path / "images.npy", 1, (image_input(8, "uint8"),))


# --- the environment --------------------------------------------------------------------------------------------------------


def test_environment_is_this_machine() -> None:
    found = describe_machine()
    assert found.machine == platform.machine()
    assert found.python == platform.python_version()
    assert found.memory_bytes == psutil.virtual_memory().total
    assert found.cpu.strip() == found.cpu != ""
    assert found.accelerator is None
    assert found.versions["numpy"] == np.__version__
    assert found.versions["tlexport"] == tlexport.__version__
    assert {"onnxruntime", "onnxruntime-gpu"} & found.versions.keys()
    assert 1 <= default_threads() <= found.cores == usable_cores() <= (os.cpu_count() or 1)


def test_environment_of_a_gpu_names_it() -> None:
    assert describe_machine("cuda:0").accelerator


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_cores_are_those_the_process_may_use() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from tlexport.bench.environment import default_threads, usable_cores\nprint(usable_cores(), default_threads())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["1", "1"]


# --- the process ------------------------------------------------------------------------------------------------------------


def test_a_measurement_holds_what_was_asked_for(classifier: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    found = measure(request(classifier, batch=2, threads=1, inputs=str(tmp_path / "images.npy")))
    assert (found.what, found.runtime, found.provider, found.precision) == ("tiny", "onnxruntime", "CPUExecutionProvider", "fp32")
    assert (found.threads, found.batch) == (1, 2)
    assert found.artifact_sha256 == sha256_of(classifier)
    assert found.size_bytes == classifier.stat().st_size
    assert len(found.latencies_ns) == 25
    assert found.warmup_runs >= 1
    assert found.environment == describe_machine().model_copy(update={"load_1min": found.environment.load_1min})
    found.write(tmp_path / "measurement.json")
    assert Measurement.read(tmp_path / "measurement.json") == found


def test_without_a_number_the_threads_are_chosen_and_told(classifier: Path) -> None:
    assert measure(request(classifier)).threads == default_threads()


def test_peak_memory_is_the_childs_own(classifier: Path) -> None:
    ballast = np.ones(50_000_000)  # 400 MB, touched
    own = peak_memory_bytes()
    child = measure(request(classifier)).peak_memory_bytes
    assert own > ballast.nbytes
    assert 20_000_000 < child < own - 200_000_000


def test_peak_memory_counts_the_model(classifier: Path, tmp_path: Path) -> None:
    text = CLASSIFIER.replace("Cast<to=1>(image)", "Cast<to=1>(doubled)").replace("pixels =", "doubled = Tile(image, times) pixels =")
    large = onnx.parser.parse_model(
        text.replace("probabilities)", "probabilities) <int64[4] times = {1, 2000, 100, 1}>", 1)
    )  # 38 MB, then 154 MB
    (tmp_path / "large.onnx").write_bytes(large.SerializeToString())
    few = {"min_runs": 1, "max_runs": 1, "warmup_seconds": 0}
    small = measure(request(classifier, **few)).peak_memory_bytes
    assert measure(request(tmp_path / "large.onnx", **few)).peak_memory_bytes > small + 100_000_000


def test_the_child_loads_its_runtime_and_not_the_other(classifier: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "tlexport.bench.process"]
    done = subprocess.run(command, input=request(classifier).model_dump_json(), capture_output=True, text=True, check=True, cwd=ROOT)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "onnxruntime" in imported
    assert not {"torch", "onnx", "rich", "matplotlib"} & imported
    assert len(json.loads(done.stdout)["latencies_ns"]) == 25


def test_the_working_directory_does_not_matter(classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("numpy", "json", "tlexport", "onnxruntime"):
        (classifier.parent / f"{name}.py").write_text("raise SystemExit('imported from the working directory')")
    monkeypatch.chdir(classifier.parent)
    assert len(measure(request(Path("model.onnx"), size_bytes=1)).latencies_ns) == 25


def test_the_child_finds_the_package_wherever_its_parent_found_it(classifier: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\nfrom tlexport.bench.process import BenchRequest, measure\n"
        "print(len(measure(BenchRequest.model_validate_json(sys.argv[2])).latencies_ns))"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-P", "-c", code, str(ROOT), request(classifier).model_dump_json()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path)
    assert done.stdout.strip() == "25"


def test_errors_of_the_child_arrive_as_they_were(tmp_path: Path, classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidFile, match="does not exist") as missing:
        measure(request(tmp_path / "missing.onnx"))
    assert str(tmp_path / "missing.onnx") in missing.value.message
    with pytest.raises(UsageError, match="did you mean 'onnxruntime'") as unknown:
        measure(request(classifier, runtime="onnxruntim"))
    assert "onnxruntime" in unknown.value.hint
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(Unsupported, match="cuda:0") as unsupported:
        measure(request(classifier, device="cuda:0"))
    assert unsupported.value.exit_code == 4
    assert "--device cpu" in unsupported.value.hint


def startup(folder: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every Python that this process starts run some code first."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    monkeypatch.syspath_prepend(folder)


def test_a_child_that_ends_without_an_answer_is_reported(classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    startup(tmp_path / "start", "import os, sys; print('out of luck', file=sys.stderr, flush=True); os._exit(3)", monkeypatch)
    with pytest.raises(StepFailed, match=r"measuring tiny failed.*exit code 3[^$]*out of luck") as caught:
        measure(request(classifier))
    assert caught.value.exit_code == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_child_that_is_killed_is_reported(classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    startup(tmp_path / "start", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)", monkeypatch)
    with pytest.raises(StepFailed, match="signal 9") as caught:
        measure(request(classifier))
    assert "memory" in caught.value.hint


def test_what_others_print_does_not_spoil_the_answer(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    startup(
        tmp_path / "start",
        "import atexit, sys; print('{\"hello\": 1}'); atexit.register(print, 'bye'); print('a warning', file=sys.stderr)",
        monkeypatch,
    )
    assert len(measure(request(classifier)).latencies_ns) == 25
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "a warning" in shown.err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows interrupts by other means")
def test_interrupting_the_parent_ends_the_child(classifier: Path) -> None:
    code = "import sys\nfrom tlexport.bench.process import BenchRequest, measure\nmeasure(BenchRequest.model_validate_json(sys.argv[1]))"
    endless = request(classifier, min_seconds=3600, max_runs=10**9)
    command = [sys.executable, "-c", code, endless.model_dump_json()]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, start_new_session=True) as parent:
        try:
            children: list[psutil.Process] = []
            while parent.poll() is None and not (children and children[0].cpu_times().user > 0.2):  # it is at work
                time.sleep(0.02)
                children = psutil.Process(parent.pid).children()
            parent.send_signal(signal.SIGINT)  # to the parent only, as a supervisor does; a terminal sends it to both
            _, log = parent.communicate(timeout=30)
        finally:
            parent.kill()
    assert b"KeyboardInterrupt" in log
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert len(gone) == 1
    assert not alive


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("threads", 0),
        ("batch", 0),
        ("min_runs", 0),
        ("max_runs", 24),
        ("min_seconds", -1),
        ("warmup_seconds", -1),
        ("precision", "int4"),
        ("runs", 1),
    ],
)
def test_requests_that_cannot_be(key: str, value: Any, classifier: Path) -> None:
    with pytest.raises(InvalidFile, match=key):
        request(classifier, **{key: value})

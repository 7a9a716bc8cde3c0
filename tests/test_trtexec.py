"""TensorRT through trtexec: command lines that each version accepts, and the handling of its results.

The program is the stand-in in tests/trtexec_files.py, which knows the options of each version. None of this has run on TensorRT.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trtexec_files as fake
from measurements import ENVIRONMENT, of
from trtexec_files import VERSIONS, Version

from tlexport.artifact import PRECISIONS
from tlexport.bench.trtexec import measurement
from tlexport.device.errors import DeviceError, InvalidFile, MissingDependency, Unsupported
from tlexport.device.runtimes import trtexec, trtexec_program
from tlexport.device.runtimes.plan_header import read_plan_version
from tlexport.device.runtimes.trtexec_command import TimingOptions, bench_command, build_command, predict_command
from tlexport.errors import Unsupported as NotHere
from tlexport.measurement import Measurement

SIZE = 8
RECIPE: dict[str, Any] = {"input": "image", "shape": [1, SIZE, SIZE, 3], "workspace_mb": 512, "precision": "fp16", "opset": 17}
versions = pytest.mark.parametrize("version", VERSIONS, ids=str)
some = pytest.mark.parametrize("version", [(8, 2, 1), (8, 5, 2), (10, 3, 0), (11, 1, 0, 30)], ids=str)  # each start takes a while
posix = pytest.mark.skipif(os.name != "posix", reason="the stand-in for trtexec is started by its first line, which Windows does not read")


def options(command: tuple[str, ...]) -> dict[str, str]:
    """Each option once, without its dashes."""
    found = dict(argument.removeprefix("--").partition("=")[::2] for argument in command)
    assert len(found) == len(command)
    return found


def commands(version: Version, recipe: dict[str, Any]) -> list[tuple[str, ...]]:
    found = [build_command(version, "m.onnx", "m.engine", recipe, cache) for cache in (None, "t.cache")]
    found += [predict_command(version, "m.engine", recipe, "in.bin", "out.json")]
    for transfers in (False, True):
        found += [
            bench_command(version, "m.engine", recipe, "t.json", profile, TimingOptions(transfers=transfers))
            for profile in (None, "p.json")
        ]
    return found


# --- command lines ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [13, 17, 20])
@pytest.mark.parametrize("precision", PRECISIONS)
@versions
def test_every_option_exists_in_that_version(version: Version, precision: str, opset: int) -> None:
    for command in commands(version, RECIPE | {"precision": precision, "opset": opset}):
        assert [name for name in options(command) if not fake.has(version, name)] == []


@versions
def test_a_build_builds_for_one_image_and_runs_nothing(version: Version) -> None:
    given = options(build_command(version, "m.onnx", "m.engine", RECIPE, "t.cache"))
    assert (given["onnx"], given["saveEngine"], given["timingCacheFile"]) == ("m.onnx", "m.engine", "t.cache")
    assert {given[f"{kind}Shapes"] for kind in ("min", "opt", "max")} == {f"image:1x{SIZE}x{SIZE}x3"}
    assert (given.get("workspace") or given["memPoolSize"].removeprefix("workspace:")) == "512"
    assert len({"buildOnly", "skipInference"} & set(given)) == 1


@pytest.mark.parametrize("precision", PRECISIONS)
@versions
def test_fp32_is_not_rounded_to_tf32(version: Version, precision: str) -> None:
    """As the Python way has it: the two build the same engine."""
    given = options(build_command(version, "m.onnx", "m.engine", RECIPE | {"precision": precision}))
    assert ("noTF32" in given) == (precision == "fp32")


@versions
@pytest.mark.parametrize("transfers", [False, True])
def test_all_versions_measure_the_same_thing(version: Version, transfers: bool) -> None:
    """The options that the version does not set by default: graph capture, busy waiting, and the requested copies."""
    given = set(options(bench_command(version, "m.engine", RECIPE, "t.json", "p.json", TimingOptions(transfers=transfers))))
    turned = version >= (11,)
    assert turned or "useCudaGraph" in given
    assert turned or "useSpinWait" in given
    assert turned or "separateProfileRun" in given  # else the times are those of a run with a profiler
    assert ("includeDataTransfers" in given if turned else "noDataTransfers" not in given) == transfers


@pytest.mark.parametrize(("seconds", "whole", "exact"), [(0.5, "1", "0.5"), (1.0, "1", "1"), (2.25, "3", "2.25"), (0, "0", "0")])
@versions
def test_a_measurement_is_as_long_as_asked(version: Version, seconds: float, whole: str, exact: str) -> None:
    """Before 8.5 the option is a whole number, and "0.5" is read as 0."""
    given = options(bench_command(version, "m.engine", RECIPE, "t.json", timing=TimingOptions(7, seconds, 50)))
    assert given["duration"] == (whole if version < (8, 5) else exact)
    assert (given["iterations"], given["warmUp"]) == ("7", "50")


@pytest.mark.parametrize(
    "change",
    [
        {"input": ""},
        {"input": "a,b"},
        {"input": None},
        {"shape": []},
        {"shape": "1x2"},
        {"shape": [1, 0]},
        {"shape": [1, True]},
        {"workspace_mb": 0},
        {"workspace_mb": "1024"},
        {"opset": 17.0},
    ],
    ids=str,
)
def test_a_recipe_that_is_odd_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidFile, match=next(iter(change))) as error:
        build_command((10, 3, 0), "m.onnx", "m.engine", RECIPE | change)
    assert repr(next(iter(change.values()))) in error.value.message


@pytest.mark.parametrize("name", ["a,b.bin", "a:b.bin"])
def test_a_name_that_trtexec_would_take_apart_is_refused(name: str) -> None:
    with pytest.raises(InvalidFile, match="comma"):
        predict_command((10, 3, 0), "m.engine", RECIPE, name, "out.json")


# --- running ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle's folder, whose name holds what trtexec treats as its own marks; and no trtexec but those that a test sets."""
    path = tmp_path / "my bundle, (1): x=y"
    path.mkdir()
    (path / "model.onnx").write_bytes(b"a graph")
    for name in ("FAKE", "FAKE_LOG", "TRTEXEC"):
        monkeypatch.delenv(name, raising=False)
    return path


def use(monkeypatch: pytest.MonkeyPatch, folder: Path, version: Version) -> Path:
    found = fake.program(folder.parent / "tensor rt", version)
    monkeypatch.setenv("TRTEXEC", str(found))
    return found


def engine(folder: Path, version: Version) -> Path:
    path = folder / "model.engine"
    path.write_bytes(fake.plan(version, b"a graph"))
    return path


@posix
@some
def test_from_the_model_to_a_measurement_and_a_prediction(monkeypatch: pytest.MonkeyPatch, folder: Path, version: Version) -> None:
    use(monkeypatch, folder, version)
    path, seen = folder / "model.engine", list[str]()
    log = trtexec.build(folder / "model.onnx", path, RECIPE, seen.append)
    assert path.read_bytes() == fake.plan(version, b"a graph")
    assert log.tensorrt == ".".join(map(str, version))
    assert any(line.startswith("Engine built in") for line in seen)
    caches = list(folder.glob("*.timing.cache"))
    assert {item.name for item in folder.iterdir()} == {"model.onnx", "model.engine", *(cache.name for cache in caches)}
    assert [cache.name for cache in caches] == [f"trtexec-{log.tensorrt}.timing.cache"]

    found = trtexec.bench(path, RECIPE, TimingOptions(30, 0.5), layers=True)
    assert (len(found.latencies_ns), [(layer.name, layer.average_ms) for layer in found.layers]) == (30, list(fake.LAYERS))
    assert found.mode == "CUDA graph, spin wait, copies to and from the GPU not counted"
    assert found.log.latency is not None
    assert max(found.latencies_ns) / 1e6 == pytest.approx(found.log.latency.max, rel=1e-5)
    slower = trtexec.bench(path, RECIPE, TimingOptions(30, transfers=True))
    assert slower.mode == "CUDA graph, spin wait, copies to and from the GPU counted"
    assert [after - before for before, after in zip(found.latencies_ns, slower.latencies_ns, strict=True)] == [125_000] * 30

    pixels = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    with trtexec.open_trtexec(path, RECIPE) as session:
        outputs = session.run(np.asfortranarray(pixels))  # the bytes that trtexec reads must be in C order
    assert (outputs.shape, outputs.dtype) == ((2, fake.CLASSES), np.float32)
    assert outputs.tolist() == [pytest.approx(fake.probabilities(image.tobytes()), rel=1e-5) for image in pixels]
    assert session.provider == f"TensorRT {log.tensorrt}"


@posix
def test_another_gpu_is_chosen_for_all_of_it(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    version, told = (10, 3, 0), folder / "told.txt"
    use(monkeypatch, folder, version)
    monkeypatch.setenv("FAKE_LOG", str(told))
    path = engine(folder, version)
    for device in (0, 2):
        with trtexec.open_trtexec(path, RECIPE, device=device) as session:
            for step in (
                lambda device=device: trtexec.build(folder / "model.onnx", path, RECIPE, device=device),
                lambda device=device: trtexec.bench(path, RECIPE, TimingOptions(3), device=device),
                lambda session=session: session.run(np.zeros((1, SIZE, SIZE, 3), np.uint8)),
            ):
                step()
                given = told.read_text(encoding="utf-8").splitlines()
                assert [argument for argument in given if argument.startswith("--device")] == ([f"--device={device}"] if device else [])


@posix
@versions
def test_a_version_is_asked_for_without_a_gpu(monkeypatch: pytest.MonkeyPatch, folder: Path, version: Version) -> None:
    monkeypatch.setenv("FAKE", "fail")  # every command that needs one fails
    assert trtexec_program.ask_version(str(use(monkeypatch, folder, version))) == version


@posix
@pytest.mark.parametrize("fault", ["fail", "killed", "cut", "silent"])
@pytest.mark.parametrize("version", [VERSIONS[0], VERSIONS[-1]], ids=str)
def test_a_build_that_fails_leaves_the_engine_that_was_there(
    monkeypatch: pytest.MonkeyPatch, folder: Path, version: Version, fault: str
) -> None:
    use(monkeypatch, folder, version)
    (folder / "model.engine").write_bytes(b"an earlier one")
    monkeypatch.setenv("FAKE", fault)
    with pytest.raises(DeviceError, match="trtexec") as error:
        trtexec.build(folder / "model.onnx", folder / "model.engine", RECIPE)
    words = {"fail": "OutOfMemory", "killed": "signal 9", "cut": "&&&& PASSED", "silent": "wrote nothing"}
    assert words[fault] in error.value.message
    assert (folder / "model.engine").read_bytes() == b"an earlier one"
    assert not list(folder.glob("*.building"))


@posix
def test_an_option_that_the_version_lacks_is_an_error_with_trtexec_s_words(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """So that a mistake in a command line would be seen in the tests above."""
    ended = trtexec_program.run(str(use(monkeypatch, folder, (11, 1, 0, 30))), ["--onnx=x", "--fp16"])
    with pytest.raises(DeviceError, match="Unknown option: --fp16"):
        trtexec.require(ended.text, (), ended.status)
    assert ended.status == 1


@posix
@pytest.mark.parametrize("fault", ["fail", "killed", "cut"])
def test_a_measurement_that_fails_says_why(monkeypatch: pytest.MonkeyPatch, folder: Path, fault: str) -> None:
    use(monkeypatch, folder, (10, 3, 0))
    monkeypatch.setenv("FAKE", fault)
    with pytest.raises(DeviceError, match="trtexec"):
        trtexec.bench(engine(folder, (10, 3, 0)), RECIPE, layers=True)


@posix
def test_an_engine_of_another_tensorrt_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    use(monkeypatch, folder, (10, 3, 0))
    with pytest.raises(DeviceError, match="Version tag") as error:
        trtexec.bench(engine(folder, (10, 7, 0)), RECIPE)
    assert "run.py build" in error.value.hint
    assert read_plan_version(folder / "model.engine")[:3] == (10, 7, 0)


@posix
def test_predictions_that_cannot_be_are_refused(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    version = (8, 2, 1)
    use(monkeypatch, folder, version)
    with pytest.raises(InvalidFile, match="does not exist"):
        trtexec.open_trtexec(folder / "model.engine", RECIPE)
    path = engine(folder, version)
    with pytest.raises(Unsupported, match="4 images"):
        trtexec.open_trtexec(path, RECIPE | {"shape": [4, SIZE, SIZE, 3]})
    with trtexec.open_trtexec(path, RECIPE) as session:
        for shape in ((SIZE, SIZE, 3), (1, SIZE, SIZE, 4), (0, SIZE, SIZE, 3)):
            with pytest.raises(InvalidFile, match="images of"):
                session.run(np.zeros(shape, np.uint8))
        with pytest.raises(DeviceError, match="file size"):
            session.run(np.zeros((1, SIZE, SIZE, 3), np.float32))  # of a type that the engine does not take
        monkeypatch.setenv("FAKE", "nan")
        with pytest.raises(DeviceError, match="not finite"):
            session.run(np.zeros((1, SIZE, SIZE, 3), np.uint8))


@posix
def test_an_interrupted_run_leaves_no_process(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    slow = folder / "slow"
    slow.write_text("#!/bin/sh\necho $$\nexec sleep 60\n", encoding="utf-8")
    slow.chmod(0o755)
    seen: list[int] = []

    def interrupt(line: str) -> None:
        seen.append(int(line))
        raise KeyboardInterrupt

    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        trtexec_program.run(str(slow), (), interrupt)
    assert time.monotonic() - begin < 30
    with pytest.raises(ProcessLookupError):
        os.kill(seen[0], 0)


# --- finding it -------------------------------------------------------------------------------------------------------


@posix
def test_trtexec_is_found_where_it_is_named_at_jetpack_s_place_and_on_the_path(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    folder = folder.parent  # PATH takes a colon for its own
    monkeypatch.setattr(trtexec_program, "JETPACK", str(folder / "jetpack" / "trtexec"))
    monkeypatch.setenv("PATH", str(folder / "bin"))
    with pytest.raises(MissingDependency, match="neither") as error:
        trtexec_program.find_trtexec()
    assert "TRTEXEC=" in error.value.hint
    for place in ("bin", "jetpack", "named"):
        found = fake.program(folder / place, (10, 3, 0))
        if place == "named":
            monkeypatch.setenv("TRTEXEC", str(found))
        assert trtexec_program.find_trtexec() == str(found)
    found.chmod(0o644)
    with pytest.raises(MissingDependency, match=r"TRTEXEC is .*named"):
        trtexec_program.find_trtexec()


@posix
def test_a_program_that_says_no_version_is_no_trtexec(folder: Path) -> None:
    path = folder / "trtexec"
    path.write_text("#!/bin/sh\necho 'error while loading shared libraries: libnvinfer.so.8' >&2\nexit 127\n", encoding="utf-8")
    path.chmod(0o755)
    with pytest.raises(MissingDependency, match="libnvinfer") as error:
        trtexec_program.ask_version(str(path))
    assert "127" in error.value.message
    with pytest.raises(MissingDependency, match="cannot be started"):
        trtexec_program.run(str(folder / "nothing"), ())


# --- the record -------------------------------------------------------------------------------------------------------


@posix
@some
def test_a_run_becomes_a_measurement(monkeypatch: pytest.MonkeyPatch, folder: Path, version: Version) -> None:
    use(monkeypatch, folder, version)
    found = trtexec.bench(engine(folder, version), RECIPE, TimingOptions(25))
    known: dict[str, Any] = {"what": "bundle", "artifact_sha256": "0" * 64, "precision": "fp16", "size_bytes": 1000, "batch": 1}
    made = measurement(found, environment=ENVIRONMENT, **known)
    assert Measurement.parse(made.model_dump(mode="json"), "memory") == made
    assert (made.latencies_ns, made.runtime, made.threads, made.load_ns) == (found.latencies_ns, "trtexec", 1, 750_000_000)
    assert made.mode == found.mode == made.to_json()["mode"]
    assert made.peak_memory_bytes == found.peak_memory_bytes
    assert made.peak_memory_bytes > 4_000_000  # a Python is larger than that
    assert made.environment.accelerator == f"{fake.DEVICE}, compute capability {fake.CAPABILITY}"
    assert made.environment.versions["tensorrt"] == found.log.tensorrt
    assert made.warmup_runs == found.log.warmup_queries
    assert {name: value for name, value in trtexec.measured(found).items() if name not in Measurement.model_fields} == {}
    with pytest.raises(NotHere, match="memory"):
        measurement(found._replace(peak_memory_bytes=None), environment=ENVIRONMENT, **known)


def test_a_record_from_before_there_were_modes_is_read() -> None:
    old = {name: value for name, value in of([1, 2, 3]).model_dump(mode="json").items() if name != "mode"}
    assert Measurement.parse(old, "memory").mode is None

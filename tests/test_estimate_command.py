"""`tlx estimate`: one table for many boards, the boards that suffice, and the basis of each estimate."""

from __future__ import annotations

import json
import re
import shutil
import statistics
from pathlib import Path
from typing import Any

import onnx
import pytest
from commands import here
from estimates import HIGH, LOW, US_PER_LAYER, US_PER_MMACS, US_PER_RUN, board, device, network, saved
from onnx import TensorProto

from tlexport.bundle.manifest import read_manifest
from tlexport.estimate.cost import cost_of
from tlexport.estimate.graph import fused, read
from tlexport.estimate.ranking import by_peak_rate
from tlexport.hardware.target import load_profile, profile_names

ELSEWHERE = '[match]\nmachine = "riscv64"\n'


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a model, m.onnx, and a board, line, which was calibrated."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TLX_PROFILES", raising=False)
    saved(tmp_path / "m.onnx")
    models = {f"line.{precision}.json": device(precision) for precision in ("fp32", "int8")}
    board(tmp_path / "profiles", "line", "cpu-x86", models, ELSEWHERE)
    return tmp_path


def answered(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> Any:
    ended = here(capfd, "estimate", *arguments, "--json")
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


def refused(capfd: pytest.CaptureFixture[str], code: int, *arguments: str | Path) -> str:
    """Standard error of a command without standard output."""
    ended = here(capfd, "estimate", *arguments)
    assert (ended.code, ended.out) == (code, ""), ended.err
    return ended.err


def by_hand(path: Path, shapes: dict[str, tuple[int, ...]] | None = None) -> float:
    """Latency of a graph on the synthetic device, ms."""
    cost = cost_of(fused(read(path, shapes), layout=True))
    return (US_PER_RUN + len(cost.layers) * US_PER_LAYER + cost.macs / 1e6 * US_PER_MMACS) / 1e3


# --- one board --------------------------------------------------------------------------------------------------------


def test_a_calibrated_board_is_the_sum_of_its_layers(capfd: pytest.CaptureFixture[str]) -> None:
    found, p50 = answered(capfd, "m.onnx", "-t", "line"), by_hand(Path("m.onnx"))
    assert (found["what"], found["target"], found["kind"], found["precision"]) == ("m.onnx", "line", "calibrated", "fp32")
    assert found["latency_ms"] == {key: pytest.approx(p50 * factor, rel=1e-3) for key, factor in (("p50", 1), ("low", LOW), ("high", HIGH))}
    assert found["size_bytes"] == Path("m.onnx").stat().st_size
    weights = sum(4 * onnx.numpy_helper.to_array(i).size for i in onnx.load("m.onnx").graph.initializer)
    assert found["memory_bytes"] >= weights + 4 * 16 * 32 * 32  # and what the convolution writes
    assert "Test CPU" in found["basis"]
    assert "2026-01-31" in found["basis"]


def test_the_table_says_that_it_is_an_estimate_and_what_it_stands_on(capfd: pytest.CaptureFixture[str]) -> None:
    ended = here(capfd, "estimate", "m.onnx", "-t", "line", "-t", "jetson-nano:5w")
    assert (ended.code, ended.err) == (0, "")
    assert "estimated, not measured" in ended.out.splitlines()[0]
    for name, basis in (("line", "Test CPU"), ("jetson-nano:5w", "published")):
        [row] = re.findall(rf"^{name} +\S+ +\S+ to \S+ .*$", ended.out, re.MULTILINE)
        assert " kB " in row
        assert basis in next(line for line in ended.out.splitlines() if line.startswith(f"{name}: "))


def test_a_free_axis_needs_a_size(capfd: pytest.CaptureFixture[str]) -> None:
    saved(Path("free.onnx"), network(size="side"))
    said = refused(capfd, 2, "free.onnx", "-t", "line")
    assert "the input 'image' of free.onnx has free axes, (batch, 3, side, side)" in said
    assert "hint: give the shape, such as: --shape image=1,3,224,224\n" in said
    small, large = (answered(capfd, "free.onnx", "-t", "line", "--shape", f"image=1,3,{side},{side}") for side in (32, 64))
    assert small["latency_ms"] == answered(capfd, "m.onnx", "-t", "line")["latency_ms"]
    assert large["macs"] > 3 * small["macs"]
    assert large["latency_ms"]["p50"] == pytest.approx(by_hand(Path("free.onnx"), {"image": (1, 3, 64, 64)}), rel=1e-3)


@pytest.mark.parametrize("target", ["line", "raspberry-pi-4", "jetson-nano"])
def test_an_operator_that_nothing_is_known_of_is_named_and_widens_the_interval(target: str, capfd: pytest.CaptureFixture[str]) -> None:
    saved(Path("odd.onnx"), network(odd="Cos"))
    plain, odd = answered(capfd, "m.onnx", "-t", target), answered(capfd, "odd.onnx", "-t", target)
    assert (plain["unknown"], odd["unknown"]) == ([], ["Cos"])
    assert "operators without timing data: Cos (1 layer)" in odd["basis"]
    width = [found["latency_ms"]["high"] / found["latency_ms"]["low"] for found in (plain, odd)]
    assert width[1] > 1.2 * width[0]


def test_an_operator_that_the_runtime_does_not_know_is_an_error_of_the_file(capfd: pytest.CaptureFixture[str]) -> None:
    model = network()
    model.graph.node[1].CopyFrom(onnx.helper.make_node("Twirl", ["a"], ["b"], domain="com.example"))
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    saved(Path("own.onnx"), model)
    assert "Twirl" in refused(capfd, 2, "own.onnx", "-t", "line")


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_the_precision_is_read_from_the_graph(dtype: int, capfd: pytest.CaptureFixture[str]) -> None:
    saved(Path("half.onnx"), network(dtype=dtype))
    if dtype == TensorProto.FLOAT16:
        assert "line: no basis for an estimate of fp16 with 1 thread" in refused(capfd, 4, "half.onnx", "-t", "line")
        assert answered(capfd, "half.onnx", "-t", "jetson-nano")["precision"] == "fp16"
    else:
        assert "half.onnx has weights of type BFLOAT16" in refused(capfd, 4, "half.onnx", "-t", "line")


# --- what WHAT may be -------------------------------------------------------------------------------------------------


def test_a_bundle_and_each_of_its_models(bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    manifest = read_manifest(bundle)
    chosen = answered(capfd, bundle, "-t", "jetson-orin-nano")  # which takes every precision
    assert (chosen["what"], chosen["precision"]) == (str(bundle / manifest.model().file), manifest.model().artifact.precision)
    assert "jetson-nano has no int8" in refused(capfd, 4, bundle, "-t", "jetson-nano", "--precision", "int8")
    for precision in ("fp32", "int8"):
        file = bundle / manifest.model(precision).file
        found = answered(capfd, bundle, "-t", "line", "--precision", precision)
        assert found == answered(capfd, file, "-t", "line")
        assert (found["precision"], found["size_bytes"]) == (precision, file.stat().st_size)
        assert found["latency_ms"]["p50"] == pytest.approx(by_hand(file), rel=1e-3)


def test_a_checkpoint_is_what_its_export_in_fp32_is(checkpoint: Path, bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole, exported = (answered(capfd, what, "-t", "line") for what in (checkpoint, bundle / read_manifest(bundle).model("fp32").file))
    for key in ("latency_ms", "macs", "precision", "memory_bytes"):
        assert whole[key] == exported[key], key
    assert whole["what"] == str(checkpoint)


# --- many boards ------------------------------------------------------------------------------------------------------


def test_all_ranks_the_boards_that_are_enough_before_the_others(capfd: pytest.CaptureFixture[str]) -> None:
    plain = answered(capfd, "m.onnx", "--all")
    limit = statistics.median(answer["latency_ms"]["p50"] for answer in plain if answer["latency_ms"])
    found = answered(capfd, "m.onnx", "--all", "--max-latency", f"{limit}ms")
    assert sorted(answer["target"] for answer in found) == sorted(profile_names())
    groups = [2 if not answer["latency_ms"] else 0 if answer["fits"] in ("yes", "probably") else 1 for answer in found]
    assert groups == sorted(groups)
    assert set(groups) == {0, 1, 2}
    for answer in found:
        if answer["latency_ms"]:
            # the limit is rounded as the figures are, and is one of them
            assert (answer["fits"] in ("yes", "probably")) == (not answer["over"])
            assert answer["latency_ms"]["p50"] <= limit if not answer["over"] else answer["latency_ms"]["p50"] >= limit
        else:
            assert answer["target"] in answer["reason"]
    for group in (0, 1):
        names = [answer["target"] for answer, its in zip(found, groups, strict=True) if its == group]
        assert names == sorted(names, key=lambda name: by_peak_rate(load_profile(name))), "the more modest board first"


def test_no_board_keeps_within_the_limits(capfd: pytest.CaptureFixture[str]) -> None:
    slow = device(whole=(9.0, 0.0, 9 * US_PER_RUN))
    board(Path("profiles"), "slow", "cpu-x86", {"slow.json": slow}, ELSEWHERE)
    both = ("m.onnx", "-t", "slow", "-t", "line")
    ended = here(capfd, "estimate", *both, "--max-latency", "10us", "--json")
    assert ended.code == 6
    assert [answer["fits"] for answer in json.loads(ended.out)] == ["no", "no"], "the figures are shown all the same"
    assert "on any of these boards; nearest is line: estimated latency" in ended.err
    assert "> 0.01 ms" in ended.err
    assert here(capfd, "estimate", "m.onnx", "-t", "line", "--max-size", "1kB").code == 6
    assert here(capfd, "estimate", "m.onnx", "-t", "line", "--max-memory", "1kB").code == 6
    enough = f"{by_hand(Path('m.onnx')) * 1.01}ms"
    assert [answer["fits"] for answer in answered(capfd, *both, "--max-latency", enough)] == ["no", "probably"]


def test_without_figures_no_number_is_made_up(capfd: pytest.CaptureFixture[str]) -> None:
    board(Path("profiles"), "bare", "cpu-x86", {}, ELSEWHERE)
    said = refused(capfd, 4, "m.onnx", "-t", "bare")
    assert "bare: no basis for an estimate of fp32 with 1 thread" in said
    assert "hint: on the device itself: tlx profiles calibrate bare" in said
    said = refused(capfd, 4, "m.onnx", "-t", "line", "--threads", "3")
    assert "it is calibrated only for fp32 with 1 thread, int8 with 1 thread" in said
    both = answered(capfd, "m.onnx", "-t", "bare", "-t", "line")
    assert [answer["latency_ms"] is None for answer in both] == [True, False]


# --- what is wrong ----------------------------------------------------------------------------------------------------


def test_a_calibration_that_is_gone_or_another_is_not_used(capfd: pytest.CaptureFixture[str]) -> None:
    file = Path("profiles/line.fp32.json")
    kept = file.read_bytes()
    file.write_bytes(kept.replace(b'"low":0.8', b'"low":0.9'))
    assert "its hash differs" in refused(capfd, 2, "m.onnx", "-t", "line")
    file.unlink()
    assert "does not exist" in refused(capfd, 2, "m.onnx", "-t", "line")
    file.write_bytes(kept)
    table = Path("profiles/line.toml")
    table.write_text(table.read_text(encoding="utf-8").replace("threads = 1", "threads = 2"), encoding="utf-8")
    assert "is a calibration of onnxruntime in fp32 with 1 threads" in refused(capfd, 2, "m.onnx", "-t", "line", "--threads", "2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[hardware]\nbandwidth_gb_s = {value = -17, source = 'a test', status = 'assumed'}", "line 4: hardware.bandwidth_gb_s.value: "),
        ('[budget]\nlatency_p95 = "10 parsecs"', "line 4: budget.latency_p95: write a number and one of ns, us"),
        ('extends = "wrong"', "circle: wrong -> wrong"),
    ],
)
def test_a_wrong_profile_is_explained(text: str, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    head = text if text.startswith("extends") else f'extends = "cpu-x86"\nname = "wrong"\n{text}'
    Path("profiles/wrong.toml").write_text(head + "\n", encoding="utf-8")
    assert message in refused(capfd, 2, "m.onnx", "-t", "wrong")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("m.onxn -t line", "m.onxn does not exist; did you mean m.onnx?"),
        ("m.onnx -t lyne", "there is no profile 'lyne'; did you mean 'line'?"),
        ("m.onnx", "give --target PROFILE, once or several times, or --all"),
        ("m.onnx -t line --all", "give --target PROFILE, once or several times, or --all"),
        ("m.onnx -t line --precision int8", "m.onnx is fp32; int8 was asked for"),
        ("m.onnx -t line --shape image=1,3", "has 4 axes, (batch, 3, 32, 32); --shape has 2"),
        ("m.onnx -t line --shape imag=1,3,32,32", "m.onnx has no input 'imag'"),
        ("m.onnx -t line --shape image=1x3xx32", "'image=1x3xx32' is not a shape"),
        ("m.onnx -t line --shape image=1,3,0,32", "'image=1,3,0,32' is not a shape"),
        ("m.onnx -t line --max-latency 5MB", "'5MB' is not a quantity"),
        ("profiles/line.toml -t line", "neither a checkpoint, nor a bundle, nor an .onnx file"),
        ("text.onnx -t line", "text.onnx cannot be read as ONNX"),
    ],
)
def test_a_mistake_is_explained(line: str, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copy("profiles/line.toml", "text.onnx")
    assert message in refused(capfd, 2, *line.split())

"""`tlx profiles calibrate --from`: measurements from a board correct its estimates."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT, here, tree
from estimates import board, device, network, saved

from tlexport.bench.environment import describe_machine
from tlexport.hardware.target import load_profile, resolve, shipped_here
from tlexport.measurement import Measurement
from tlexport.storage.files import sha256_of

HERE = shipped_here()
PI = {"machine": "aarch64", "cpu": "Raspberry Pi 4 Model B Rev 1.4"}
Change = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with two models and a board, line, which was calibrated."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TLX_PROFILES", raising=False)
    saved(tmp_path / "m.onnx")
    saved(tmp_path / "wide.onnx", network(channels=32))
    board(tmp_path / "profiles", "line", HERE, {"line.json": device(), "line2.json": device(threads=2)})
    return tmp_path


def estimated(capfd: pytest.CaptureFixture[str], what: str | Path = "m.onnx", target: str = "line", threads: int = 1) -> Any:
    ended = here(capfd, "estimate", what, "-t", target, "--threads", str(threads), "--json")
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


def run(file: str, model: str, p50_ms: float, threads: int = 1, environment: dict[str, str] | None = None, **changes: Any) -> Path:
    """What `tlx bench --json` prints after runs that all took as long."""
    known = {
        "what": model,
        "artifact_sha256": sha256_of(Path(model)),
        "precision": "fp32",
        "runtime": "onnxruntime",
        "provider": "CPUExecutionProvider",
        "threads": threads,
        "batch": 1,
        "warmup_runs": 1,
        "latencies_ns": (round(p50_ms * 1e6),),
        "load_ns": 1,
        "peak_memory_bytes": 1,
        "size_bytes": 1,
        "environment": describe_machine("cpu").model_copy(update=environment or {}),
    }
    Path(file).write_text(json.dumps(Measurement.model_validate(known | changes).to_json()), encoding="utf-8")
    return Path(file)


def sharpen(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> Any:
    ended = here(capfd, "profiles", "calibrate", *arguments, "--json")
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


# --- corrections ------------------------------------------------------------------------------------------------------


def test_runs_correct_the_estimates_of_their_board(capfd: pytest.CaptureFixture[str]) -> None:
    before = {model: estimated(capfd, model)["latency_ms"] for model in ("m.onnx", "wide.onnx")}
    other = estimated(capfd, threads=2)
    answer = sharpen(
        capfd,
        *("line", "--from", run("a.json", "m.onnx", 1.2 * before["m.onnx"]["p50"])),
        *("--from", run("b.json", "wide.onnx", 1.5 * before["wide.onnx"]["p50"])),
    )
    [table] = answer["sharpened"]
    assert table["factor"] == pytest.approx(math.sqrt(1.2 * 1.5), rel=2e-3)  # the estimates are rounded where they are printed
    assert (table["n"], table["precision"], table["threads"]) == (2, "fp32", 1)
    assert table["measurements"] == sorted(sha256_of(Path(name)) for name in ("a.json", "b.json"))
    after = estimated(capfd)
    assert before["m.onnx"]["p50"] < after["latency_ms"]["p50"] < before["m.onnx"]["p50"] * table["factor"]
    width = [found["high"] / found["low"] for found in (before["m.onnx"], after["latency_ms"])]
    assert width[1] < width[0]
    assert "corrected by runs of 2 models there" in after["basis"]
    assert estimated(capfd, threads=2) == other, "runs with another number of threads say nothing of these"


def test_runs_of_one_model_count_once_and_the_same_again_changes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    p50 = estimated(capfd)["latency_ms"]["p50"]
    files = [run("a.json", "m.onnx", 1.1 * p50), run("b.json", "m.onnx", 1.3 * p50), run("two.json", "m.onnx", p50, threads=2)]
    arguments = ["line", "--from", *files]
    assert sharpen(capfd, "line", *(word for file in files for word in ("--from", file))) == sharpen(capfd, *arguments)
    tables = sharpen(capfd, *arguments)["sharpened"]
    assert [(table["threads"], table["n"]) for table in tables] == [(1, 1), (2, 1)]
    assert tables[0]["factor"] == pytest.approx(math.sqrt(1.1 * 1.3), rel=2e-3)
    text = Path("profiles/line.toml").read_text(encoding="utf-8")
    sharpen(capfd, *arguments)
    assert Path("profiles/line.toml").read_text(encoding="utf-8") == text, "runs are held against the estimate without runs"


def test_a_correction_of_other_figures_is_left_out_and_said(capfd: pytest.CaptureFixture[str]) -> None:
    plain = estimated(capfd)["latency_ms"]
    sharpen(capfd, "line", "--from", run("a.json", "m.onnx", 3 * plain["p50"]))
    path = Path("profiles/line.toml")
    kept = path.read_text(encoding="utf-8").partition("[[sharpened]]")[2]
    board(Path("profiles"), "line", HERE, {"line.json": device(error=0.2)})  # calibrated again, by hand
    path.write_text(f"{path.read_text(encoding='utf-8')}\n[[sharpened]]{kept}", encoding="utf-8")
    found = estimated(capfd)
    assert found["latency_ms"] == plain
    assert "are not used: they correct other figures" in found["basis"]


def test_a_shipped_board_gets_a_file_of_the_users(capfd: pytest.CaptureFixture[str]) -> None:
    before = tree(ROOT / "profiles")
    plain = estimated(capfd, target="raspberry-pi-4")["latency_ms"]["p50"]
    answer = sharpen(capfd, "raspberry-pi-4", "--from", run("a.json", "m.onnx", 2 * plain, environment=PI), "--what", "m.onnx")
    assert answer["profile"] == "profiles/raspberry-pi-4.toml"
    assert plain < estimated(capfd, target="raspberry-pi-4")["latency_ms"]["p50"] < 2 * plain
    assert load_profile("raspberry-pi-4").hardware == load_profile(str(ROOT / "profiles/raspberry-pi-4.toml")).hardware
    assert resolve("raspberry-pi-4").profile.latency, "and keeps what was published for it"
    assert tree(ROOT / "profiles") == before


def test_what_bench_prints_of_a_bundle_comes_back(bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A real measurement, on this machine, of every model of the bundle that the calibration is for."""
    board(Path("profiles"), HERE, HERE, {"here.json": device(), "here8.json": device("int8")})
    with Path("runs.json").open("w", encoding="utf-8") as stream:
        runs = []
        for precision in ("fp32", "int8"):
            ended = here(capfd, "bench", bundle, "--precision", precision, "--threads", "1", "--runs", "20", "--seconds", "0", "--json")
            runs.append(json.loads(ended.out))
        json.dump(runs, stream)
    answer = sharpen(capfd, "--from", "runs.json", "--what", bundle)
    assert (answer["name"], answer["profile"]) == (HERE, f"profiles/{HERE}.toml"), "the profile that the bundle is for"
    assert [table["precision"] for table in answer["sharpened"]] == ["fp32", "int8"]
    for table, measured in zip(answer["sharpened"], runs, strict=True):
        found = estimated(capfd, measured["what"], HERE)["latency_ms"]["p50"]
        # a single model is believed half: half of the way, in logarithms
        plain = measured["latency_ms"]["p50"] / table["factor"]
        assert found == pytest.approx(math.sqrt(plain * measured["latency_ms"]["p50"]), rel=1e-2)


# --- refused measurements ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runtime": "torch"}, "was run by torch; line runs its models with onnxruntime"),
        ({"provider": "CUDAExecutionProvider"}, "line runs its models on the CPU"),
        ({"batch": 8}, "was run with 8 images at a time"),
        ({"precision": "int8"}, "was a run in int8, but m.onnx is fp32"),
        ({"artifact_sha256": "0" * 64}, "whose hash matches none of the given models"),
        ({"environment": {"machine": "riscv64"}}, "(riscv64), which is not a line"),
        ({"what": "/on/the/board/model.onnx"}, "was a run of /on/the/board/model.onnx, which is not here"),
    ],
)
def test_a_run_of_something_else_is_refused(changes: dict[str, Any], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    run("a.json", "m.onnx", 1.0, **changes)
    before = tree(Path())
    ended = here(capfd, "profiles", "calibrate", "line", "--from", "a.json")
    assert (ended.code, ended.out) == (2, ""), ended.err
    assert f"error: a.json {message}" in ended.err or message in ended.err
    assert "hint: " in ended.err
    assert tree(Path()) == before


def test_a_run_on_another_board_of_the_same_kind_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    run("a.json", "m.onnx", 1.0, environment=PI)
    ended = here(capfd, "profiles", "calibrate", "raspberry-pi-5", "--from", "a.json")
    assert (ended.code, ended.out) == (2, "")
    assert "a.json was measured on Raspberry Pi 4 Model B Rev 1.4 (aarch64), which is not a raspberry-pi-5" in ended.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read as JSON"),
        ("[]", "is not the output of tlx bench --json"),
        ("7", "is not the output of tlx bench --json"),
        ('{"name": "My page"}', "is not the output of tlx bench --json"),
        ('{"artifact_sha256": "0", "threads": "1"}', "threads: "),
    ],
)
def test_a_foreign_file_is_not_taken_for_a_measurement(text: str, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path("foreign.json").write_text(text, encoding="utf-8")
    ended = here(capfd, "profiles", "calibrate", "line", "--from", "foreign.json", "--what", "m.onnx")
    assert (ended.code, ended.out) == (2, "")
    assert "foreign.json" in ended.err
    assert message in ended.err
    assert "hint: write it on the device: tlx bench WHAT --json > FILE" in ended.err


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("lyne --from a.json", 2, "did you mean 'line'?"),
        ("jetson-nano:5w --from a.json", 2, "is not a valid name for a profile"),
        ("line --from nowhere.json", 2, "nowhere.json does not exist"),
        ("line --from a.json --what nowhere.onnx", 2, "nowhere.onnx does not exist"),
        ("--from a.json", 2, "the models are of no bundle"),
        ("line --from a.json other", 2, "one NAME was expected, 2 were given: line, other"),
        ("line.toml --from a.json", 2, "line.toml is a file; the name of a profile was expected"),
        ("line --from a.json --base cpu-x86", 2, "--base applies to timing"),
        ("line --from a.json --seconds 9", 2, "--seconds applies to timing"),
        ("bare --from a.json", 4, "bare: no basis for an estimate of fp32 with 1 thread"),
    ],
)
def test_a_mistake_is_explained(line: str, code: int, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    run("a.json", "m.onnx", 1.0)
    run("b.json", "m.onnx", 1.0)
    board(Path("profiles"), "bare", HERE, {})
    before = tree(Path())
    ended = here(capfd, "profiles", "calibrate", *line.split())
    assert (ended.code, ended.out) == (code, ""), ended.err
    assert message in ended.err
    assert tree(Path()) == before

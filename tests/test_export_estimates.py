"""`tlx export` for another machine: limits are compared with estimates, and the output marks them as estimates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import here
from estimates import board, device

from tlexport.bundle.manifest import Manifest, read_manifest

ELSEWHERE = '[match]\nmachine = "riscv64"\n[budget]\nlatency_p95 = "900 ms"\n'


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a board, line, on which INT8 takes a fifth of the time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TLX_PROFILES", raising=False)
    models = {"line.json": device(), "line8.json": device("int8", whole=(0.2, 0.0, 4.0))}
    board(tmp_path / "profiles", "line", "cpu-x86", models, ELSEWHERE)
    return tmp_path


def exported(capfd: pytest.CaptureFixture[str], checkpoint: Path, *arguments: str) -> tuple[str, Manifest]:
    ended = here(capfd, "export", checkpoint, "-t", "line", "-o", "out", "--max-drop", "100", *arguments)
    assert ended.code == 0, ended.err
    return ended.out, read_manifest(Path("out"))


def test_estimates_choose_and_are_called_so(checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out, manifest = exported(capfd, checkpoint, "--max-memory", "100MB")
    estimates = {model.artifact.precision: model.estimate for model in manifest.models}
    fast, slow = estimates["int8"], estimates["fp32"]
    assert fast and slow
    assert fast.high_ms < slow.low_ms
    assert manifest.model("fp32").latency is None
    assert f"about {slow.latency.replace(' ms', '')}" in out
    assert "latency of fp32, int8: estimated for line, not measured: calibrated on Test CPU" in out
    for precision in ("fp32", "int8"):
        answer = here(capfd, "estimate", "out", "-t", "line", "--precision", precision, "--json")
        told = manifest.model(precision).latency_json()
        assert told is not None
        assert json.loads(answer.out)["latency_ms"] == {key: told[key] for key in ("p50", "low", "high")}, "the same as tlx estimate says"
    reasons = {model.artifact.precision: model.reason for model in manifest.models}
    assert manifest.model().artifact.precision == "int8"
    if "fp16" in estimates:  # of which nothing is known
        assert estimates["fp16"] is None
        assert reasons["fp16"] == "neither measured nor estimated, so the limit cannot be checked"
        assert "latency of fp16: unknown; this machine is not the target" in out


def test_a_limit_is_held_against_the_estimate(checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ("export", checkpoint, "-t", "line", "-o", "out", "--precision", "fp32")
    over = here(capfd, *arguments, "--max-latency", "1us", "--max-memory", "1kB", "--json")
    assert (over.code, over.out) == (6, "")
    assert "fp32: memory of weights and activations alone " in over.err
    assert "> 1.00 kB; estimated latency " in over.err
    assert "> 0.001 ms" in over.err
    assert not Path("out").exists()
    within = here(capfd, *arguments, "--max-latency", "10s", "--max-memory", "1GB", "--json")
    assert within.code == 0, within.err
    [model] = json.loads(within.out)["models"]
    assert (model["latency_ms"]["kind"], model["latency_ms"]["p95"], model["peak_memory_bytes"]) == ("estimated", None, None)
    assert model["memory_bytes"] > model["size_bytes"] * 0.8
    assert model["reason"] == "requested; within the budget by estimated latency"


@pytest.mark.parametrize("option", ["--max-latency=1s", "--max-memory=1GB"])
def test_a_precision_of_which_nothing_is_known_cannot_keep_a_limit(
    option: str, checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ended = here(capfd, "export", checkpoint, "-t", "line", "--precision", "fp16", option)
    assert (ended.code, ended.out) == (4, "")
    assert (
        f"{option.partition('=')[0]} cannot be checked for line: this machine is another one; and line: no basis for an estimate of fp16"
        in ended.err
    )
    plan = here(capfd, "export", checkpoint, "-t", "line", "--precision", "int8", option, "--dry-run")
    assert plan.code == 0, plan.err
    assert "estimate int8: latency on line is estimated, not measured" in plan.out


def test_what_is_measured_is_said_to_be(bundle: Path, checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    manifest = read_manifest(bundle)
    if manifest.model().latency is None:
        pytest.skip("the bundle is not for this machine, so nothing was measured")
    assert all(model.estimate is None for model in manifest.models)
    ended = here(capfd, "export", checkpoint, "-t", manifest.target, "-o", "out", "--precision", "fp32")
    assert ended.code == 0, ended.err
    assert "latency of fp32: measured on this machine, CPUExecutionProvider, 1 CPU thread" in ended.out
    assert "estimated" not in ended.out

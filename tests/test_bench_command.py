"""``tlx bench`` on the command line with a tiny external model: sweeps, comparisons, earlier figures, incompatible options."""

from __future__ import annotations

import csv
import json
from itertools import pairwise
from pathlib import Path

import onnx.parser
import pytest
from bench_requests import CLASSIFIER
from commands import here

QUICK = ("--runs", "5", "--seconds", "0", "--device", "cpu", "-q")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx.parser.parse_model(CLASSIFIER).SerializeToString())
    return path


def test_every_pair_of_batch_and_threads_is_measured(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ended = here(capfd, "bench", model, "--batch", "1,3", "--threads", "2,1,2", *QUICK, "--json", "--csv", tmp_path / "bench.csv")
    found = json.loads(ended.out)
    assert [(one["batch"], one["threads"]) for one in found] == [(1, 2), (1, 1), (3, 2), (3, 1)]
    assert all(one["placement"] == {"CPUExecutionProvider": 3} for one in found)
    assert all(f"image uint8 {one['batch']}x8x8x3" in one["inputs"] for one in found)
    with (tmp_path / "bench.csv").open(encoding="utf-8", newline="") as file:
        assert [int(row["batch"]) for row in csv.DictReader(file)] == [1, 1, 3, 3]


def test_one_measurement_is_one_object_with_its_layers(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = json.loads(here(capfd, "bench", model, "--layers", *QUICK, "--json").out)
    assert {layer["kind"] for layer in found["layers"]["slowest"]} == {"Cast", "ReduceMean", "Softmax"}
    assert isinstance(found["noise"], str)
    assert found["first_inference_ms"] > 0


def test_the_table_for_a_person_and_the_one_for_a_pull_request(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shown = here(capfd, "bench", model, "--threads", "1", "--layers", *QUICK)
    assert shown.code == 0
    assert max(len(line) for line in shown.out.splitlines() if str(model) not in line and "synthetic" not in line) <= 80
    assert "Softmax" in shown.out and "synthetic, from the declared shapes" in shown.out
    table = here(capfd, "bench", model, "--threads", "1", "--markdown", *QUICK).out
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len(rows) == 3
    assert all(one.count("|") == other.count("|") for one, other in pairwise(rows))


def test_a_comparison_with_its_report(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "compare.html"
    other = model.with_name("other.onnx")
    other.write_bytes(model.read_bytes())
    ended = here(capfd, "bench", model, "--compare", other, "--threads", "1", *QUICK, "--report", page, "--json")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert found["environment"]["cores"] >= 1
    [compared] = found["compared"]
    assert len(compared["rounds"]) == 10
    assert compared["verdict"] in page.read_text(encoding="utf-8")
    assert here(capfd, "bench", model, "--compare", other, "--report", tmp_path / "compare.pdf").code == 2


def test_slower_than_before_is_told_after_what_was_measured(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    few = (*QUICK, "--threads", "1", "--runs", "40")
    now = json.loads(here(capfd, "bench", model, *few, "--json").out)
    previous = tmp_path / "previous.json"
    previous.write_text(json.dumps(now | {"latencies_ns": [max(1, ns // 100) for ns in now["latencies_ns"]]}), encoding="utf-8")
    slower = here(capfd, "bench", model, *few, "--json", "--against", previous, "--max-regression", "5%", "--report", tmp_path / "now.html")
    assert slower.code == 6
    assert "Comparison with an earlier measurement" in (tmp_path / "now.html").read_text(encoding="utf-8")
    assert json.loads(slower.out)["against"]["ratio"] > 10
    assert "slower by more than 5.0%" in slower.err
    assert here(capfd, "bench", model, *few, "--against", previous).code == 0  # without --max-regression, the exit code is 0
    previous.write_text(json.dumps(now | {"latencies_ns": [100 * ns for ns in now["latencies_ns"]]}), encoding="utf-8")
    faster = here(capfd, "bench", model, *few, "--against", previous, "--max-regression", "5%")
    assert faster.code == 0
    assert "99 % interval" in faster.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--batch", "1,0"], "'0' is not an integer from 1 to 4096"),
        (["--threads", "two"], "'two' is not an integer from 1 to 1024"),
        (["--shape", "image=1xx3"], "is not a shape"),
        (["--max-regression", "5", "--against", "x.json"], "is not a percentage"),
        (["--max-regression", "5%"], "needs an earlier measurement"),
        (["--against", "missing.json"], "missing.json does not exist"),
        (["--compare", "x.onnx", "--batch", "1,2"], "cannot be combined with --compare"),
        (["--compare", "x.onnx", "--check", "--layers"], "--compare cannot be combined with --check and --layers"),
        (["--threads", "1,2", "--check"], "cannot be combined with --check"),
        (["--markdown", "--json"], "--markdown cannot be combined with --json"),
        (["--host", "board", "--layers"], "--host cannot be combined with --layers"),
    ],
)
def test_options_that_cannot_be(model: Path, options: list[str], words: str, capfd: pytest.CaptureFixture[str]) -> None:
    ended = here(capfd, "bench", model, *options)
    assert (ended.code, ended.out) == (2, "")
    assert words in ended.err

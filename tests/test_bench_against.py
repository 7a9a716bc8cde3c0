"""`tlx bench --against`: matching measurements, certain slowdowns, and measurements from other machines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from measurements import ENVIRONMENT, MS, of

from tlexport.bench.against import Regression, against, differences, expect_no_regression, read_previous
from tlexport.errors import InvalidFile, OverBudget, UsageError
from tlexport.measurement import Measurement


def measured(factor: float = 1.0, seed: int = 0, **changes: Any) -> Measurement:
    """400 runs of about 10 ms that scatter by 2 %."""
    runs = np.random.default_rng(seed).normal(10 * MS * factor, 0.2 * MS, 400).round().astype(int).tolist()
    return of(runs).model_copy(update=changes)


def saved(path: Path, *measurements: Measurement) -> Path:
    values = [m.to_json() for m in measurements]
    path.write_text(json.dumps(values[0] if len(values) == 1 else values), encoding="utf-8")
    return path


def test_slower_for_certain_fails_and_less_does_not(tmp_path: Path) -> None:
    previous = saved(tmp_path / "previous.json", measured())
    for factor, allowed, fails in ((1.10, 0.05, True), (1.10, 0.15, False), (1.0, 0.0, False), (1.051, 0.05, False), (0.8, 0.05, False)):
        found = against([measured(factor, seed=1)], previous)
        assert found[0].interval.ratio == pytest.approx(factor, rel=0.01)
        if not fails:
            expect_no_regression(found, allowed)
            continue
        with pytest.raises(OverBudget, match=r"model\.onnx takes 1\.\d+ times as long as before") as error:
            expect_no_regression(found, allowed)
        assert error.value.exit_code == 6


def test_each_model_meets_its_own_past(tmp_path: Path) -> None:
    then = [measured(factor, what=f"/then/model.{name}.onnx", precision=name) for factor, name in ((1.0, "fp32"), (0.5, "int8"))]
    now = [m.model_copy(update={"what": m.what.replace("then", "now")}) for m in reversed(then)]
    found = against(now, saved(tmp_path / "previous.json", *then))
    assert [one.before.precision for one in found] == ["int8", "fp32"]
    assert [one.interval.ratio for one in found] == [1, 1]


@pytest.mark.parametrize(
    "change", [{"batch": 4}, {"threads": 1}, {"precision": "int8"}, {"runtime": "torch"}, {"provider": "CUDAExecutionProvider"}]
)
def test_other_settings_are_another_figure(tmp_path: Path, change: dict[str, Any]) -> None:
    previous = saved(tmp_path / "previous.json", measured())
    with pytest.raises(UsageError, match=r"has no measurement of model\.onnx with") as error:
        against([measured(**change)], previous)
    assert "batch 1" in error.value.hint


def test_a_model_of_another_name_is_the_one_if_it_is_alone(tmp_path: Path) -> None:
    one = measured(what="old-name.onnx")
    assert against([measured()], saved(tmp_path / "one.json", one))[0].before.what == "old-name.onnx"
    with pytest.raises(UsageError):
        against([measured()], saved(tmp_path / "two.json", one, measured(what="other.onnx")))


def test_other_machines_are_named(tmp_path: Path) -> None:
    other = ENVIRONMENT.model_copy(update={"cpu": "another", "load_1min": 9.0, "versions": {"numpy": "2.1.0", "onnxruntime": "1.20"}})
    assert set(differences(ENVIRONMENT, other)) == {
        "cpu was a processor, is another",
        "numpy was 2.0.0, is 2.1.0",
        "onnxruntime was None, is 1.20",
    }
    assert differences(ENVIRONMENT, ENVIRONMENT.model_copy(update={"load_1min": 5.0})) == ()
    found = against([measured(1.5, environment=other)], saved(tmp_path / "previous.json", measured()))
    with pytest.raises(OverBudget) as error:
        expect_no_regression(found, 0.05)
    assert "cpu was a processor, is another" in error.value.hint
    assert found[0].to_json()["environment_differs"] == list(found[0].differs)


def test_earlier_files_are_read(tmp_path: Path) -> None:
    """A record, what --json printed, a list of these, and what --json printed before it held load_ns."""
    m = measured()
    m.write(tmp_path / "record.json")
    assert read_previous(tmp_path / "record.json") == [m]
    assert read_previous(saved(tmp_path / "shown.json", m)) == [m]
    assert read_previous(saved(tmp_path / "list.json", m, m)) == [m, m]
    old = {key: value for key, value in m.to_json().items() if key != "load_ns"}
    (tmp_path / "old.json").write_text(json.dumps(old), encoding="utf-8")
    assert read_previous(tmp_path / "old.json") == [m]


@pytest.mark.parametrize("content", ["", "{}", "[]", "[1]", '{"latencies_ns": [1]}', "\xff\xfe", "[" * 100_000])
def test_files_that_hold_no_measurement(tmp_path: Path, content: str) -> None:
    (tmp_path / "previous.json").write_text(content, encoding="latin-1")
    with pytest.raises(InvalidFile, match=r"previous\.json"):
        read_previous(tmp_path / "previous.json")


def test_no_such_file_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="does not exist") as error:
        read_previous(tmp_path / "previous.json")
    assert "--json >" in error.value.hint


def test_words_hold_the_figures() -> None:
    text = Regression(of([12 * MS] * 40), of([10 * MS] * 40), ()).in_words()
    assert text == "takes 1.200 times as long as before (1.200 to 1.200; p50 was 10.000 ms, is 12.000 ms)"

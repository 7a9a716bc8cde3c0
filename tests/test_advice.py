"""Advice to the user about a training run, and where it is reported."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest

from tlexport.cli.main import run
from tlexport.errors import MissingDependency
from tlexport.recipe import Recipe
from tlexport.train.advice import after_training, before_training
from tlexport.train.trackers import PACKAGES, choose_tracker


@pytest.mark.parametrize(
    ("recipe", "counts", "parameters", "budget", "says"),
    [
        (Recipe(), [100, 30], 10**6, None, []),
        (Recipe(), [100, 19], 10**6, None, ["--balance weights"]),
        (Recipe(balance="weights"), [100, 19], 10**6, None, []),
        (Recipe(), [30_000, 30_000], 10**6, None, ["--strategy full"]),
        (Recipe(strategy="full"), [30_000, 30_000], 10**6, None, []),
        (Recipe(), [30, 30], 9 * 10**6, 8 * 10**6, ["smaller --backbone"]),
        (Recipe(), [30, 30], 7 * 10**6, 8 * 10**6, []),
    ],
)
def test_advice_before_training(recipe: Recipe, counts: list[int], parameters: int, budget: int | None, says: list[str]) -> None:
    notes = before_training(recipe, counts, parameters, budget)
    assert len(notes) == len(says)
    assert all(word in note for word, note in zip(says, notes, strict=True))


@pytest.mark.parametrize(
    ("train", "val", "head", "says"),
    [
        (0.95, 0.93, 0.8, []),
        (0.95, 0.80, 0.8, ["overfits"]),
        (0.30, 0.28, 0.2, ["far from what the weights were trained on"]),
        (0.30, 0.28, math.nan, []),  # the head was never trained alone
    ],
)
def test_advice_after_training(train: float, val: float, head: float, says: list[str]) -> None:
    notes = after_training(Recipe(), train, val, head, classes=10)
    assert len(notes) == len(says)
    assert all(word in note for word, note in zip(says, notes, strict=True))


def test_overfitting_and_missed_classes_are_named_with_what_to_try() -> None:
    """What is already done is not proposed again."""
    missed = [f"class {number}" for number in range(7)]
    notes = after_training(Recipe(strategy="full"), 1.0, 0.56, math.nan, 10, missed)
    assert "class 0, class 1, class 2, class 3, class 4 and 2 more" in notes[0] and "--balance sampler" in notes[0]
    assert "100 % in training, 56 % in validation" in notes[1] and "--augment medium" in notes[1] and "--freeze" in notes[1]
    done = Recipe(strategy="head", augment="strong", label_smoothing=0.2, balance="sampler")
    assert not any("--" in note for note in after_training(done, 1.0, 0.56, math.nan, 10, missed))


@pytest.mark.parametrize("tracker", sorted(PACKAGES))
def test_a_tracker_that_is_not_installed_is_refused_with_how_to_get_it(tracker: Any) -> None:
    if importlib.util.find_spec(PACKAGES[tracker]):
        assert choose_tracker(tracker) == tracker
        return
    with pytest.raises(MissingDependency) as caught:
        choose_tracker(tracker)
    assert PACKAGES[tracker] in caught.value.hint


def test_the_commands_own_notes(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "profiles").mkdir()
    shipped = Path(__file__).parent.parent / "profiles" / "cpu-x86.toml"
    text = shipped.read_text(encoding="utf-8").replace('"cpu-x86"', '"tiny"')
    (tmp_path / "profiles" / "tiny.toml").write_text(text.replace('size = "32 MB"', 'size = "1 MB"'), encoding="utf-8")
    options = ["--weights", "embedded", "--epochs", "1", "--threads", "1", "--target", "tiny", "--out", "run"]
    assert run(["finetune", str(digits), *options]) == 0
    assert "more than the target's 1.00 MB" in capsys.readouterr().err

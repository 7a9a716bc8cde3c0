"""The solved classifier: against scikit-learn, on features of different scales, and as a phase of training."""

from __future__ import annotations

import dataclasses
import json
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn

from tlexport.api.finetune import FinetuneSettings, finetune
from tlexport.errors import UsageError
from tlexport.ports import Silent, Task
from tlexport.recipe import Recipe
from tlexport.train.defaults import decided
from tlexport.train.solve import FLOOR, solve
from tlexport.train.solved_head import last_linear

QUIET = FinetuneSettings(device="cpu", threads=1, tracker="none")


def pixels(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Training and held-out digits: features float32 (image, feature), labels int64 (image,)."""
    found = load_digits()
    x, y = torch.tensor(found.data, dtype=torch.float32), torch.tensor(found.target, dtype=torch.int64)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(1))
    inside, outside = order[:count], order[-500:]
    return x[inside], y[inside], x[outside], y[outside]


def right(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return float((logits.argmax(1) == labels).float().mean())


def test_the_solution_is_that_of_scikit_learn() -> None:
    features, labels, _, _ = pixels(300)
    found = solve(features, labels, 10, None, 0)
    mean, spread = features.mean(0), features.std(0, unbiased=False)
    common = spread.square().mean().sqrt()
    scale = (spread * common).sqrt() + FLOOR * common
    reference = LogisticRegression(C=1 / (found.strength * len(labels)), max_iter=5000, tol=1e-8).fit(
        ((features - mean) / scale).numpy(), labels
    )
    expected = torch.tensor(reference.predict_proba(((features - mean) / scale).numpy()), dtype=torch.float32)
    assert (torch.softmax(found.logits(features), 1) - expected).abs().max() < 0.02


@pytest.mark.parametrize("count", [100, 1000])
def test_the_chosen_strength_is_close_to_the_best(count: int) -> None:
    features, labels, others, truth = pixels(count)
    found = solve(features, labels, 10, None, 0)
    best = max(
        right(
            torch.tensor(LogisticRegression(C=c, max_iter=2000).fit(features.numpy() / 16, labels).decision_function(others.numpy() / 16)),
            truth,
        )
        for c in (0.01, 0.1, 1, 10)
    )
    assert right(found.logits(others), truth) > best - 0.015
    assert abs(found.top1 - right(found.logits(others), truth)) < 0.08


def test_a_feature_that_is_nearly_constant_does_not_rule() -> None:
    features, labels, others, truth = pixels(200)
    rare = torch.zeros(len(labels), 1)
    rare[0] = 1e-3
    clean = right(solve(features, labels, 10, None, 0).logits(others), truth)
    found = solve(torch.cat([features, rare], 1), labels, 10, None, 0)
    assert right(found.logits(torch.cat([others, torch.ones(len(truth), 1)], 1)), truth) > clean - 0.02


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 5), st.integers(1, 12), st.integers(4, 40), st.integers(0, 10**6))
def test_never_worse_than_no_classifier(classes: int, features: int, images: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = torch.tensor(rng.normal(size=(images, features)) * rng.uniform(0, 5, features), dtype=torch.float32)
    y = torch.tensor(rng.integers(0, classes, images), dtype=torch.int64)
    found = solve(x, y, classes, None, seed)
    assert torch.isfinite(found.weight).all() and torch.isfinite(found.bias).all()
    assert nn.functional.cross_entropy(found.logits(x), y) <= np.log(classes) + 1e-4


def test_class_weights_raise_the_recall_of_a_rare_class() -> None:
    features, labels, others, truth = pixels(900)
    keep = (labels == 3) | (labels == 8)
    keep[torch.where(labels == 3)[0][5:]] = False
    weights = torch.ones(10)
    weights[3] = 50.0
    outside = others[truth == 3]
    plain, weighted = (solve(features[keep], labels[keep], 10, w, 0).logits(outside).argmax(1) for w in (None, weights))
    assert (weighted == 3).sum() >= (plain == 3).sum()


@pytest.mark.parametrize(
    ("head", "linear"),
    [
        (nn.Linear(3, 2), True),
        (nn.Sequential(nn.Dropout(0.2), nn.Linear(3, 2)), True),
        (nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), True),
        (nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU()), False),
    ],
)
def test_the_last_linear_layer(head: nn.Module, linear: bool) -> None:
    found = last_linear(head)
    assert (found is not None) == linear
    if found is not None:
        hidden, layer = found
        x = torch.randn(5, 3)
        assert torch.equal(layer(hidden.eval()(x)), head.eval()(x))


@pytest.mark.parametrize(
    ("recipe", "linear", "head"),
    [
        (Recipe(strategy="head"), True, "solved"),
        (Recipe(strategy="head"), False, "trained"),
        (Recipe(strategy="head", epochs=20), True, "trained"),
        (Recipe(strategy="head", lr=0.01), True, "trained"),
        (Recipe(strategy="head", augment="light"), True, "trained"),
        (Recipe(strategy="head", teacher="x"), True, "trained"),
        (Recipe(strategy="head", balance="sampler"), True, "trained"),
        (Recipe(strategy="partial", epochs=5), True, "solved"),
        (Recipe(strategy="gradual", head_epochs=2), True, "trained"),
        (Recipe(strategy="full"), True, "trained"),
        (Recipe(strategy="head", head="trained"), True, "trained"),
        (Recipe(strategy="head", head="solved", epochs=9), True, "solved"),
    ],
)
def test_a_key_of_epochs_asks_for_epochs(recipe: Recipe, linear: bool, head: str) -> None:
    assert decided(recipe, linear).head == head


def test_a_recipe_from_json_leaves_the_same_keys_open() -> None:
    recipe = Recipe(strategy="partial")
    again = Recipe.parse(json.loads(recipe.model_dump_json()), "the test")
    assert decided(again, True) == decided(recipe, True)


def test_an_impossible_request_is_refused() -> None:
    with pytest.raises(UsageError, match="augment = 'light'"):
        decided(Recipe(strategy="head", head="solved", augment="light"), True)


def test_a_run_is_reproducible_and_recorded(digits: Path, tmp_path: Path) -> None:
    recipe = Recipe(weights="embedded", strategy="head", flip=False)
    runs = [finetune(str(digits), recipe, tmp_path / name, QUIET) for name in ("a", "b")]
    assert runs[0].checkpoint.weights_sha256 == runs[1].checkpoint.weights_sha256
    assert runs[0].checkpoint.recipe.head == "solved"
    [line] = [json.loads(text) for text in (tmp_path / "a" / "history.jsonl").read_text().splitlines()]
    assert (line["phase"], line["epoch"]) == ("head", 1)
    assert line["val_top1"] == pytest.approx(runs[0].scores.top1, abs=1e-6)
    trained = finetune(str(digits), recipe.model_copy(update={"head": "trained", "epochs": 2}), tmp_path / "c", QUIET)
    assert runs[0].scores.top1 > trained.scores.top1 - 0.02


class Stopping(Silent):
    """Interrupts a training when its second phase begins."""

    def task(self, title: str, total: int) -> AbstractContextManager[Task]:
        if title == "training top":
            raise KeyboardInterrupt
        return super().task(title, total)


def test_a_run_resumed_after_the_solution_gives_the_same_weights(digits: Path, tmp_path: Path) -> None:
    recipe = Recipe(weights="embedded", strategy="partial", epochs=3, flip=False)
    unbroken = finetune(str(digits), recipe, tmp_path / "a", QUIET)
    broken = finetune(str(digits), recipe, tmp_path / "b", QUIET, progress=Stopping())
    assert broken.checkpoint.interrupted
    assert len((tmp_path / "b" / "history.jsonl").read_text().splitlines()) == 1
    resumed = finetune(str(digits), recipe, tmp_path / "b", dataclasses.replace(QUIET, resume=True))
    assert resumed.checkpoint.weights_sha256 == unbroken.checkpoint.weights_sha256
    assert len((tmp_path / "b" / "history.jsonl").read_text().splitlines()) == len(
        (tmp_path / "a" / "history.jsonl").read_text().splitlines()
    )


def test_features_that_are_not_finite_are_refused() -> None:
    features = torch.zeros(4, 2)
    features[1, 1] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        solve(features, torch.tensor([0, 1, 0, 1]), 2, None, 0)


def test_partial_starts_from_the_solution(digits: Path, tmp_path: Path) -> None:
    recipe = Recipe(weights="embedded", strategy="partial", epochs=3, flip=False)
    found = finetune(str(digits), recipe, tmp_path / "run", QUIET)
    lines = [json.loads(text) for text in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert [line["phase"] for line in lines] == ["head", "top", "top"]
    assert found.scores.top1 >= lines[0]["val_top1"]

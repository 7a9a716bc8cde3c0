"""Advice on a training run: overfitting, imbalance, data unlike ImageNet, data sufficient for more. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from tlexport.recipe import Recipe
from tlexport.units import format_bytes

IMBALANCED = 5.0  # ratio of the largest to the smallest class
GAP = 0.10  # of training over validation accuracy, 0..1
NEAR_CHANCE = 0.15  # share of the range from chance to 1 that a head on ImageNet features should reach
LARGE = 50_000  # training images; enough to train from scratch with a few hundred for each of a hundred classes
MOST_NAMED = 5  # classes that a note names
INT8_BYTES_PER_PARAMETER = 1.0


def before_training(recipe: Recipe, counts: Sequence[int], backbone_parameters: int, budget_bytes: int | None) -> list[str]:
    """Notes on the data and the request.

    Args:
        recipe: the request.
        counts: training images of each class.
        backbone_parameters: parameters of the whole network.
        budget_bytes: largest model file that the target takes, if a target was named.
    """
    notes = []
    ratio = max(counts) / max(1, min(counts))
    if ratio > IMBALANCED and recipe.balance == "none":
        notes.append(
            f"the largest class has {ratio:.1f} times as many training images as the smallest: consider --balance weights or sampler"
        )
    if sum(counts) >= LARGE and recipe.weights != "none" and recipe.strategy in ("head", "partial"):
        notes.append(f"{sum(counts):,} training images are many: --strategy full, or --weights none with more --epochs, is worth a try")
    smallest = backbone_parameters * INT8_BYTES_PER_PARAMETER
    if budget_bytes is not None and smallest > budget_bytes:
        notes.append(
            f"{recipe.backbone} alone takes about {format_bytes(smallest)} in INT8, more than the target's {format_bytes(budget_bytes)}: "
            "choose a smaller --backbone"
        )
    return notes


def after_training(
    recipe: Recipe, train_top1: float, val_top1: float, head_top1: float, classes: int, missed: Sequence[str] = ()
) -> list[str]:
    """Notes on the result.

    Args:
        recipe: the request.
        train_top1: of the best epoch, 0..1.
        val_top1: of the best epoch, 0..1.
        head_top1: best validation accuracy while only the head was trained, 0..1; NaN where it never was.
        classes: number of classes.
        missed: classes of which no validation image was recognised (recall 0).
    """
    notes = []
    if missed:
        more = f" and {len(missed) - MOST_NAMED} more" if len(missed) > MOST_NAMED else ""
        remedies = "look at the confusion matrix in report.html, check the labels, add images of them" + (
            ", or try --balance sampler" if recipe.balance == "none" else ""
        )
        notes.append(f"no validation image is recognised of: {', '.join(missed[:MOST_NAMED])}{more}; {remedies}")
    if train_top1 - val_top1 > GAP:
        tries = ["more images"]
        tries += ["--augment medium"] if recipe.augment in ("none", "light") else []
        tries += ["a larger --label-smoothing"] if recipe.label_smoothing < 0.1 else []
        tries += ["fewer trained stages (--strategy head, or --freeze)"] if recipe.strategy != "head" else []
        tries += ["pretrained weights (--weights)"] if recipe.weights == "none" else []
        notes.append(
            f"the network overfits: top-1 is {100 * train_top1:.0f} % in training, {100 * val_top1:.0f} % in validation; "
            f"try {', or '.join(tries)}"
        )
    chance = 1 / classes
    if head_top1 - chance < NEAR_CHANCE * (1 - chance) and recipe.weights != "none":
        notes.append(
            f"a classifier on the frozen features gets only {100 * head_top1:.0f} % right ({100 * chance:.0f} % is chance): the data looks "
            "far from what the weights were trained on; try --strategy gradual or full, or other --weights"
        )
    return notes

"""Settings that a recipe leaves open, decided from its other keys."""

from __future__ import annotations

from typing import Any

from tlexport.errors import UsageError
from tlexport.recipe import Recipe
from tlexport.train.phases import usual_lr

# keys that only matter while a classifier is trained in epochs: who sets one asks for epochs
OF_EPOCHS = frozenset(
    {"epochs", "batch_size", "lr", "optimizer", "weight_decay", "schedule", "warmup", "clip", "ema", "label_smoothing", "patience"}
)


def decided(recipe: Recipe, linear: bool) -> Recipe:
    """The recipe with ``head`` and ``lr`` set.

    Args:
        recipe: as given; keys that were set bind.
        linear: whether the classifier ends in a linear layer.

    Raises:
        UsageError: ``head = "solved"`` where epochs are required.
    """
    obstacle = _obstacle(recipe, linear)
    if recipe.head == "solved" and obstacle:
        raise UsageError(f"head = 'solved' is impossible: {obstacle}", "use --head trained")
    changes: dict[str, Any] = {}
    if recipe.head is None:
        keys = recipe.model_fields_set & (OF_EPOCHS if recipe.strategy == "head" else {"head_epochs"})
        asked = any(getattr(recipe, key) is not None for key in keys)  # a recipe from JSON sets open keys to None
        changes["head"] = "trained" if obstacle or asked else "solved"
    if recipe.lr is None:
        changes["lr"] = usual_lr(recipe)
    return recipe.model_copy(update=changes)


def _obstacle(recipe: Recipe, linear: bool) -> str:
    """Why a classifier cannot be solved; empty if it can."""
    if recipe.strategy == "full":
        return "strategy full trains the classifier together with all stages"
    if not linear:
        return f"the classifier of {recipe.backbone} does not end in a linear layer"
    if recipe.augment != "none":
        return f"augment = {recipe.augment!r} gives other features in each epoch"
    if recipe.teacher is not None:
        return "a teacher's answers are learned in epochs"
    if recipe.balance == "sampler":
        return "balance = 'sampler' draws images in each epoch"
    if recipe.lr == "auto":
        return "lr = 'auto' searches the rate of an epoch"
    return ""

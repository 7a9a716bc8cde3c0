"""What is trained when: a recipe and a list of stages become phases. Pure; nothing here knows torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tlexport.errors import UsageError
from tlexport.recipe import Recipe


@dataclass(frozen=True)
class Phase:
    """A stretch of training with one boundary and one rate."""

    name: str
    frozen: int  # number of stages, from the stem on, that are a constant function
    epochs: int
    lr: float  # peak learning rate


def plan_phases(recipe: Recipe, stages: Sequence[str], boundary: int | None) -> tuple[Phase, ...]:
    """The phases of a strategy.

    ``head``: the classifier alone. ``partial``: the classifier first, so that its random start does not disturb the
    trunk, then it together with the stages above ``boundary`` at a lower rate (as usual since Howard and Ruder 2018).
    ``full``: all stages in one phase.

    Args:
        recipe: the request.
        stages: names from stem to head.
        boundary: number of stages that ``--freeze`` keeps frozen, or None when it was not given.

    Raises:
        UsageError: the recipe contradicts itself.
    """
    trunk = len(stages) - 1
    if recipe.strategy == "head":
        if boundary is not None and boundary != trunk:
            raise UsageError(
                f"strategy head trains the classifier alone, but freeze = {recipe.freeze!r} would train more",
                "use --strategy partial, or leave out --freeze",
            )
        return (Phase("head", trunk, recipe.epochs, recipe.lr),)
    if recipe.strategy == "full":
        if boundary is not None:
            raise UsageError(
                f"strategy full trains everything, but freeze = {recipe.freeze!r} keeps stages frozen", "use --strategy partial"
            )
        return (Phase("full", 0, recipe.epochs, recipe.lr),)
    if boundary is None:
        boundary = max(1, trunk - 2)
    if recipe.epochs < 2:
        raise UsageError("strategy partial has two phases and needs at least 2 epochs", "use --epochs 2 or more, or --strategy head")
    first = recipe.head_epochs if recipe.head_epochs is not None else max(1, recipe.epochs // 3)
    if first >= recipe.epochs:
        raise UsageError(f"head_epochs ({first}) leaves none of the {recipe.epochs} epochs for the second phase", "raise --epochs")
    fine_lr = recipe.fine_lr if recipe.fine_lr is not None else recipe.lr / 3
    return (Phase("head", trunk, first, recipe.lr), Phase("top", boundary, recipe.epochs - first, fine_lr))

"""Plans the phases of a training from a recipe and a list of stages. Pure functions without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tlexport.errors import UsageError
from tlexport.recipe import Recipe
from tlexport.record import nearest

GRADUAL_DECAY = 0.7  # of the rate from one phase of gradual to the next deeper one
SHORTEST_PHASE = 2  # epochs; gradual unfreezes fewer stages rather than train one for less
HEAD_LR, FULL_LR = 5e-3, 1e-3  # a new classifier on a frozen trunk trains well with larger steps than pretrained stages


@dataclass(frozen=True)
class Phase:
    """Epochs with one set of frozen stages and one peak rate."""

    name: str
    frozen: int  # number of frozen stages, counted from the stem
    epochs: int
    lr: float  # peak learning rate
    must_gain: bool = False  # training ends after this phase if it does not improve on the earlier best
    solved: bool = False  # no epochs: the last layer is the solution of a convex problem


def usual_lr(recipe: Recipe) -> float:
    """The default peak rate of a strategy's first phase."""
    return FULL_LR if recipe.strategy == "full" else HEAD_LR


def boundary_of(freeze: str, backbone: str, stages: Sequence[str]) -> int:
    """Number of frozen stages if ``freeze`` (a name or a number from 0) and all stages below it are frozen.

    Args:
        freeze: what ``--freeze`` names.
        backbone: whose stages they are.
        stages: names from stem to head.

    Raises:
        UsageError: no such stage, or it is the head, which has to be trained.
    """
    names = list(stages)
    name = names[int(freeze)] if freeze.isdecimal() and int(freeze) < len(names) else freeze
    if name not in names:
        raise UsageError(f"{backbone} has no stage {freeze!r}{nearest(freeze, names)}", f"its stages: {', '.join(names)}")
    if name == names[-1]:
        raise UsageError(f"--freeze {freeze} would freeze the whole network: {name} is its classifier", f"freeze at most {names[-2]}")
    return names.index(name) + 1


def plan_phases(recipe: Recipe, stages: Sequence[str], boundary: int | None) -> tuple[Phase, ...]:
    """The phases of a strategy.

    ``head``: the classifier alone. ``partial``: the classifier first, so that its random start does not disturb the
    trunk, then it together with the stages above ``boundary`` at a lower rate. ``gradual``: the classifier first, then one
    stage more in each phase, from the top down to ``boundary``, at falling rates, until validation no longer gains (Howard
    and Ruder 2018). ``full``: all stages in one phase.

    Args:
        recipe: the request; without a number for ``lr`` (yet), the usual rate is taken.
        stages: names from stem to head.
        boundary: number of stages that ``--freeze`` keeps frozen, or None when it was not given.

    Raises:
        UsageError: the recipe contradicts itself.
    """
    trunk, solved = len(stages) - 1, recipe.head == "solved"
    lr = recipe.lr if isinstance(recipe.lr, float) else usual_lr(recipe)
    if recipe.strategy == "head":
        if boundary is not None and boundary != trunk:
            raise UsageError(
                f"strategy head trains the classifier alone, but freeze = {recipe.freeze!r} would train more",
                "use --strategy partial, or leave out --freeze",
            )
        return (Phase("head", trunk, 1, lr, solved=True) if solved else Phase("head", trunk, recipe.epochs, lr),)
    if recipe.strategy == "full":
        if boundary is not None:
            raise UsageError(
                f"strategy full trains everything, but freeze = {recipe.freeze!r} keeps stages frozen", "use --strategy partial"
            )
        return (Phase("full", 0, recipe.epochs, lr),)
    if recipe.epochs < 2:
        raise UsageError(
            f"strategy {recipe.strategy} has several phases and needs at least 2 epochs", "use --epochs 2 or more, or --strategy head"
        )
    first = 1 if solved else recipe.head_epochs if recipe.head_epochs is not None else max(1, recipe.epochs // 3)
    rest = recipe.epochs - first
    if rest < 1:
        raise UsageError(f"head_epochs ({first}) leaves none of the {recipe.epochs} epochs for the other phases", "raise --epochs")
    head = Phase("head", trunk, first, lr, solved=solved)
    fine_lr = recipe.fine_lr if recipe.fine_lr is not None else lr / 3
    if recipe.strategy == "partial":
        return (head, Phase("top", max(1, trunk - 2) if boundary is None else boundary, rest, fine_lr))
    lowest = 1 if boundary is None else boundary
    opened = list(range(trunk - 1, lowest - 1, -1))[: max(1, rest // SHORTEST_PHASE)]
    if not opened:
        raise UsageError(f"freeze = {recipe.freeze!r} leaves gradual nothing to unfreeze", "freeze less, or use --strategy head")
    phases = [head]
    for index, frozen in enumerate(opened):
        epochs = rest // len(opened) + (index < rest % len(opened))
        phases.append(Phase(f"+{stages[frozen]}", frozen, epochs, fine_lr * GRADUAL_DECAY**index, must_gain=True))
    return tuple(phases)

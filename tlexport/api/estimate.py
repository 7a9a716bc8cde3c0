"""The verb ``estimate``: latency and memory of a model on devices that it does not run on, each with the basis of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tlexport.errors import OverBudget, Unsupported
from tlexport.estimate.ranking import Fit, fit, modesty
from tlexport.hardware.target import Target
from tlexport.loading.estimable import Estimable
from tlexport.loading.estimate_on_target import Kind, estimate_with_kind
from tlexport.plan import Wishes
from tlexport.ports import Progress, Silent
from tlexport.prediction import Estimate


@dataclass(frozen=True)
class Answer:
    """What is known of a model on one board."""

    target: Target
    estimate: Estimate | None
    fit: Fit | None  # into the limits; there exactly when there is an estimate
    kind: Kind | None  # likewise
    error: Unsupported | None  # why there is none
    batch: int = 1  # images that the latency is for: more than 1 where the model takes no other number

    def to_json(self, what: str) -> dict[str, object]:
        """As cli.md has it; with ``latency_ms`` null where there is nothing to estimate by."""
        if self.estimate is None or self.fit is None:
            why = {"reason": self.error.message, "hint": self.error.hint} if self.error else {}
            return {"what": what, "target": self.target.profile.target, "latency_ms": None, **why}
        batch = {"batch": self.batch, "per_image_ms": round(self.estimate.p50_ms / self.batch, 4)}
        return self.estimate.to_json() | batch | {"kind": self.kind, "fits": self.fit.likelihood, "over": list(self.fit.broken)}


def estimate_boards(
    model: Estimable, targets: Sequence[Target], wishes: Wishes, *, rank: bool = False, progress: Progress | None = None
) -> list[Answer]:
    """Estimate a model on several boards, and hold each answer against the board's budget.

    Args:
        model: what :func:`tlexport.loading.estimable.find_graph` found.
        targets: the boards.
        wishes: threads, and limits that replace those of the budgets.
        rank: sort the answers: first the boards that keep the limits, smallest first (:func:`tlexport.estimate.ranking.modesty`), then
            those that break a limit, then those without a basis for an estimate. False: in the given order.
        progress: where to tell what happens.

    Raises:
        InvalidFile: the graph cannot be read, or a calibration is missing or was changed.
    """
    answers = []
    with (progress or Silent()).task("estimating", len(targets)) as advance:
        for target in targets:
            answers.append(_answer(model, target, wishes))
            advance(1, target.profile.target)
    return sorted(answers, key=_place) if rank else answers


def _answer(model: Estimable, target: Target, wishes: Wishes) -> Answer:
    try:
        found, kind = estimate_with_kind(model, target, wishes.threads or 1)
    except Unsupported as error:
        return Answer(target, None, None, None, error)
    return Answer(target, found, fit(found, wishes.limits(target.profile.budget)), kind, None, model.batch)


def _place(answer: Answer) -> tuple[int, tuple[bool, float, str]]:
    """Where an answer stands in the ranking."""
    group = 2 if answer.fit is None else 0 if answer.fit.counts else 1
    return group, modesty(answer.target.profile)


def expect_any(answers: Sequence[Answer]) -> None:
    """Raises Unsupported when there is nothing to estimate by for any of the boards; says why for each."""
    errors = [answer.error for answer in answers if answer.error]
    if len(errors) < len(answers) or not errors:
        return
    if len(errors) == 1:
        raise errors[0]
    raise Unsupported("there is no estimate:\n" + "\n".join(f"  {error.message}" for error in errors), errors[0].hint)


def expect_fit(answers: Sequence[Answer]) -> None:
    """Raises OverBudget when the model keeps within the limits on none of the boards; names what binds on the nearest."""
    estimated = [answer for answer in answers if answer.fit and answer.estimate]
    if not estimated or any(answer.fit.counts for answer in estimated if answer.fit):
        return

    def distance(answer: Answer) -> tuple[int, float]:
        return (len(answer.fit.broken), answer.estimate.p50_ms) if answer.fit and answer.estimate else (0, 0.0)

    nearest = min(estimated, key=distance)
    over = "; ".join(nearest.fit.broken) if nearest.fit else ""
    where = f"any of these boards; nearest is {nearest.target.profile.target}" if len(estimated) > 1 else nearest.target.profile.target
    raise OverBudget(
        f"the model is not expected to keep within the limits on {where}: {over}",
        "raise that limit, train a smaller --backbone or --image-size, or look at other boards: tlx estimate WHAT --all",
    )

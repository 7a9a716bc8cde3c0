"""The verb ``estimate``: latency and memory of a model on devices that it does not run on, each with the basis of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tlexport.artifact import Precision
from tlexport.errors import OverBudget, Unsupported
from tlexport.estimate.ranking import BudgetFit, by_peak_rate, fit_to_budget
from tlexport.hardware.target import Target, profile_names, resolve
from tlexport.loading.estimable import Estimable, Shapes, find_graph
from tlexport.loading.estimate_on_target import Kind, estimate_with_kind
from tlexport.plan import Constraints
from tlexport.ports import Progress, Silent
from tlexport.prediction import Estimate


@dataclass(frozen=True)
class Answer:
    """The estimate of a model on one board, or the reason why there is none."""

    target: Target
    estimate: Estimate | None
    fit: BudgetFit | None  # compared with the limits; None: no estimate
    kind: Kind | None  # None: no estimate
    error: Unsupported | None  # why there is no estimate
    batch: int = 1  # images in one run; more than 1 if the model has a fixed batch

    def to_json(self, what: str) -> dict[str, object]:
        """For ``--json``; ``latency_ms`` is null without an estimate."""
        if self.estimate is None or self.fit is None:
            why = {"reason": self.error.message, "hint": self.error.hint} if self.error else {}
            return {"what": what, "target": self.target.profile.target, "latency_ms": None, **why}
        batch = {"batch": self.batch, "per_image_ms": round(self.estimate.p50_ms / self.batch, 4)}
        return self.estimate.to_json() | batch | {"kind": self.kind, "fits": self.fit.likelihood, "over": list(self.fit.broken)}


def estimate_boards(
    model: Estimable, targets: Sequence[Target], constraints: Constraints, *, rank: bool = False, progress: Progress | None = None
) -> list[Answer]:
    """Estimate a model on several boards, and compare each estimate with the board's budget.

    Args:
        model: from :func:`tlexport.loading.estimable.find_graph`.
        targets: the boards.
        constraints: threads, and limits that replace the budgets of the boards.
        rank: sort the answers: first the boards that keep the limits, smallest first (:func:`tlexport.estimate.ranking.by_peak_rate`), then
            those that break a limit, then those without a basis for an estimate. False: in the given order.
        progress: receives progress and notes.

    Raises:
        InvalidFile: the graph cannot be read, or a calibration file is missing or changed.
    """
    answers = []
    with (progress or Silent()).task("estimating", len(targets)) as advance:
        for target in targets:
            answers.append(_answer(model, target, constraints))
            advance(1, target.profile.target)
    return sorted(answers, key=_place) if rank else answers


@dataclass(frozen=True)
class Estimated:
    """The result of ``estimate``."""

    model: Estimable
    answers: tuple[Answer, ...]
    single: bool  # one board was named

    def to_json(self) -> object:
        """For ``--json``: one object for a single named board, else a list."""
        values = [answer.to_json(self.model.what) for answer in self.answers]
        return values[0] if self.single else values


def estimate_what(
    what: Path,
    names: Sequence[str],
    constraints: Constraints,
    *,
    precision: Precision | None = None,
    shapes: Shapes | None = None,
    progress: Progress | None = None,
) -> Estimated:
    """Estimate WHAT on the named boards, or rank all boards if none is named.

    Args:
        what: see :func:`tlexport.loading.estimable.find_graph`.
        names: profiles; empty: every one.
        constraints: see :func:`estimate_boards`.
        precision: which of a bundle's models; None: the chosen one.
        shapes: shape of each input that has free axes other than the first.
        progress: receives progress and notes.

    Raises:
        Unsupported: there is no estimate for any of the boards.
        TlxError: see errors.py.
    """
    progress = progress or Silent()
    targets = [resolve(name) for name in names or profile_names()]
    for target in targets if names else ():
        if target.note:
            progress.note(target.note)
    model = find_graph(what, precision, shapes)
    if model.note:
        progress.note(model.note)
    if model.batch != 1:
        progress.note(f"{model.what} has a fixed batch of {model.batch}; the estimated latency is that of {model.batch} images at once")
    answers = estimate_boards(model, targets, constraints, rank=not names, progress=progress)
    expect_any(answers)
    for answer in answers:
        if answer.estimate and answer.target.here and answer.target.profile.runtime == "onnxruntime":
            progress.note(f"this machine is {answer.target.profile.target}: measure the real latency with tlx bench")
    return Estimated(model, tuple(answers), len(names) == 1)


def _answer(model: Estimable, target: Target, constraints: Constraints) -> Answer:
    try:
        found, kind = estimate_with_kind(model, target, constraints.threads or 1)
    except Unsupported as error:
        return Answer(target, None, None, None, error)
    return Answer(target, found, fit_to_budget(found, constraints.limits(target.profile.budget)), kind, None, model.batch)


def _place(answer: Answer) -> tuple[int, tuple[bool, float, str]]:
    """The sort key of an answer."""
    group = 2 if answer.fit is None else 0 if answer.fit.counts else 1
    return group, by_peak_rate(answer.target.profile)


def expect_any(answers: Sequence[Answer]) -> None:
    """Raises Unsupported, with the reason for each board, if there is no estimate at all."""
    errors = [answer.error for answer in answers if answer.error]
    if len(errors) < len(answers) or not errors:
        return
    if len(errors) == 1:
        raise errors[0]
    raise Unsupported("there is no estimate:\n" + "\n".join(f"  {error.message}" for error in errors), errors[0].hint)


def expect_fit(answers: Sequence[Answer]) -> None:
    """Raises OverBudget if no board keeps the limits; names the broken limits of the nearest board."""
    estimated = [answer for answer in answers if answer.fit and answer.estimate]
    if not estimated or any(answer.fit.counts for answer in estimated if answer.fit):
        return

    def distance(answer: Answer) -> tuple[int, float]:
        return (len(answer.fit.broken), answer.estimate.p50_ms) if answer.fit and answer.estimate else (0, 0.0)

    nearest = min(estimated, key=distance)
    over = "; ".join(nearest.fit.broken) if nearest.fit else ""
    where = f"any of these boards; nearest is {nearest.target.profile.target}" if len(estimated) > 1 else nearest.target.profile.target
    raise OverBudget(
        f"the model is not expected to keep the limits on {where}: {over}",
        "raise that limit, train a smaller --backbone or --image-size, or try other boards: tlx estimate WHAT --all",
    )

"""What every result has: its plain data, and the parts that several results show."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, overload

from tlexport.errors import TlxError
from tlexport.python.tables import Shown, Table, percent

if TYPE_CHECKING:
    from tlexport.accuracy import Scores

MATRIX = 25  # classes whose confusion matrix is shown; of more, the most frequent mistakes
Item = TypeVar("Item", covariant=True)


def plain(value: Any) -> Any:
    """A value as JSON holds it: lists in place of tuples."""
    return json.loads(json.dumps(value))


@dataclass(frozen=True, repr=False)
class Result(Shown):
    """A result. ``repr`` and a notebook show it as tables."""

    _json: Any

    def to_dict(self) -> Any:
        """The value that the command prints with ``--json``: a dict, or a list of dicts where the command prints a list."""
        return copy.deepcopy(self._json)


@dataclass(frozen=True, repr=False)
class Results(Result, Sequence[Item]):
    """A result of several items, in order: it has a length, an index and a loop."""

    items: tuple[Item, ...]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Item, ...]: ...

    def __getitem__(self, index: int | slice) -> Item | tuple[Item, ...]:
        return self.items[index]


def with_result(error: TlxError, result: Result) -> TlxError:
    """The error of a command that prints its result and then fails; the result is in ``error.result``."""
    error.result = result
    return error


@dataclass(frozen=True)
class ClassScore:
    """How well one class is recognised."""

    n: int  # images of the class
    recall: float | None  # 0..1; None: no image of the class
    precision: float | None  # 0..1; None: the class was never predicted


def class_scores(scores: Scores) -> dict[str, ClassScore]:
    """Of each class, by its name."""
    return {name: ClassScore(int(row["n"] or 0), row["recall"], row["precision"]) for name, row in scores.per_class().items()}


def per_class_table(per_class: Mapping[str, ClassScore]) -> Table:
    """Images, recall and precision of each class."""
    rows = [(name, str(row.n), percent(row.recall), percent(row.precision)) for name, row in per_class.items()]
    return Table(("class", "images", "recall", "precision"), rows)


def confusion_tables(scores: Scores) -> list[Table | str]:
    """The confusion matrix, shaded by the share of each class's images; of many classes the most frequent mistakes."""
    import numpy as np

    classes, confusion = scores.classes, scores.confusion
    if len(classes) > MATRIX:
        mistakes = confusion - np.diag(confusion.diagonal())
        true, predicted = np.nonzero(mistakes)
        order = np.argsort(-mistakes[true, predicted], kind="stable")[:MATRIX]
        pairs = [(classes[true[at]], classes[predicted[at]], str(mistakes[true[at], predicted[at]])) for at in order]
        return [f"Most frequent mistakes of {len(classes)} classes", Table(("true class", "predicted", "images"), pairs, (0, 1))]
    totals = confusion.sum(axis=1, keepdims=True).clip(min=1)
    rows = [(name, *map(str, row)) for name, row in zip(classes, confusion.tolist(), strict=True)]
    shades = [(0.0, *row) for row in (0.8 * confusion / totals).tolist()]
    return ["Confusion matrix: true classes down, predicted classes across", Table(("", *classes), rows, shades=shades)]

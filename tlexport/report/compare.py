"""The report of a comparison: first whether the models differ, then the figures behind it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tlexport.measurement import Environment, Interval
from tlexport.report import bench_plots, extras
from tlexport.report.page import render
from tlexport.report.svg import INK, MARKERS, SERIES, Plot, drawing, label
from tlexport.report.text import short_names


@dataclass(frozen=True)
class Compared:
    """A model that was timed alternately with the first one. Ratios are its time over that of the first."""

    name: str
    interval: Interval
    round_ratios: Sequence[float]  # one for each round; the ratio is their median
    first_ns: Sequence[int]  # all runs of the first model
    runs_ns: Sequence[int]  # all runs of this model

    @property
    def answer(self) -> str:
        """Faster, slower, or neither, as a class of the style sheet."""
        return "unknown" if not self.interval.real else "kept" if self.interval.ratio < 1 else "broken"

    def p50_ms(self) -> tuple[float, float]:
        """Medians of all runs, ms: of the first model and of this one."""
        return statistics.median(self.first_ns) / 1e6, statistics.median(self.runs_ns) / 1e6


def compare_report(
    what: str, others: Sequence[Compared], environment: Environment, settings: Mapping[str, object], confidence: float, raw: object
) -> str:
    """Render the page.

    Args:
        what: the first model, as the user named it.
        others: the models that were compared with it.
        environment: the machine.
        settings: how the models ran: threads, batch.
        confidence: of the intervals, 0..1.
        raw: the data to download, as plain JSON values.
    """
    machine: dict[str, Any] = environment.model_dump(mode="json")
    paths = [what, *(one.name for one in others)]
    names = short_names(paths)
    what, others = names[0], [replace(one, name=name) for one, name in zip(others, names[1:], strict=True)]
    shortened = {} if names == paths else dict(zip(names, paths, strict=True))
    samples = [others[0].first_ns, *(one.runs_ns for one in others)]
    return render(
        "compare.html",
        what=what,
        others=others,
        confidence=confidence,
        ratios=_ratios(others),
        distribution=bench_plots.distribution(names, samples),
        shown=bench_plots.MOST_LINES,
        count=len(others[0].round_ratios),
        models=shortened,
        tables=[table for table in (extras.facts("Settings", settings), extras.facts("Machine", machine)) if table],
        raw=raw,
    )


def _ratios(others: Sequence[Compared]) -> Plot:
    """The interval of each model, and its rounds as single marks."""
    words = "Time of each model relative to the first: a mark for each round, a line for the interval. At 1 there is no difference."
    shown = others[: bench_plots.MOST_LINES]
    with drawing("ratios", "Time relative to the first model", words) as (plot, axes):
        axes.axvline(1, color=INK, linewidth=0.8, linestyle=":")
        for place, one in enumerate(shown):
            colour, marker = SERIES[place], MARKERS[place]
            axes.plot(one.round_ratios, [place + 0.15] * len(one.round_ratios), marker, color=colour, markersize=4, markerfacecolor="none")
            axes.plot((one.interval.low, one.interval.high), (place - 0.1, place - 0.1), color=colour, linewidth=2)
            axes.plot([one.interval.ratio], [place - 0.1], marker, color=colour, markersize=8)
        axes.set_yticks(range(len(shown)), [label(one.name) for one in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlabel("time ratio")
    return plot

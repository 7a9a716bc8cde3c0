"""The plots of a bench: accuracy against cost, the distribution of runs, and the sensitivity of blocks to INT8."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tlexport.artifact import Mixed
from tlexport.report.candidates import ModelPoint, frontier
from tlexport.report.svg import DASHES, INK, MARKERS, SERIES, Plot, drawing, label
from tlexport.units import format_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_POINTS = 300  # of a line: finer than screen resolution
MOST_LINES = len(SERIES)


def pareto(found: Sequence[ModelPoint]) -> Plot | None:
    """Accuracy against latency; if either is unknown, the known one against size. The area of a mark is the file size."""
    timed = [c for c in found if c.p50_ms is not None]
    graded = [c for c in timed if c.top1 is not None]
    if len(graded) > 1 or len(graded) == len(found) == 1:
        points = [(c.p50_ms or 0.0, 100 * (c.top1 or 0.0)) for c in graded]
        words = "Median latency of each model from left to right, accuracy from bottom to top; the area of a mark is the file size."
        return _scatter(graded, points, "Accuracy against latency", words, ("median latency, ms", "top-1, %"))
    if len(graded := [c for c in found if c.top1 is not None]) > 1:
        points = [(c.size_bytes / 1e6, 100 * (c.top1 or 0.0)) for c in graded]
        words = "File size of each model from left to right, accuracy from bottom to top. The latency of too few models is known."
        return _scatter(graded, points, "Accuracy against size", words, ("file, MB", "top-1, %"))
    if len(timed) > 1:
        points = [(c.size_bytes / 1e6, c.p50_ms or 0.0) for c in timed]
        words = "File size of each model from left to right, median latency from bottom to top. Accuracy is unknown."
        return _scatter(timed, points, "Latency against size", words, ("file, MB", "median latency, ms"), smaller_is_better=True)
    return None


def _scatter(
    found: Sequence[ModelPoint],
    points: Sequence[tuple[float, float]],
    title: str,
    words: str,
    axis_names: tuple[str, str],
    smaller_is_better: bool = False,
) -> Plot:
    largest = max(c.size_bytes for c in found)
    sign = -1 if smaller_is_better else 1
    with drawing("pareto", title, words) as (plot, axes):
        best = [points[i] for i in frontier([(x, sign * y) for x, y in points])]
        axes.plot(*zip(*best, strict=True), color=INK, linewidth=0.8, linestyle=":", zorder=1)
        for place, (c, (x, y)) in enumerate(zip(found, points, strict=True)):
            colour = SERIES[place % len(SERIES)]
            filled = colour if c.source != "estimated" else "none"
            area = 30 + 220 * c.size_bytes / largest
            marker = MARKERS[place % len(MARKERS)]
            axes.scatter([x], [y], s=area, marker=marker, facecolors=filled, edgecolors=INK if c.chosen else colour, linewidths=1.5)
            if c.interval_ms and axis_names[0].startswith("median"):
                axes.plot(c.interval_ms, (y, y), color=colour, linewidth=1)
            caption = f"{label(c.name)}\n{format_bytes(c.size_bytes)}{', chosen' if c.chosen else ''}"
            above = place % 2 == 0  # keeps the captions of neighbours apart
            offset, side = ((0, 11), "bottom") if above else ((0, -11), "top")
            axes.annotate(caption, (x, y), offset, textcoords="offset points", ha="center", va=side, fontsize=9)
        axes.margins(0.28, 0.35)
        if axis_names[1].endswith("%"):
            _within_hundred(axes)
        axes.set_xlabel(axis_names[0])
        axes.set_ylabel(axis_names[1])
    return plot


def distribution(names: Sequence[str], samples: Sequence[Sequence[int]]) -> Plot:
    """Cumulative distribution of the latencies.

    Args:
        names: of each measurement.
        samples: its raw latencies, ns.
    """
    words = "Cumulative distribution of the runs of each measurement. A steep line means steady runs."
    with drawing("distribution", "Distribution of the runs", words) as (plot, axes):
        spread = 1.0
        for place, (name, raw) in enumerate(list(zip(names, samples, strict=True))[:MOST_LINES]):
            shares = np.linspace(0, 100, min(len(raw), MOST_POINTS))
            times = np.percentile(np.asarray(raw, dtype=np.float64) / 1e6, shares, method="inverted_cdf")
            axes.plot(times, shares, drawstyle="steps-post", color=SERIES[place], linestyle=DASHES[place], label=label(name))
            spread = max(spread, times[-1] / np.median(times))
        if spread > 5 or len(samples) > 1:
            axes.set_xscale("log")
            _plain_ticks(axes)
        axes.set_xlabel("latency of a run, ms")
        axes.set_ylabel("runs up to this latency, %")
        axes.legend(fontsize=9)
    return plot


def in_order(names: Sequence[str], samples: Sequence[Sequence[int]]) -> Plot:
    """The runs in order, which shows drift of the machine. Long series are shown as medians of neighbouring runs."""
    words = "Latency of the runs in the order of measuring; for long series, medians of neighbouring runs."
    with drawing("order", "Runs in order", words) as (plot, axes):
        for place, (name, raw) in enumerate(list(zip(names, samples, strict=True))[:MOST_LINES]):
            parts = np.array_split(np.asarray(raw, dtype=np.float64) / 1e6, min(len(raw), MOST_POINTS))
            middles = [float(np.median(part)) for part in parts]
            x = np.linspace(0, 100, len(middles)) if len(middles) > 1 else [50]
            axes.plot(x, middles, color=SERIES[place], linestyle=DASHES[place], linewidth=1, label=label(name))
        if len(samples) > 1:
            axes.set_yscale("log")
            _plain_ticks(axes, y=True)
        axes.set_xlabel("progress of the measurement, % of its runs")
        axes.set_ylabel("latency, ms")
        axes.legend(fontsize=9)
    return plot


def sensitivity(mixed: Mixed) -> Plot:
    """Effect of INT8 on each block, the most sensitive first."""
    words = "Divergence of the probabilities from FP32 with only one block in INT8; the most sensitive block first."
    divergence = [max(found.divergence, 1e-12) for found in mixed.ranking]
    floats = [found.block in set(mixed.kept) for found in mixed.ranking]
    with drawing("sensitivity", "Sensitivity of each block to INT8", words) as (plot, axes):
        for in_float, name, colour in ((True, "float", SERIES[1]), (False, "INT8", SERIES[0])):
            places = [place for place, is_float in enumerate(floats) if is_float == in_float]
            if places:
                filled = "none" if in_float else colour
                heights = [divergence[place] for place in places]
                axes.bar([place + 1 for place in places], heights, label=name, color=filled, edgecolor=colour, linewidth=1.5)
        axes.set_yscale("log")
        _plain_ticks(axes, y=True)
        axes.locator_params("x", integer=True)
        axes.set_xlabel("block, the most sensitive first")
        axes.set_ylabel("divergence, nats")
        axes.legend(fontsize=9)
    return plot


def _within_hundred(axes: Axes) -> None:
    """Show a range of at least two points of accuracy, and no tick above 100 %: the space above holds captions."""
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, high - 2), high)
    axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= min(high, 100)])


def _plain_ticks(axes: Axes, y: bool = False) -> None:
    """Plain numbers on a logarithmic axis: 0.8, 1, 2."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis = axes.yaxis if y else axes.xaxis
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())

"""The page of a health check of DATA, and the same section for the report of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tlexport.report.page import render
from tlexport.report.svg import SERIES, Plot, drawing
from tlexport.report.text import short_names


@dataclass(frozen=True)
class FindingRow:
    """A finding in words."""

    severity: str  # warning, hint
    message: str
    advice: str


@dataclass(frozen=True)
class Tile:
    """An image with lines of text."""

    link: str  # data URL of the thumbnail
    file: str
    alt: str
    lines: tuple[tuple[str, str], ...]  # label and value


@dataclass(frozen=True)
class Gallery:
    """Images of one kind of finding, in groups."""

    identity: str  # of the heading
    title: str
    note: str
    groups: tuple[tuple[Tile, ...], ...]
    grouped: bool  # a group is shown as a row of its own; else all images follow each other
    empty: str  # text if there are no images


@dataclass(frozen=True)
class HealthSection:
    """The contents of the section."""

    findings: Sequence[FindingRow]
    galleries: Sequence[Gallery]
    parts: tuple[str, ...]  # columns of the table of classes
    classes: Sequence[tuple[str, tuple[int, ...], int]]  # name, images in each part, in all; the smallest class first
    sizes: Sequence[tuple[str, int, int, int]]  # side, smallest, median, largest, pixels
    unreadable: Sequence[tuple[str, str]]
    notes: Sequence[str]
    images: int
    worst: int = 20  # classes shown before the rest is collapsed


def health_page(source: str, section: HealthSection, raw: Mapping[str, Any]) -> str:
    """Render the page of ``tlx data --report``.

    Args:
        source: DATA as the user gave it.
        section: the contents.
        raw: the value of ``--json``, as a download.
    """
    plot = class_sizes([total for _, _, total in section.classes])
    return render("data.html", source=source, short=short_names([source])[0], health=section, balance=plot, raw=raw)


def class_sizes(totals: Sequence[int]) -> Plot:
    """Images of each class, from the largest to the smallest class."""
    words = "One bar for each class, from the largest to the smallest; its height is the number of images."
    ordered = sorted(totals, reverse=True)
    with drawing("balance", "Images of each class", words) as (plot, axes):
        axes.step(range(1, len(ordered) + 1), ordered, where="mid", color=SERIES[0], label="images")
        axes.fill_between(range(1, len(ordered) + 1), ordered, step="mid", color=SERIES[0], alpha=0.3)
        axes.set_ylim(bottom=0)
        axes.locator_params("x", integer=True)
        axes.set_xlabel("class, by number of images")
        axes.set_ylabel("images")
    return plot

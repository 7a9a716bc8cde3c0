"""Tables of results: plain text for a terminal, HTML for a notebook. Every cell is text of anyone and is escaped."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from tlexport.progress import shortened, visible

MOST_ROWS = 100
_CELL = "padding:0.15em 0.6em"


@dataclass(frozen=True)
class Table:
    """Columns and rows. Columns of text are left-aligned, the others right-aligned."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    text_columns: tuple[int, ...] = (0,)
    shades: Sequence[Sequence[float]] = ()  # 0 to 1 for each cell: how dark its background is in HTML; empty: none

    @property
    def more(self) -> int:
        """Rows that are not shown."""
        return max(0, len(self.rows) - MOST_ROWS)

    def text(self) -> str:
        """Aligned columns."""
        cells = [[shown(cell) for cell in row] for row in (self.columns, *self.rows[:MOST_ROWS])]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        align = [str.ljust if at in self.text_columns else str.rjust for at in range(len(widths))]
        lines = ["  ".join(put(cell, width) for put, cell, width in zip(align, row, widths, strict=True)).rstrip() for row in cells]
        return "\n".join([*lines, *([f"... and {self.more} more rows"] if self.more else [])])

    def html(self) -> str:
        """A table element."""
        head = "".join(f'<th style="{self._align(at)};{_CELL}">{escaped(name)}</th>' for at, name in enumerate(self.columns))
        body = "".join(f"<tr>{self._row(number, row)}</tr>" for number, row in enumerate(self.rows[:MOST_ROWS]))
        more = f"<p>... and {self.more} more rows</p>" if self.more else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"

    def _row(self, number: int, row: tuple[str, ...]) -> str:
        cells = []
        for at, cell in enumerate(row):
            shade = self.shades[number][at] if self.shades else 0.0
            background = f";background:rgba(70,130,180,{shade:.2f})" if shade else ""
            cells.append(f'<td style="{self._align(at)};{_CELL}{background}">{escaped(cell)}</td>')
        return "".join(cells)

    def _align(self, at: int) -> str:
        return f"text-align:{'left' if at in self.text_columns else 'right'}"


class Shown:
    """A result that a terminal and a notebook can show."""

    def _shown(self) -> Sequence[Table | str]:
        """Tables and lines, from top to bottom."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return "\n".join(part.text() if isinstance(part, Table) else shown(part) for part in self._shown())

    def _repr_html_(self) -> str:
        return "".join(part.html() if isinstance(part, Table) else f"<p>{escaped(part)}</p>" for part in self._shown())


def shown(text: str) -> str:
    """A text on one line that cannot steer a terminal."""
    return shortened(visible(text, lines=False))


def escaped(text: str) -> str:
    """The same, for HTML."""
    return html.escape(shown(text))


def percent(fraction: float | None) -> str:
    """0.9512 -> ``"95.12 %"``; a dash for None."""
    return "-" if fraction is None else f"{100 * fraction:.2f} %"


def figure(value: float | None, digits: int = 3) -> str:
    """0.8312 -> ``"0.831"``; a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"

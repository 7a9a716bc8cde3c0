"""Plots as inline SVG: text stays text, and colours come from the page's style sheet, so one plot works in light, dark and print."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

from tlexport.report.text import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# placeholder colours for matplotlib, replaced by variables of the page's style sheet
INK, LINE = "#010203", "#040506"
SERIES = ("#0a0001", "#0a0002", "#0a0003", "#0a0004", "#0a0005", "#0a0006")
MARKERS = "os^Dvp"  # distinguish series without colour
DASHES = ("-", "--", ":", "-.", "-", "--")
_COLOURS = {INK: "var(--ink)", LINE: "var(--line)"} | {colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, 1)}
_STYLE: dict[Any, object] = {  # Any: matplotlib before 3.11 has no type for its settings
    "svg.fonttype": "none",  # the reader's fonts cover more scripts than matplotlib's
    "text.parse_math": False,  # keep dollar signs in names
    "font.family": "sans-serif",
    "font.size": 11.0,  # the figure is about as wide as a phone, so it is not scaled down there
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "xtick.color": LINE,
    "xtick.labelcolor": INK,
    "ytick.color": LINE,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "savefig.transparent": True,
}
WIDTH, HEIGHT = 5.0, 3.3  # inches of 72 units
LONGEST_LABEL = 32  # characters


@dataclass
class Plot:
    """A plot to insert into a page."""

    title: str
    description: str  # for screen readers
    svg: str = ""  # Markup: inserted unescaped


def label(text: str) -> str:
    """An untrusted name as a label: one line, shortened, without characters that XML forbids."""
    text = " ".join(plain(text).split())
    return text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}…"


@contextmanager
def drawing(key: str, title: str, description: str) -> Iterator[tuple[Plot, Axes]]:
    """Yield a plot and its axes to draw on; the plot has its SVG afterwards.

    Args:
        key: unique in the page: a word of lower-case letters.
        title: shown above the plot, and read by screen readers.
        description: the content of the plot in a sentence.
    """
    import matplotlib
    from matplotlib.figure import Figure  # imported late: it is slow to import, and few commands write reports

    plot = Plot(title, description)
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": key}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # only laid out with matplotlib's font
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")  # without pyplot: no global state, no display
        yield plot, figure.subplots()
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    plot.svg = _inline(stream.getvalue(), key, plot)


def _inline(text: str, key: str, plot: Plot) -> Markup:
    """Convert matplotlib's SVG to inline SVG: without namespaces, with unique ids, with a title and description for screen readers.

    The SVG is parsed and serialized again, so labels cannot contain markup.
    """
    root = ElementTree.fromstring(text)
    for child in list(root):
        if _local(child.tag) == "metadata":
            root.remove(child)
    for element in root.iter():
        for parent in [child for child in element if _local(child.tag) == "style"]:
            element.remove(parent)  # in a page it would apply to everything
        element.tag = _local(element.tag)
        attributes = {_local(name): value for name, value in element.attrib.items()}
        element.attrib.clear()
        element.attrib.update({name: _attribute(name, value, key) for name, value in attributes.items()})
    _drop_unused_ids(root)
    root.attrib.clear()
    box = f"0 0 {72 * WIDTH:g} {72 * HEIGHT:g}"
    root.attrib.update({"viewBox": box, "class": "plot", "role": "img", "aria-labelledby": f"{key}-title {key}-description"})
    for place, (name, words) in enumerate((("title", plot.title), ("desc", plot.description))):
        element = ElementTree.Element(name, {"id": f"{key}-{'title' if name == 'title' else 'description'}"})
        element.text = plain(words)
        root.insert(place, element)
    # safe: serialized from parsed XML, so text is escaped
    return Markup(ElementTree.tostring(root, encoding="unicode", short_empty_elements=False))


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _attribute(name: str, value: str, key: str) -> str:
    if name == "id":
        return f"{key}-{value}"
    if name == "href":
        return value.replace("#", f"#{key}-", 1)
    value = value.replace("url(#", f"url(#{key}-")
    if name == "style":
        for colour, own in _COLOURS.items():
            value = value.replace(colour, own)
        value = re.sub(r"font:[^;]*?([\d.]+px)[^;]*", r"font-size: \1", value)  # use the page's font family
    return value


def _drop_unused_ids(root: ElementTree.Element) -> None:
    """Remove ids without a reference: matplotlib gives every group an id."""
    values = [value for element in root.iter() for name, value in element.attrib.items() if name != "id"]
    used = {found for value in values for found in re.findall(r"#([\w-]+)", value)}
    for element in root.iter():
        if element.get("id") not in used:
            element.attrib.pop("id", None)

"""Renders a template to one self-contained HTML file."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tlexport.report.text import breakable, json_link, number, percent, plain
from tlexport.units import format_bytes
from tlexport.version import __version__

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **shown: object) -> str:
    """Render a template. All text is escaped; only the SVG of :mod:`svg` is inserted unescaped.

    Args:
        template: a file in ``templates/``.
        shown: its variables. A missing variable is an error.

    Returns:
        The page. It needs no network and no script, and its content security policy forbids both.
    """
    return _environment().get_template(template).render(**shown, version=__version__)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    made.filters |= {"breakable": breakable, "number": number, "percent": percent, "bytes": format_bytes, "json_link": json_link}
    return made

"""``bench --report``: collects the data of measurements or comparisons, and writes the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tlexport.api.compare import Comparison, to_json
from tlexport.bench.against import Regression
from tlexport.bench.compare import CONFIDENCE, round_ratio
from tlexport.bench.environment import default_threads
from tlexport.bench.noise import noise
from tlexport.bundle.manifest import Manifest
from tlexport.errors import UsageError
from tlexport.hardware.target import is_here
from tlexport.loading.bench_request import BenchSettings
from tlexport.loading.model import LoadedModel, load
from tlexport.measurement import Measurement
from tlexport.report.bench import Conditions, Earlier, bench_report
from tlexport.report.compare import Compared, compare_report
from tlexport.storage.files import new_file


def check_report(path: Path) -> None:
    """Check the path of the report. Call it before measuring.

    Raises:
        UsageError: the name does not end in .html, or it is a folder.
    """
    if path.suffix.lower() not in (".html", ".htm") or path.is_dir():
        raise UsageError(f"the report is an HTML file, but {path} does not end in .html", "name it: --report bench.html")


def write_report(
    path: Path,
    what: Path | LoadedModel,
    measurements: Sequence[Measurement],
    *,
    regressions: Sequence[Regression] = (),
    host: str = "",
    host_fits: bool = False,
) -> None:
    """Write the report.

    Args:
        path: the HTML file to write or replace.
        what: the bundle, the checkpoint or the model file that was measured.
        measurements: its measurements.
        regressions: the comparison of each with an earlier measurement; empty: none.
        host: the board of the measurements; empty: this machine.
        host_fits: that board is the bundle's target.

    Raises:
        TlxError: see errors.py.
    """
    check_report(path)
    model = load(what)
    known = model.checkpoint or model.manifest
    on_target = isinstance(known, Manifest) and (host_fits if host else is_here(known.profile))
    page = bench_report(
        str(model.what),
        measurements,
        known,
        earlier=[_earlier(one) for one in regressions],
        conditions=Conditions(
            on_target=on_target,
            real_images=isinstance(known, Manifest),
            host=host,
            notes=[f"{m.what}: {found}." for m in measurements if (found := noise(m))],
            noise={m.artifact_sha256: found for m in measurements if m.batch == 1 and (found := noise(m))},
        ),
    )
    with new_file(path) as file:
        file.write_text(page, encoding="utf-8")


def write_comparison(path: Path, comparisons: Sequence[Comparison], settings: BenchSettings) -> None:
    """Write the report of a comparison.

    Args:
        path: the HTML file to write or replace.
        comparisons: each of one model with the first.
        settings: of the comparisons.

    Raises:
        UsageError: see :func:`check_report`.
    """
    check_report(path)
    first = comparisons[0]
    page = compare_report(
        first.what,
        [_compared(one) for one in comparisons],
        first.environment,
        {"threads": settings.threads or default_threads(), "batch": settings.batch},
        CONFIDENCE,
        to_json(comparisons),
    )
    with new_file(path) as file:
        file.write_text(page, encoding="utf-8")


def _compared(one: Comparison) -> Compared:
    return Compared(one.other, one.interval, [round_ratio(*pair) for pair in one.rounds], *one.runs_ns())


def _earlier(one: Regression) -> Earlier:
    return Earlier(one.before.percentile_ms(50), one.interval, one.differs)

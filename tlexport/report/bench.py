"""The report of a bench: the verdict first, then the figures behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tlexport.artifact import Artifact
from tlexport.bundle.manifest import Manifest
from tlexport.checkpoint import Checkpoint
from tlexport.measurement import Interval, Measurement
from tlexport.report import bench_plots, extras
from tlexport.report.candidates import candidates
from tlexport.report.page import render
from tlexport.report.text import short_names
from tlexport.report.verdict import Verdict, judge


@dataclass(frozen=True)
class Timed:
    """One measurement as the page shows it."""

    name: str
    measured: Measurement
    values: dict[str, Any]  # the same as JSON
    tables: dict[str, extras.Table | None]


@dataclass(frozen=True)
class Earlier:
    """An earlier measurement of the same model. Ratios are its time now over its time then."""

    p50_ms: float
    interval: Interval
    differs: Sequence[str]  # differences between the two machines


@dataclass(frozen=True)
class Conditions:
    """How the measurements were made.

    Attributes:
        on_target: the machine that measured is the device that the bundle is for.
        real_images: the inputs were images of the bundle, not synthetic ones. A measurement that records its inputs overrides this.
        host: the board that measured; empty: this machine.
        notes: why measurements were noisy, a sentence each.
        noise: the sha256 of each model with a noisy measurement, and the cause.
    """

    on_target: bool = False
    real_images: bool = False
    host: str = ""
    notes: Sequence[str] = ()
    noise: Mapping[str, str] = field(default_factory=dict)


def bench_report(
    what: str,
    measurements: Sequence[Measurement],
    known: Manifest | Checkpoint | None = None,
    *,
    earlier: Sequence[Earlier] = (),
    conditions: Conditions | None = None,
) -> str:
    """Render the page.

    Args:
        what: the measured model, bundle or checkpoint, as the user named it.
        measurements: one or more.
        known: manifest or record of the bundle or checkpoint of the models; None: an external model.
        earlier: the earlier measurement of each measurement, in the same order; empty: there is none.
        conditions: how the measurements were made. None: the defaults.
    """
    conditions = conditions or Conditions()
    found = candidates(measurements, known)
    timed = [_timed(measured, name) for measured, name in zip(measurements, _names(measurements, known), strict=True)]
    names, samples = [one.name for one in timed], [one.measured.latencies_ns for one in timed]
    int8 = _int8(known)
    fed = "real images from the bundle" if conditions.real_images else "synthetic inputs of the declared shape"
    return render(
        "bench.html",
        what=what,
        short=short_names([what])[0],
        host=conditions.host,
        known=known,
        kind="bundle" if isinstance(known, Manifest) else "checkpoint" if isinstance(known, Checkpoint) else "external",
        verdict=_verdict(known, measurements, conditions),
        candidates=found,
        pareto=bench_plots.pareto(found),
        timed=timed,
        earlier=list(zip(timed, earlier, strict=bool(earlier))),
        differs=sorted({text for one in earlier for text in one.differs}),
        distribution=bench_plots.distribution(names, samples),
        order=bench_plots.in_order(names, samples),
        shown=bench_plots.MOST_LINES,
        notes=conditions.notes,
        int8=int8,
        sensitivity=bench_plots.sensitivity(int8.mixed) if int8 and int8.mixed else None,
        environments=_environments(timed),
        fed=sorted({one.measured.inputs or fed for one in timed}),
        raw=[one.values for one in timed],
    )


def _verdict(known: Manifest | Checkpoint | None, measurements: Sequence[Measurement], conditions: Conditions) -> Verdict | None:
    if not isinstance(known, Manifest):
        return None
    return judge(known, measurements, on_target=conditions.on_target, noise=conditions.noise)


def _int8(known: Manifest | Checkpoint | None) -> Artifact | None:
    models = known.models if isinstance(known, Manifest) else ()
    return next((model.artifact for model in models if model.artifact.precision == "int8"), None)


def _timed(measured: Measurement, name: str) -> Timed:
    values = measured.model_dump(mode="json")
    tables = {
        "stages": extras.stages(name, values.get("stages")),
        "layers": extras.layers(name, values.get("layers")),
        "placement": extras.placement(name, values.get("placement")),
        "watch": extras.facts(name, values.get("watch")),
    }
    return Timed(name, measured, values, tables)


def _names(measurements: Sequence[Measurement], known: Manifest | Checkpoint | None) -> list[str]:
    """Short unique names: the precision of a bundle's model, else the file's name; batch and threads if they vary."""
    own = {model.artifact.sha256 for model in known.models} if isinstance(known, Manifest) else set()
    batches, threads = {m.batch for m in measurements}, {m.threads for m in measurements}
    names: list[str] = []
    for m in measurements:
        parts = [m.precision.upper() if m.artifact_sha256 in own else m.what.rstrip("/").rpartition("/")[2] or m.what]
        parts += [f"batch {m.batch}"] if len(batches) > 1 else []
        parts += [f"{m.threads} threads"] if len(threads) > 1 else []
        name = ", ".join(parts)
        again = sum(other == name or other.startswith(f"{name} (") for other in names)
        names.append(f"{name} ({again + 1})" if again else name)
    return names


def _environments(timed: Sequence[Timed]) -> list[extras.Table]:
    """One table for each machine and its state, titled with its measurements. The load is that of the first measurement."""
    found: dict[str, list[Timed]] = {}
    for one in timed:
        key = one.measured.environment.model_copy(update={"load_1min": None}).model_dump_json(exclude={"board"})
        found.setdefault(key, []).append(one)
    tables = [
        extras.facts(f"Machine of {', '.join(one.name for one in group)}", group[0].values["environment"]) for group in found.values()
    ]
    return [table for table in tables if table]

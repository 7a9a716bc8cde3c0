"""The report of a bench: the verdict first, then what it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tlexport.artifact import Artifact
from tlexport.bundle.manifest import Manifest
from tlexport.checkpoint import Checkpoint
from tlexport.measurement import Interval, Measurement
from tlexport.report import bench_plots, extras
from tlexport.report.candidates import candidates
from tlexport.report.page import render
from tlexport.report.text import short_names
from tlexport.report.verdict import judge


@dataclass(frozen=True)
class Timed:
    """One measurement as the page shows it."""

    name: str
    measured: Measurement
    also: dict[str, Any]  # the same as JSON
    tables: dict[str, extras.Table | None]


@dataclass(frozen=True)
class Earlier:
    """What one of the measurements is held against: the same model, measured before. Ratios are of its time now over its time then."""

    p50_ms: float
    interval: Interval
    differs: Sequence[str]  # what is not the same about the machines


def bench_report(
    what: str,
    measurements: Sequence[Measurement],
    known: Manifest | Checkpoint | None = None,
    *,
    earlier: Sequence[Earlier] = (),
    on_target: bool = False,
    real_images: bool = False,
    host: str = "",
    notes: Sequence[str] = (),
    noise: Mapping[str, str] | None = None,
) -> str:
    """The page.

    Args:
        what: what was measured, as the user named it.
        measurements: one or more.
        known: of the bundle or the checkpoint that the models are of; None: nothing is known of them but what was measured.
        earlier: what each measurement is held against; none: nothing.
        on_target: the machine that measured is the device that the bundle is for.
        real_images: the models were fed images that they were made for, and not made-up ones; a measurement that says what it was
            fed is believed.
        host: the board that measured, where that was not this machine.
        notes: what the reader should know of the measuring: that the machine was not quiet, and why.
        noise: of measurements whose machine was not quiet: the sha256 of the model, and why.
    """
    found = candidates(measurements, known)
    timed = [_timed(measured, name) for measured, name in zip(measurements, _names(measurements, known), strict=True)]
    names, samples = [one.name for one in timed], [one.measured.latencies_ns for one in timed]
    int8 = _int8(known)
    fed = "real images: those that lie in the bundle" if real_images else "made up by the shape that the model declares"
    return render(
        "bench.html",
        what=what,
        short=short_names([what])[0],
        host=host,
        known=known,
        kind="bundle" if isinstance(known, Manifest) else "checkpoint" if isinstance(known, Checkpoint) else "foreign",
        verdict=judge(known, measurements, on_target=on_target, noise=noise) if isinstance(known, Manifest) else None,
        candidates=found,
        pareto=bench_plots.pareto(found),
        timed=timed,
        earlier=list(zip(timed, earlier, strict=bool(earlier))),
        differs=sorted({text for one in earlier for text in one.differs}),
        distribution=bench_plots.distribution(names, samples),
        order=bench_plots.in_order(names, samples),
        shown=bench_plots.MOST_LINES,
        notes=notes,
        int8=int8,
        sensitivity=bench_plots.sensitivity(int8.mixed) if int8 and int8.mixed else None,
        environments=_environments(timed),
        fed=sorted({one.measured.inputs or fed for one in timed}),
        raw=[one.also for one in timed],
    )


def _int8(known: Manifest | Checkpoint | None) -> Artifact | None:
    models = known.models if isinstance(known, Manifest) else ()
    return next((model.artifact for model in models if model.artifact.precision == "int8"), None)


def _timed(measured: Measurement, name: str) -> Timed:
    also = measured.model_dump(mode="json")
    tables = {
        "stages": extras.stages(name, also.get("stages")),
        "layers": extras.layers(name, also.get("layers")),
        "placement": extras.placement(name, also.get("placement")),
        "watch": extras.facts(name, also.get("watch")),
    }
    return Timed(name, measured, also, tables)


def _names(measurements: Sequence[Measurement], known: Manifest | Checkpoint | None) -> list[str]:
    """Short, and different: the precision of a bundle's model, else the file's name; batch and threads where they differ."""
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
    """Each machine and state once, named for what was measured there; the load is the first one's."""
    found: dict[str, list[Timed]] = {}
    for one in timed:
        key = one.measured.environment.model_copy(update={"load_1min": None}).model_dump_json(exclude={"board"})
        found.setdefault(key, []).append(one)
    tables = [
        extras.facts(f"Measured here: {', '.join(one.name for one in group)}", group[0].also["environment"]) for group in found.values()
    ]
    return [table for table in tables if table]

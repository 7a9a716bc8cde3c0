"""``tlx export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlexport.cli import options
from tlexport.cli.output import milliseconds, percent, print_json, print_table, progress
from tlexport.units import format_bytes

if TYPE_CHECKING:
    from tlexport.api.export import Exported
    from tlexport.bundle import Model
    from tlexport.plan import Step


@click.command(
    epilog=options.examples(
        "tlx export --target jetson",
        "tlx export tlx-demo/checkpoint --target cpu-x86 --max-size 4MB --max-latency 10ms --max-drop 1.0",
    )
)
@click.argument("checkpoint", required=False, type=click.Path(path_type=Path))
@click.option(
    "-t",
    "--target",
    required=True,
    metavar="PROFILE",
    help="A name from `tlx profiles`, NAME:MODE for a power mode, a .toml file, or jetson.",
)
@click.option(
    "--precision", type=click.Choice(["auto", "fp32", "fp16", "int8"]), default="auto", show_default=True, help="auto: try all, choose one."
)
@click.option("--max-size", type=options.size, help="Largest model file, such as 2MB (1 MB = 10^6 bytes); default: the profile's.")
@click.option(
    "--max-latency",
    type=options.duration,
    help="Largest latency, such as 10ms: p95 if measured, else the estimate; default: the profile's.",
)
@click.option("--max-memory", type=options.size, help="Most memory, such as 100MB: measured, else estimated; default: the profile's.")
@click.option("--max-drop", type=options.Number(0, 100), help="Points of top-1 that the chosen model may lose; default 1.0.")
@click.option("--data", type=click.Path(path_type=Path), help="Where the checkpoint's images lie now, if they were moved.")
@click.option("--dry-run", is_flag=True, help="Print the plan with its reasons; do nothing.")
@options.threads
@options.out
@options.as_json
@options.verbosity
def command(
    checkpoint: Path | None,
    target: str,
    precision: Any,
    max_size: int | None,
    max_latency: float | None,
    max_memory: int | None,
    max_drop: float | None,
    data: Path | None,
    dry_run: bool,
    threads: int | None,
    out: Path | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Convert CHECKPOINT (default: runs/latest) for a target, quantize, check, and write a bundle.

    Latency and memory are measured, with one thread unless --threads says otherwise, where the target is this machine; elsewhere they
    are estimated, if there is something to estimate by. What was done is said. For a Jetson the bundle holds ONNX files and the command
    that builds the engine there.
    """
    from tlexport.target import resolve

    reporter = progress(verbose, quiet)
    found = resolve(target)
    if found.note:
        reporter.note(found.note)
    from tlexport.api.expected import plan
    from tlexport.api.export import export
    from tlexport.api.subject import latest_checkpoint
    from tlexport.plan import Wishes

    wishes = Wishes(precision, max_size, max_latency, max_drop, threads or 1, max_memory)
    if dry_run:
        _show_plan(plan(found, wishes), as_json)
        return
    source = checkpoint or latest_checkpoint()
    path = out or Path("build") / f"{source.resolve().name}-{found.profile.target.replace(':', '-')}"
    exported = export(source, found, wishes, path, data_root=data, progress=reporter)
    if as_json:
        print_json(exported.to_json())
    else:
        _show_models(exported)
        if exported.manifest.model().build:
            click.echo(f"no engine was built: copy the bundle to the {found.profile.title} and run there: sh build_engine.sh", err=True)
        click.echo(str(path))


def _show_models(exported: Exported) -> None:
    """The table of candidates: size, accuracy, drop, latency and where it comes from; and each verdict."""
    models = exported.manifest.models
    rows = []
    for m in models:
        latency = "-"
        if m.latency:
            latency = f"p50 {milliseconds(m.latency.p50)}, p95 {milliseconds(m.latency.p95)}"
        elif m.estimate:
            latency = f"about {m.estimate.latency.replace(' ms', '')}"
        name = ("* " if m.chosen else "  ") + m.artifact.precision
        rows.append((name, format_bytes(m.artifact.size_bytes), percent(m.top1), f"{m.drop_points:.2f}", latency))
    print_table("", ("model", "size", "top-1", "drop, points", "latency, ms"), rows)
    for m in models:
        click.echo(f"{m.artifact.precision}: {'chosen, ' if m.chosen else ''}{m.reason}")
    for text in filter(None, map(_calibration, models)):
        click.echo(text)
    origins = [_origin(m) for m in models]
    for origin in dict.fromkeys(origins):
        of = ", ".join(m.artifact.precision for m, its in zip(models, origins, strict=True) if its == origin)
        click.echo(f"latency of {of}: {origin}")


def _calibration(model: Model) -> str:
    """How the ranges of a model were chosen; nothing where there was no choice."""
    calibration = model.artifact.calibration
    if calibration is None or not calibration.tried:
        return ""
    by, precision = calibration.method, model.artifact.precision
    others = ", ".join(f"{tried.method} {percent(tried.top1)}" for tried in calibration.tried)
    text = f"{precision}: ranges by {by} on {calibration.images} training images, the best on others of them: {others}"
    if mixed := model.artifact.mixed:
        text += f"\n{precision}: {len(mixed.kept)} of {len(mixed.ranking)} blocks stay in float: {percent(mixed.top1)} there"
    return text


def _origin(model: Model) -> str:
    """Where a model's latency comes from."""
    if model.latency:
        return f"measured on this machine, {model.latency.provider}, {model.latency.threads} CPU thread(s)"
    if model.estimate:
        return f"estimated for {model.estimate.target}, not measured: {model.estimate.basis}"
    return "not known; this machine is not the target, and there is nothing to estimate by"


def _show_plan(steps: tuple[Step, ...], as_json: bool) -> None:
    if as_json:
        print_json([{"action": step.action, "precision": step.precision, "reason": step.reason} for step in steps])
        return
    for number, step in enumerate(steps, 1):
        click.echo(f"{number:2}. {step.action} {step.precision or ''}: {step.reason}".replace(" :", ":"))

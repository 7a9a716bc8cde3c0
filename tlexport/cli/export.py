"""``tlx export``."""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlexport.cli import options
from tlexport.cli.output import echo, echo_path, print_json, print_table, progress
from tlexport.units import format_bytes, format_ms, format_percent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tlexport.api.export import Exported
    from tlexport.bundle.manifest import Model, Rejected
    from tlexport.hardware.target import Target
    from tlexport.optimize.job import Training
    from tlexport.optimize.steps import Step
    from tlexport.plan import Constraints


@dataclass(frozen=True)
class ExportOptions:
    """The options of ``tlx export``."""

    checkpoint: Path | None
    target: str
    precision: Any
    max_size: int | None
    max_latency: float | None
    max_memory: int | None
    max_drop: float | None
    shrink: bool
    no_train: bool
    yes: bool
    data: Path | None
    sign: Path | None
    engine: bool
    with_c: bool
    dry_run: bool
    threads: int | None
    out: Path | None
    as_json: bool
    verbose: bool
    quiet: bool

    def constraints(self) -> Constraints:
        """The precision and the limits that the user asked for."""
        from tlexport.plan import Constraints

        limits = self.max_size, self.max_latency, self.max_drop
        return Constraints(self.precision, *limits, self.threads or 1, self.max_memory, self.shrink)


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
    "--precision",
    type=click.Choice(["auto", "fp32", "fp16", "int8"]),
    default="auto",
    show_default=True,
    help="auto: export all precisions of the profile and choose one.",
)
@click.option("--max-size", type=options.size, help="Largest model file, such as 2MB (1 MB = 10^6 bytes). Binding.")
@click.option("--max-latency", type=options.duration, help="Largest latency, such as 10ms: p95 if measured, else the estimate. Binding.")
@click.option("--max-memory", type=options.size, help="Largest memory, such as 100MB: measured, else estimated. Binding.")
@click.option(
    "--max-drop",
    type=options.Number(0, 100),
    help="Largest loss of top-1 accuracy, percentage points. Binding, and allows training for INT8. Default: 1.0, advisory.",
)
@click.option("--shrink", is_flag=True, help="Also prune, train or reduce the image size to meet the profile's own budget.")
@click.option("--no-train", is_flag=True, help="Decline any training.")
@click.option("-y", "--yes", is_flag=True, help="Start training without a prompt. There is no prompt without a terminal.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of the checkpoint's images, if they were moved.")
@click.option("--sign", type=click.Path(path_type=Path), metavar="KEY", help="Sign the bundle with this private key (PEM, Ed25519).")
@click.option("--build-engine", "engine", is_flag=True, help="Also build the TensorRT engine, if this machine is the target.")
@click.option("--with-c", is_flag=True, help="Add a C++17 example (image contract, ONNX Runtime, TensorRT) to the bundle as cpp/.")
@click.option("--dry-run", is_flag=True, help="Print the planned steps with their reasons, and stop.")
@options.threads
@options.out
@options.as_json
@options.verbosity
@options.collected(ExportOptions)
def command(given: ExportOptions) -> None:
    """Convert CHECKPOINT (default: runs/latest) for a target: quantize and check it, and write a bundle.

    If this machine is the target, latency and memory are measured, with one thread unless --threads is given. Otherwise they are
    estimated where data for the target exists. The output states which.

    Limits given as options are binding: the network may be pruned, trained or given smaller images to meet them, and the exit code is 6
    if no model does. The profile's own budget is advisory: the bundle is written with a verdict. Before a training starts, its expected
    time is printed, and on a terminal it must be confirmed.

    For a Jetson, the bundle holds ONNX files; the engine is built on the device, from the bundle or with --build-engine. If --out ends
    in .zip or .tar.gz, the bundle is that one file. All commands accept it.
    """
    from tlexport.bundle.signature import read_private_key
    from tlexport.checkpoint import expect_checkpoint
    from tlexport.hardware.target import resolve
    from tlexport.loading.model import latest_checkpoint

    if given.yes and given.no_train:
        raise click.UsageError("--yes and --no-train exclude each other")
    reporter = progress(given.verbose, given.quiet)
    target = resolve(given.target)
    if target.note:
        reporter.note(target.note)
    if given.dry_run:
        return _show_plan(given, target)
    from tlexport.export.build_engine import build_engine, expect_buildable

    if given.engine:
        expect_buildable(target, given.out)
    source = given.checkpoint or latest_checkpoint()
    expect_checkpoint(source)
    if given.sign is not None:
        read_private_key(given.sign)
    from tlexport.api.export import (  # after all checks that need no torch, which takes seconds to import
        ExportSettings,
        default_place,
        export,
    )

    path = given.out or default_place(source, target)
    exported = export(
        source,
        target,
        given.constraints(),
        path,
        settings=ExportSettings(
            given.data, given.sign, given.with_c, functools.partial(_consent, declined=given.no_train, given=given.yes)
        ),
        progress=reporter,
    )
    if given.engine:
        exported = replace(exported, engine=build_engine(path, reporter))
    for hint in () if given.quiet else exported.hints():
        echo(f"hint: {hint}", err=True)
    if given.as_json:
        print_json(exported.to_json())
    else:
        _show(exported, target)


def _consent(training: Training, *, declined: bool, given: bool) -> bool:
    """Whether to start an announced training. Prompts only if stdin and stderr are terminals."""
    if declined or given or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return not declined
    return click.confirm(f"{training.in_words()}. Begin?", default=True, err=True)


def _show(exported: Exported, target: Target) -> None:
    """Print the models, how to get the engine if one is needed, and the path of the bundle."""
    _show_models(exported)
    if exported.engine:
        echo(f"engine: {exported.engine}")
    elif exported.manifest.model().engine:
        echo(f"no engine was built: copy the bundle to the {target.profile.title} and run there: python3 run.py setup", err=True)
    echo_path(exported.path)


def _show_models(exported: Exported) -> None:
    """Print the table of models (size, accuracy, drop, latency), the reason for each choice, and the source of each latency."""
    models, rejected = exported.manifest.models, exported.manifest.rejected
    rows = []
    shown: tuple[Model | Rejected, ...] = (*models, *rejected)
    for m in shown:
        latency = "-"
        if m.latency:
            latency = f"p50 {format_ms(m.latency.p50)}, p95 {format_ms(m.latency.p95)}"
        elif m.estimate:
            latency = f"about {m.estimate.latency.replace(' ms', '')}"
        size = "-" if m.size_bytes is None else format_bytes(m.size_bytes)
        accuracy = ("-", "-") if m.top1 is None or m.drop_points is None else (format_percent(m.top1), f"{m.drop_points:.2f}")
        rows.append((_name(m), size, *accuracy, latency))
    print_table("", ("model", "size", "top-1", "drop, points", "latency, ms"), rows)
    for model in models:
        echo(f"{model.artifact.precision}: {'chosen, ' if model.chosen else ''}{model.reason}")
        for text in (*_quantization(model), *_noise(model)):
            echo(f"{model.artifact.precision}: {text}")
    for r in rejected:
        echo(f"{r.precision} {r.what}: rejected, {r.reason}")
    sources = [_latency_source(m) for m in models]
    for source in dict.fromkeys(sources):
        of = ", ".join(m.artifact.precision for m, its in zip(models, sources, strict=True) if its == source)
        echo(f"latency of {of}: {source}")


def _name(model: Model | Rejected) -> str:
    """First cell of a row: a star marks the chosen model, a minus one that is not in the bundle."""
    from tlexport.bundle.manifest import Rejected

    if isinstance(model, Rejected):
        return f"- {model.precision} {model.what}"
    return f"{'*' if model.chosen else ' '} {model.artifact.precision}{' smaller' if model.artifact.shrunk else ''}"


def _quantization(model: Model) -> Iterator[str]:
    """How a model was made smaller, and what each step of the accuracy recovery achieved."""
    artifact = model.artifact
    if shrunk := artifact.shrunk:
        yield f"{shrunk.parameters:,} of {shrunk.parameters_before:,} parameters, trained {shrunk.epochs} epochs on {shrunk.images} images"
    if artifact.calibration and artifact.calibration.tried:
        others = ", ".join(f"{tried.method} {format_percent(tried.top1)}" for tried in artifact.calibration.tried)
        yield f"ranges by {artifact.calibration.method} on {artifact.calibration.images} training images, by top-1 on others: {others}"
    if len(artifact.ladder) > 1:  # calibration alone is printed above
        for step in artifact.ladder:
            latency = "" if step.latency_ms is None else f", {format_ms(step.latency_ms)} ms"
            used = " (used)" if step.kept else ""
            yield f"{step.rung}: top-1 {format_percent(step.top1)} on those images, {format_bytes(step.size_bytes)}{latency}{used}"
    if mixed := artifact.mixed:
        yield f"{len(mixed.kept)} of {len(mixed.ranking)} blocks in float; see sensitivity.md in the bundle"


def _noise(model: Model) -> Iterator[str]:
    """A warning if the measurement of a model was noisy."""
    noise = model.latency.noise if model.latency else None
    if noise and noise.verdict == "noisy":
        times = f"{noise.repeats} times" if noise.repeats > 1 else "once"
        yield f"noisy measurement ({times}): {noise.cause}; the shortest run took {format_ms(noise.shortest_ms)} ms"


def _latency_source(model: Model) -> str:
    """Whether a model's latency was measured, and where, or estimated, and from what."""
    if model.latency:
        return f"measured on this machine, {model.latency.provider}, {model.latency.threads} CPU thread(s)"
    if model.estimate:
        return f"estimated for {model.estimate.target}, not measured: {model.estimate.basis}"
    return "unknown; this machine is not the target, and there is no data to estimate from"


def _show_plan(given: ExportOptions, target: Target) -> None:
    """Print the steps that an export would take."""
    from tlexport.optimize.cost_on_target import plan

    steps: tuple[Step, ...] = plan(target, given.constraints())
    if given.as_json:
        print_json([step.to_json() for step in steps])
        return
    for number, step in enumerate(steps, 1):
        echo(f"{number:2}. {step.action} {step.precision or ''}: {step.reason}".replace(" :", ":"))

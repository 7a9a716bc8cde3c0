"""``tlx export``."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlexport.cli import options
from tlexport.cli.output import echo, echo_path, milliseconds, percent, print_json, print_table, progress
from tlexport.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tlexport.api.export import Exported
    from tlexport.bundle.manifest import Model, Rejected
    from tlexport.hardware.target import Target
    from tlexport.optimize.job import Training
    from tlexport.plan import Wishes


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
@click.option("--max-size", type=options.size, help="Largest model file, such as 2MB (1 MB = 10^6 bytes); a limit given here binds.")
@click.option(
    "--max-latency",
    type=options.duration,
    help="Largest latency, such as 10ms: p95 if measured, else the estimate; binds.",
)
@click.option("--max-memory", type=options.size, help="Most memory, such as 100MB: measured, else estimated; binds.")
@click.option(
    "--max-drop",
    type=options.Number(0, 100),
    help="Points of top-1 that the chosen model may lose; binds, and allows training for INT8. A yardstick of 1.0 if left out.",
)
@click.option("--shrink", is_flag=True, help="Change the network for the profile's own budget too: prune, train, smaller images.")
@click.option("--no-train", is_flag=True, help="Decline whatever would be trained.")
@click.option("-y", "--yes", is_flag=True, help="Begin a training without asking; without a terminal nothing is asked.")
@click.option("--data", type=click.Path(path_type=Path), help="Where the checkpoint's images lie now, if they were moved.")
@click.option("--sign", type=click.Path(path_type=Path), metavar="KEY", help="Private key (PEM, Ed25519) to sign the bundle with.")
@click.option("--build-engine", "engine", is_flag=True, help="Build the TensorRT engine too, where this machine is the target.")
@click.option("--with-c", is_flag=True, help="Add an example in C++17: the image contract, ONNX Runtime, TensorRT; see cpp/ in the bundle.")
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
    shrink: bool,
    no_train: bool,
    yes: bool,
    data: Path | None,
    sign: Path | None,
    engine: bool,
    with_c: bool,
    dry_run: bool,
    threads: int | None,
    out: Path | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Convert CHECKPOINT (default: runs/latest) for a target, quantize, check, and write a bundle.

    Latency and memory are measured, with one thread unless --threads says otherwise, where the target is this machine; elsewhere they
    are estimated, if there is something to estimate by. The output states which.

    A limit that is given here binds: the network may be pruned, trained or given smaller images for it, and the exit code is 6 if no
    model keeps it. The profile's own budget is a yardstick: the bundle is written, with a verdict. A training is announced with its
    expected time, and confirmed on a terminal.

    For a Jetson the bundle holds ONNX files, and the engine is built there, from the bundle or with --build-engine. If --out ends in .zip
    or .tar.gz the bundle is that one file, which every command takes as it is.
    """
    from tlexport.bundle.signature import read_private_key
    from tlexport.checkpoint import expect_checkpoint
    from tlexport.hardware.target import resolve
    from tlexport.loading.model import latest_checkpoint
    from tlexport.plan import Wishes

    if yes and no_train:
        raise click.UsageError("--yes and --no-train exclude each other")
    reporter = progress(verbose, quiet)
    found = resolve(target)
    if found.note:
        reporter.note(found.note)
    wishes = Wishes(precision, max_size, max_latency, max_drop, threads or 1, max_memory, shrink)
    if dry_run:
        return _show_plan(found, wishes, as_json)
    from tlexport.api.build_engine import build_engine, expect_buildable

    if engine:
        expect_buildable(found, out)
    source = checkpoint or latest_checkpoint()
    expect_checkpoint(source)
    if sign is not None:
        read_private_key(sign)
    from tlexport.api.export import export  # imports torch, which takes seconds, so that it comes after the checks that need none

    path = out or Path("build") / f"{source.resolve().name}-{found.profile.target.replace(':', '-')}"
    ask = functools.partial(_consent, declined=no_train, given=yes)
    exported = export(source, found, wishes, path, data_root=data, sign=sign, with_c=with_c, progress=reporter, consent=ask)
    built = build_engine(path, reporter) if engine else None
    if not quiet:
        _hint(exported)
    if as_json:
        print_json(exported.to_json() | ({"engine": str(built)} if built else {}))
    else:
        _show_models(exported)
        if built:
            echo(f"engine: {built}")
        elif exported.manifest.model().engine:
            echo(f"no engine was built: copy the bundle to the {found.profile.title} and run there: python3 run.py setup", err=True)
        echo_path(path)


def _consent(training: Training, *, declined: bool, given: bool) -> bool:
    """Whether an announced training is begun: asked where somebody can answer."""
    if declined or given or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return not declined
    return click.confirm(f"{training.in_words()}. Begin?", default=True, err=True)


def _hint(exported: Exported) -> None:
    """What to type where the chosen model does not keep the profile's budget for certain."""
    chosen, target = exported.manifest.model(), exported.manifest.target
    if chosen.over:
        echo(f"hint: over the budget of {target}, which is a yardstick: {'; '.join(chosen.over)}", err=True)
        echo(
            "  to change the network for it: --shrink; to have a limit bind: --max-size, --max-latency, --max-memory, --max-drop", err=True
        )
    for doubt in chosen.doubts:
        echo(f"hint: {doubt}; measure again on a quiet machine: tlx bench {exported.path} --check", err=True)


def _show_models(exported: Exported) -> None:
    """The table of candidates: size, accuracy, drop, latency and where it comes from; and each verdict."""
    models, rejected = exported.manifest.models, exported.manifest.rejected
    rows = []
    shown: tuple[Model | Rejected, ...] = (*models, *rejected)
    for m in shown:
        latency = "-"
        if m.latency:
            latency = f"p50 {milliseconds(m.latency.p50)}, p95 {milliseconds(m.latency.p95)}"
        elif m.estimate:
            latency = f"about {m.estimate.latency.replace(' ms', '')}"
        size = "-" if m.size_bytes is None else format_bytes(m.size_bytes)
        accuracy = ("-", "-") if m.top1 is None or m.drop_points is None else (percent(m.top1), f"{m.drop_points:.2f}")
        rows.append((_name(m), size, *accuracy, latency))
    print_table("", ("model", "size", "top-1", "drop, points", "latency, ms"), rows)
    for model in models:
        echo(f"{model.artifact.precision}: {'chosen, ' if model.chosen else ''}{model.reason}")
        for text in (*_quantization(model), *_noise(model)):
            echo(f"{model.artifact.precision}: {text}")
    for r in rejected:
        echo(f"{r.precision} {r.what}: rejected, {r.reason}")
    origins = [_origin(m) for m in models]
    for origin in dict.fromkeys(origins):
        of = ", ".join(m.artifact.precision for m, its in zip(models, origins, strict=True) if its == origin)
        echo(f"latency of {of}: {origin}")


def _name(model: Model | Rejected) -> str:
    """Of a row of the table: chosen ones have a star, those that are not in the bundle a minus."""
    from tlexport.bundle.manifest import Rejected

    if isinstance(model, Rejected):
        return f"- {model.precision} {model.what}"
    return f"{'*' if model.chosen else ' '} {model.artifact.precision}{' smaller' if model.artifact.shrunk else ''}"


def _quantization(model: Model) -> Iterator[str]:
    """How a model became smaller, and what each rung of the ladder for its accuracy did."""
    artifact = model.artifact
    if shrunk := artifact.shrunk:
        yield f"{shrunk.parameters:,} of {shrunk.parameters_before:,} parameters, {shrunk.epochs} epochs on {shrunk.images} images after it"
    if artifact.calibration and artifact.calibration.tried:
        others = ", ".join(f"{tried.method} {percent(tried.top1)}" for tried in artifact.calibration.tried)
        yield f"ranges by {artifact.calibration.method} on {artifact.calibration.images} training images, chosen by others: {others}"
    if len(artifact.ladder) > 1:  # calibration alone is told above
        for rung in artifact.ladder:
            latency = "" if rung.latency_ms is None else f", {milliseconds(rung.latency_ms)} ms"
            kept = " (kept)" if rung.kept else ""
            yield f"{rung.rung}: {percent(rung.top1)} there, {format_bytes(rung.size_bytes)}{latency}{kept}"
    if mixed := artifact.mixed:
        yield f"{len(mixed.kept)} of {len(mixed.ranking)} blocks back in float; see sensitivity.md in the bundle"


def _noise(model: Model) -> Iterator[str]:
    """That the machine was not quiet while a model was measured."""
    noise = model.latency.noise if model.latency else None
    if noise and noise.verdict == "noisy":
        times = f"{noise.repeats} times" if noise.repeats > 1 else "once"
        yield f"noisy measurement ({times}): {noise.cause}; the shortest run took {milliseconds(noise.shortest_ms)} ms"


def _origin(model: Model) -> str:
    """Where a model's latency comes from."""
    if model.latency:
        return f"measured on this machine, {model.latency.provider}, {model.latency.threads} CPU thread(s)"
    if model.estimate:
        return f"estimated for {model.estimate.target}, not measured: {model.estimate.basis}"
    return "not known; this machine is not the target, and there is nothing to estimate by"


def _show_plan(target: Target, wishes: Wishes, as_json: bool) -> None:
    from tlexport.optimize.cost_on_target import plan

    steps = plan(target, wishes)
    if as_json:
        print_json([{"action": step.action, "precision": step.precision, "reason": step.reason} for step in steps])
        return
    for number, step in enumerate(steps, 1):
        echo(f"{number:2}. {step.action} {step.precision or ''}: {step.reason}".replace(" :", ":"))

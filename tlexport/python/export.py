"""``tlexport.export``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from tlexport import arguments
from tlexport.progress import message
from tlexport.python import values
from tlexport.python.result import Result, Results, plain
from tlexport.python.tables import Table, figure, percent
from tlexport.python.values import PathLike
from tlexport.storage.machine_errors import expect_usable, machine_errors
from tlexport.units import format_bytes

if TYPE_CHECKING:
    from tlexport.api.export import Exported
    from tlexport.plan import Constraints
    from tlexport.ports import Progress


@dataclass(frozen=True)
class ExportedModel:
    """One model of a bundle, or a precision that was rejected; None where a figure is not known."""

    precision: str
    path: Path | None
    size_bytes: int | None
    top1: float | None  # 0..1, on the validation images
    drop_points: float | None  # points of top-1 below the checkpoint
    latency_ms: dict[str, Any] | None  # "kind" is "measured" or "estimated"; the keys are those of --json
    peak_memory_bytes: int | None
    chosen: bool
    rejected: bool
    reason: str

    def _row(self) -> tuple[str, ...]:
        name = f"{'-' if self.rejected else '*' if self.chosen else ' '} {self.precision}"
        size = "-" if self.size_bytes is None else format_bytes(self.size_bytes)
        latency = self.latency_ms or {}
        kind = str(latency.get("kind", "-"))
        times = (figure(latency.get("p50")), figure(latency.get("p95")))
        return (name, size, percent(self.top1), figure(self.drop_points, 2), *times, kind)


@dataclass(frozen=True, repr=False)
class ExportResult(Result):
    """A bundle and its models."""

    path: Path  # the bundle: a directory or one file
    target: str
    chosen: str  # the precision of the chosen model
    models: tuple[ExportedModel, ...]
    over: tuple[str, ...]  # limits of the profile's budget that the chosen model breaks
    doubts: tuple[str, ...]  # limits that it breaks by a noisy measurement
    engine: Path | None  # of TensorRT, where one was built

    def _shown(self) -> Sequence[Table | str]:
        columns = ("model", "size", "top-1", "drop, points", "p50, ms", "p95, ms", "latency")
        reasons = [f"{m.precision}: {'rejected, ' if m.rejected else 'chosen, ' if m.chosen else ''}{m.reason}" for m in self.models]
        where = [f"bundle for {self.target}: {self.path}", *([f"engine: {self.engine}"] if self.engine else [])]
        return [Table(columns, [model._row() for model in self.models], (0, 6)), *reasons, *where]


@dataclass(frozen=True)
class ExportStep:
    """One step of an export."""

    action: str
    precision: str | None
    reason: str


@dataclass(frozen=True, repr=False)
class ExportPlan(Results[ExportStep]):
    """The steps of an export, in order."""

    def _shown(self) -> Sequence[Table | str]:
        rows = [(f"{number}. {step.action}", step.precision or "", step.reason) for number, step in enumerate(self.items, 1)]
        return [Table(("step", "precision", "reason"), rows, (0, 1, 2))]


@dataclass(frozen=True)
class _Request:
    """How to carry out the export, and the steps besides it."""

    data_root: Path | None
    sign: Path | None
    with_c: bool
    train: bool  # whether a step may train
    dry_run: bool
    build_engine: bool
    quiet: bool


@overload
def export(
    checkpoint: PathLike | None = ...,
    *,
    target: PathLike,
    precision: Literal["auto", "fp32", "fp16", "int8"] = ...,
    max_size: str | int | None = ...,
    max_latency: str | float | None = ...,
    max_memory: str | int | None = ...,
    max_drop: float | None = ...,
    shrink: bool = ...,
    no_train: bool = ...,
    data: PathLike | None = ...,
    sign: PathLike | None = ...,
    build_engine: bool = ...,
    with_c: bool = ...,
    dry_run: Literal[False] = ...,
    threads: int | None = ...,
    out: PathLike | None = ...,
    verbose: bool = ...,
    quiet: bool = ...,
) -> ExportResult: ...


@overload
def export(
    checkpoint: PathLike | None = ...,
    *,
    target: PathLike,
    precision: Literal["auto", "fp32", "fp16", "int8"] = ...,
    max_size: str | int | None = ...,
    max_latency: str | float | None = ...,
    max_memory: str | int | None = ...,
    max_drop: float | None = ...,
    shrink: bool = ...,
    dry_run: Literal[True],
    threads: int | None = ...,
    verbose: bool = ...,
    quiet: bool = ...,
) -> ExportPlan: ...


def export(
    checkpoint: PathLike | None = None,
    *,
    target: PathLike,
    precision: Literal["auto", "fp32", "fp16", "int8"] = "auto",
    max_size: str | int | None = None,
    max_latency: str | float | None = None,
    max_memory: str | int | None = None,
    max_drop: float | None = None,
    shrink: bool = False,
    no_train: bool = False,
    data: PathLike | None = None,
    sign: PathLike | None = None,
    build_engine: bool = False,
    with_c: bool = False,
    dry_run: bool = False,
    threads: int | None = None,
    out: PathLike | None = None,
    verbose: bool = False,
    quiet: bool = False,
) -> ExportResult | ExportPlan:
    """Convert a checkpoint for a target, quantize it, check it and write a bundle, as ``tlx export`` does.

    A limit that is given here binds: the network may be pruned, trained or given smaller images for it. A training is announced with
    its expected time and then begins; ``no_train=True`` declines it.

    Args:
        checkpoint: a checkpoint directory; None: runs/latest.
        target: a name from ``tlx profiles``, NAME:MODE for a power mode, a .toml file, or ``"jetson"``.
        precision: ``"auto"``: try all, choose one.
        max_size: largest model file, ``"2MB"`` or a number of bytes.
        max_latency: largest latency, ``"10ms"`` or a number of seconds: p95 if measured, else the estimate.
        max_memory: most memory, ``"100MB"`` or a number of bytes.
        max_drop: points of top-1 that the chosen model may lose; allows training for INT8. None: a yardstick of 1.0.
        shrink: change the network for the profile's own budget too.
        no_train: decline every training.
        data: where the checkpoint's images are now, if they were moved.
        sign: private key (PEM, Ed25519) to sign the bundle with.
        build_engine: build the TensorRT engine too, where this machine is the target.
        with_c: add an example in C++17.
        dry_run: return the plan with its reasons, and write nothing.
        threads: CPU threads for the latency; None: one.
        out: the bundle, a directory or a .zip or .tar.gz file; None: build/NAME-PROFILE.
        verbose: report the time of each step.
        quiet: no progress and no notes.

    Returns:
        An :class:`ExportPlan` with ``dry_run=True``, else an :class:`ExportResult`.

    Raises:
        OverBudget: no model keeps the limits; nothing is written.
        TlxError: see :mod:`tlexport.errors`.
    """
    values.flags(shrink=shrink, no_train=no_train, build_engine=build_engine, with_c=with_c, dry_run=dry_run)
    with machine_errors():
        from tlexport.plan import Constraints
        from tlexport.python.notebook import reporter

        constraints = Constraints(
            values.choice("precision", precision, "auto", "fp32", "fp16", "int8"),
            values.parsed_or_none("max_size", max_size, arguments.size),
            values.parsed_or_none("max_latency", max_latency, arguments.duration),
            None if max_drop is None else values.real("max_drop", max_drop, 0, 100),
            values.threads(threads) or 1,
            values.parsed_or_none("max_memory", max_memory, arguments.size),
            shrink,
        )
        name, source, place = values.text("target", target), values.path_or_none("checkpoint", checkpoint), values.place("out", out)
        expect_usable([str(word) for word in (name, source, place) if word is not None])
        root, key = values.path_or_none("data", data), values.path_or_none("sign", sign)
        request = _Request(root, key, with_c, not no_train, dry_run, build_engine, quiet)
        return _run(name, source, place, constraints, request, reporter(verbose, quiet))


def _run(
    name: str, source: Path | None, place: Path | None, constraints: Constraints, request: _Request, progress: Progress
) -> ExportResult | ExportPlan:
    """Resolve the target and the paths, then plan or export."""
    from tlexport.bundle.signature import read_private_key
    from tlexport.checkpoint import expect_checkpoint
    from tlexport.hardware.target import resolve
    from tlexport.loading.model import latest_checkpoint

    target = resolve(name)
    if target.note:
        progress.note(target.note)
    if request.dry_run:
        from tlexport.optimize.cost_on_target import plan

        planned = plan(target, constraints)
        items = tuple(ExportStep(step.action, step.precision, step.reason) for step in planned)
        return ExportPlan(plain([step.to_json() for step in planned]), items=items)
    from tlexport.export.build_engine import build_engine, expect_buildable

    if request.build_engine:
        expect_buildable(target, place)
    checkpoint = source or latest_checkpoint()
    expect_checkpoint(checkpoint)
    if request.sign is not None:
        read_private_key(request.sign)
    # imports torch, which takes seconds: after the checks that need none
    from tlexport.api.export import ExportSettings, default_place
    from tlexport.api.export import export as convert

    path = place or default_place(checkpoint, target)
    settings = ExportSettings(request.data_root, request.sign, request.with_c, consent=lambda training: request.train)
    exported = convert(checkpoint, target, constraints, path, settings=settings, progress=progress)
    if request.build_engine:
        exported = replace(exported, engine=build_engine(path, progress))
    for hint in () if request.quiet else exported.hints():
        message(f"hint: {hint}")
    return _result(exported)


def _result(exported: Exported) -> ExportResult:
    found = plain(exported.to_json())
    fields = [name for name in ExportedModel.__dataclass_fields__ if name != "path"]
    models = tuple(
        ExportedModel(path=Path(row["path"]) if row["path"] else None, **{name: row[name] for name in fields}) for row in found["models"]
    )
    chosen = exported.manifest.model()
    return ExportResult(
        found,
        path=exported.path,
        target=exported.manifest.target,
        chosen=chosen.artifact.precision,
        models=models,
        over=tuple(chosen.over),
        doubts=tuple(chosen.doubts),
        engine=exported.engine,
    )

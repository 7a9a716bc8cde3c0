"""``bench``, ``verify`` and ``predict`` on a board elsewhere, by the bundle's own runner; without a board, here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tlexport.api.predict import Predicted, Prediction, image_paths, predict
from tlexport.api.verify import Verified, check_key, verify
from tlexport.artifact import Precision
from tlexport.bundle.manifest import Manifest
from tlexport.device.golden import Check
from tlexport.errors import InvalidFile, Unsupported, VerificationFailed
from tlexport.loading.bench_request import BenchSettings
from tlexport.loading.model import DEFAULT_EXECUTION, Execution, LoadedModel, load
from tlexport.measurement import Measurement
from tlexport.ports import Progress, Silent
from tlexport.remote.board_run import IMAGES, Board, bundle_files, connected
from tlexport.remote.host import Host


@dataclass(frozen=True)
class BoardMeasurement:
    """A measurement on a board, and what else its runner reported: the state of the board, its power, ..."""

    measurement: Measurement
    also: dict[str, Any]


def bench_there(
    bundle: Path | LoadedModel,
    host: Host,
    settings: BenchSettings,
    *,
    precision: Precision | None = None,
    for_target: bool = False,
    progress: Progress | None = None,
) -> list[BoardMeasurement]:
    """Measure a bundle on a board. If its target needs an engine, the board builds it first.

    Args:
        bundle: the bundle.
        host: the board.
        settings: as for :func:`tlexport.api.bench.bench`; ``auto`` leaves the choice to the runner.
        precision: which of its models; None: all, or only the chosen one if an engine must be built.
        for_target: refuse a board that does not identify itself as the target, before anything is copied.
        progress: receives progress and notes.

    Raises:
        Unsupported: the board is not the target, and ``for_target`` is set.
        StepFailed: the connection failed or was lost.
        TlxError: an error of the runner, with its exit code.
    """
    options = _options(settings.runtime, settings.device, settings.threads)
    options += ["--batch", str(settings.batch), "--runs", str(settings.min_runs), "--seconds", str(settings.min_seconds)]
    model = load(bundle)
    with _on_board(model, host, progress or Silent(), for_target) as (board, manifest):
        engine = _build(board, manifest, settings.runtime, settings.device, precision)
        everything = () if engine else ("--precision", "all")  # engines take minutes to build, so only the chosen model
        answers = board.ask("bench", *options, *(_precision(precision) or everything))
    rows = answers if isinstance(answers, list) else [answers]
    return [_measurement(board, model.what, row) for row in rows]


def verify_there(
    bundle: Path | LoadedModel, host: Host, *, device: str = "auto", threads: int | None = None, progress: Progress | None = None
) -> list[Check]:
    """Check the hashes and golden vectors of a bundle on a board.

    Raises:
        TlxError: as for :func:`bench_there`; failed checks are not errors.
    """
    with _on_board(bundle, host, progress or Silent()) as (board, manifest):
        _build(board, manifest, "auto", device, None)
        answer = board.ask("verify", *_options("auto", device, threads), also=(VerificationFailed.exit_code,))
    try:
        return [Check(str(check["name"]), check["ok"] is True, str(check["detail"])) for check in answer["checks"]]
    except (LookupError, TypeError):
        raise board.odd("verify", answer) from None


def predict_there(
    bundle: Path | LoadedModel,
    images: Sequence[Path],
    host: Host,
    *,
    run: Execution = DEFAULT_EXECUTION,
    progress: Progress | None = None,
) -> list[Prediction]:
    """Classify image files of this machine on a board: one prediction for each, in order.

    Raises:
        InvalidFile: an image is missing, or the board cannot read it (the message names the local file).
        TlxError: as for :func:`bench_there`.
    """
    images = image_paths(images)
    if missing := [image for image in images if not image.is_file()]:
        raise InvalidFile("these images cannot be read:\n" + "\n".join(f"  {image}: no such file" for image in missing))
    digits = len(str(len(images)))
    sent = {
        f"{IMAGES}/{index:0{digits}}": image for index, image in enumerate(images)
    }  # numbered, because file names may hold any character
    with _on_board(bundle, host, progress or Silent(), files=sent) as (board, manifest):
        _build(board, manifest, run.runtime, run.device, run.precision)
        options = [*_options(run.runtime, run.device, run.threads), *_precision(run.precision)]
        answer = board.ask("predict", *(f"../{name}" for name in sent), *options)
    try:
        found = [(str(row["class"]), float(row["probability"]), _probabilities(row["probabilities"])) for row in answer]
        return [Prediction(image, *row) for image, row in zip(images, found, strict=True)]
    except (LookupError, TypeError, ValueError):
        raise board.odd("predict", answer) from None


def verify_on(
    host: Host | None,
    bundle: Path,
    *,
    device: str = "auto",
    threads: int | None = None,
    key: Path | None = None,
    progress: Progress | None = None,
) -> Verified:
    """Verify on a board, or here where there is none: see :func:`verify` and :func:`verify_there`."""
    if host is None:
        return Verified(bundle, tuple(verify(bundle, device=device, threads=threads, key=key, progress=progress)))
    signed = [check_key(bundle, key)] if key else []  # here: the key does not leave this machine
    if signed and not signed[0].ok:
        return Verified(bundle, tuple(signed), host.name)
    there = verify_there(bundle, host, device=device, threads=threads, progress=progress)
    return Verified(bundle, (*signed, *there), host.name)


def predict_on(
    host: Host | None,
    what: Path,
    images: Sequence[Path],
    *,
    run: Execution = DEFAULT_EXECUTION,
    progress: Progress | None = None,
) -> Predicted:
    """Classify on a board, or here where there is none: see :func:`predict` and :func:`predict_there`.

    An image that cannot be read here does not stop the rest; it is in ``unreadable``.
    """
    if host is None:
        bad: list[tuple[str, str]] = []
        found = predict(what, images, run=run, unreadable=bad)
        return Predicted(tuple(found), tuple(bad))
    there = predict_there(what, images, host, run=run, progress=progress)
    return Predicted(tuple(there), host=host.name)


def _probabilities(found: Any) -> dict[str, float]:
    """Probabilities as a board reports them. Raises TypeError or ValueError for anything else."""
    return {str(name): float(value) for name, value in dict(found).items()}


@contextmanager
def _on_board(
    bundle: Path | LoadedModel, host: Host, progress: Progress, for_target: bool = False, files: dict[str, Path] | None = None
) -> Iterator[tuple[Board, Manifest]]:
    """A connected board that holds the bundle and the other files."""
    model = load(bundle)
    manifest = model.bundle()
    sent = bundle_files(model.path, manifest) | (files or {})
    with connected(host, progress) as board:
        if for_target and not (machine := board.machine()).fits(manifest.profile.match):
            says = machine.board or machine.cpu or machine.architecture
            raise Unsupported(
                f"{model.path} is for {manifest.target}, but {host.name} is a {says!r}",
                "bench without --check, or name a board of that kind",
            )
        board.send(sent)
        yield board, manifest


def _build(board: Board, manifest: Manifest, runtime: str, device: str, precision: Precision | None) -> bool:
    """Build the engine if the board runs one. Returns whether it does."""
    engine = manifest.profile.runtime == "tensorrt" and runtime != "onnxruntime"
    if engine:
        board.ask("build", *_options(runtime, device, None), *_precision(precision))
    return engine


def _options(runtime: str, device: str, threads: int | None) -> list[str]:
    """Options for the runner; what the runner chooses itself is left out."""
    given = {"--runtime": runtime, "--device": device, "--threads": "auto" if threads is None else str(threads)}
    return [word for name, value in given.items() if value != "auto" for word in (name, value)]


def _precision(precision: Precision | None) -> list[str]:
    return ["--precision", precision] if precision else []


def _measurement(board: Board, bundle: Path, row: Any) -> BoardMeasurement:
    if not isinstance(row, dict):
        raise board.odd("bench", row)
    checked = Measurement.check({key: value for key, value in row.items() if key in Measurement.model_fields})
    if not isinstance(checked, Measurement):
        raise board.odd("bench", "; ".join(map(str, checked)))
    here = bundle / PurePosixPath(checked.what).name  # the board has its own path
    own = {*Measurement.model_fields, *checked.to_json()}
    return BoardMeasurement(checked.model_copy(update={"what": str(here)}), {key: row[key] for key in row if key not in own})

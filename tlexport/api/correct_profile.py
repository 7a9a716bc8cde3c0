"""The verb of ``tlx profiles calibrate --from``: corrects the estimates for a device with real runs on it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from pydantic import ConfigDict, Field, PositiveInt

from tlexport.artifact import Precision
from tlexport.bundle.manifest import MANIFEST, read_manifest
from tlexport.errors import InvalidFile, TlxError, UsageError
from tlexport.hardware.calibration import Sharpened
from tlexport.hardware.machine import may_be
from tlexport.hardware.profile import Profile
from tlexport.hardware.profile_place import expect_own_name, find_place
from tlexport.hardware.target import Target, resolve
from tlexport.loading.estimable import Estimable, find_graph
from tlexport.loading.estimate_on_target import predict_latency
from tlexport.loading.model import load
from tlexport.measurement import Environment
from tlexport.record import Record
from tlexport.storage.files import sha256_of
from tlexport.storage.untrusted import read_json


class _Median(Record):
    model_config = ConfigDict(extra="ignore")
    p50: float = Field(gt=0)


class _Run(Record):
    """The fields of ``tlx bench --json`` that are used here."""

    model_config = ConfigDict(extra="ignore")
    what: str
    artifact_sha256: str
    precision: Precision
    runtime: str
    provider: str
    threads: PositiveInt
    batch: PositiveInt
    latency_ms: _Median
    environment: Environment


@dataclass(frozen=True)
class _Ratio:
    """The ratio of one run to its estimate."""

    file: Path
    run: _Run
    log: float  # natural logarithm of measured / estimated
    corrects: str


def sharpen_profile(
    name: str | None, files: Sequence[Path], what: Path | None = None, folder: Path | None = None
) -> tuple[Path, tuple[Sharpened, ...]]:
    """Compare runs on a device with their estimates, and write the ratio into its profile.

    Args:
        name: of the profile; a shipped profile is extended by a file of the user. None: the target of the bundle.
        files: output of ``tlx bench --json`` on the device.
        what: a bundle or an .onnx file with the models that ran; None: the path in each run.
        folder: of the profile; None: where it exists, otherwise ./profiles.

    Returns:
        The file of the profile, and its new tables: one for each precision and number of threads.

    Raises:
        UsageError: a run of another board, runtime or processor, of several images at a time, or of a model that is not here.
        InvalidFile: a file is not the output of ``tlx bench --json``.
        Unsupported: there is no estimate to correct.
    """
    runs = [(file, run) for file in files for run in _runs(file)]
    places = {what} if what else {_place(file, run) for file, run in runs}
    name = name or _target(places)
    expect_own_name(name)
    resolve(name)  # refuses a misspelled name, which would otherwise become a new profile
    place = find_place(name, None, folder)
    target = resolve(name if place.base else str(place.path))
    models = {model.sha256: model for path in sorted(places) for model in _models(path)}
    groups: dict[tuple[str, int], list[_Ratio]] = {}
    for file, run in runs:
        _expect_same_board(file, run, target.profile)
        groups.setdefault((run.precision, run.threads), []).append(_ratio(file, run, target, models))
    tables = tuple(_table(target.profile, found) for _, found in sorted(groups.items()))
    place.write(tables, {})
    return place.path, tables


def _runs(file: Path) -> Iterator[_Run]:
    again = "write it on the device: tlx bench WHAT --json > FILE"
    data = read_json(file, again)
    entries = data if isinstance(data, list) else [data]
    if not entries or not all(isinstance(entry, dict) and "artifact_sha256" in entry for entry in entries):
        raise InvalidFile(f"{file} is not the output of tlx bench --json", again)
    for entry in entries:
        run = _Run.check(entry)
        if not isinstance(run, _Run):
            raise InvalidFile(f"{file} is not the output of tlx bench --json:\n" + "\n".join(f"  {mistake}" for mistake in run), again)
        yield run


def _place(file: Path, run: _Run) -> Path:
    """The path of the model in a run, if it exists here."""
    path = Path(run.what)
    if not path.exists():
        raise _refused(file, f"was a run of {run.what}, which is not here", "name the bundle or the .onnx file: --what PATH")
    return path


def _target(places: Collection[Path]) -> str:
    """The target of the bundles of these models."""
    folders = [path if path.is_dir() else path.parent for path in sorted(places)]
    names = {read_manifest(folder).target for folder in folders if (folder / MANIFEST).is_file()}
    if len(names) != 1:
        raise UsageError(f"the models are of {'several boards' if names else 'no bundle'}", "name the profile: tlx profiles calibrate NAME")
    return names.pop()


def _models(what: Path) -> list[Estimable]:
    """The models that may have run."""
    model = load(what)
    return [find_graph(model, precision) for precision in model.precisions or (None,)]


def _expect_same_board(file: Path, run: _Run, profile: Profile) -> None:
    """Raises UsageError for a run of another runtime or processor, or of another board."""
    if run.runtime != profile.runtime:
        raise _refused(file, f"was run by {run.runtime}; {profile.name} runs its models with {profile.runtime}")
    if run.provider.startswith("CUDA") != (profile.device is not None):
        raise _refused(file, f"was run by {run.provider}; {profile.name} runs its models on the {'GPU' if profile.device else 'CPU'}")
    machine = f"{run.environment.cpu} ({run.environment.machine})"
    if not may_be(run.environment.machine, run.environment.cpu, profile.match):
        raise _refused(file, f"was measured on {machine}, which is not a {profile.name}")
    if run.batch != 1:
        raise _refused(file, f"was run with {run.batch} images at a time; estimates are for one", "measure without --batch")


def _ratio(file: Path, run: _Run, target: Target, models: Mapping[str, Estimable]) -> _Ratio:
    model = models.get(run.artifact_sha256)
    if model is None:
        raise _refused(
            file, f"was a run of {run.what}, whose hash matches none of the given models", "name the bundle that ran: --what BUNDLE"
        )
    if run.precision != model.precision:
        raise _refused(file, f"was a run in {run.precision}, but {model.what} is {model.precision}")
    found = predict_latency(model, target, run.threads)
    return _Ratio(file, run, math.log(run.latency_ms.p50 / found.p50_ms), found.corrects)


def _refused(file: Path, why: str, hint: str = "leave that file out") -> TlxError:
    return UsageError(f"{file} {why}", hint)


def _table(profile: Profile, ratios: Sequence[_Ratio]) -> Sharpened:
    """The mean over models; several runs of one model count once."""
    by_model: dict[str, list[float]] = {}
    for ratio in ratios:
        by_model.setdefault(ratio.run.artifact_sha256, []).append(ratio.log)
    first = ratios[0]
    return Sharpened(
        runtime=profile.runtime,
        precision=first.run.precision,
        threads=first.run.threads,
        factor=float(f"{math.exp(statistics.fmean(map(statistics.fmean, by_model.values()))):.6g}"),
        n=len(by_model),
        corrects=first.corrects,
        date=date.today().isoformat(),
        measurements=tuple(sorted({sha256_of(ratio.file) for ratio in ratios})),
    )

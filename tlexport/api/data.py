"""The verb ``data``: checks the images of DATA before a training."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlexport.data.decode import Decoded, decode_all
from tlexport.data.source import read_source
from tlexport.data.split import split
from tlexport.errors import InvalidFile
from tlexport.health.check import examine, parts_of, with_features
from tlexport.health.findings import health_json
from tlexport.health.record import DataHealth
from tlexport.health.section import health_section
from tlexport.loading.model import device_for
from tlexport.ports import Progress, Silent
from tlexport.recipe import Recipe
from tlexport.report.health import health_page
from tlexport.storage.cache import ArrayCache, cache_folder
from tlexport.storage.files import new_file
from tlexport.train.trunk_features import TrunkFeatures


@dataclass(frozen=True)
class DataSettings:
    """How the check runs.

    Attributes:
        recipe: its backbone, weights, image size, validation share and seed are used; ``finetune`` would split in the same way.
        device: of the network.
        threads: CPU threads; None: torch's choice.
        cache: keep decoded images for the next run.
    """

    recipe: Recipe
    device: str = "auto"
    threads: int | None = None
    cache: bool = True


@dataclass(frozen=True)
class CheckedData:
    """The result of ``data``."""

    health: DataHealth
    decoded: Decoded
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        return {**health_json(self.health), "seconds": round(self.seconds, 2)}

    def write_report(self, path: Path) -> None:
        """Write the HTML report, or replace an earlier file. Raises StepFailed if the file system refused."""
        section = health_section(self.health, lambda row: self.decoded.pixels[row])
        page = health_page(self.health.source, section, self.to_json())
        with new_file(path) as file:
            file.write_text(page, encoding="utf-8")


def check_data(data: str, settings: DataSettings, *, progress: Progress | None = None) -> CheckedData:
    """Check the images of DATA. Nothing is changed.

    Args:
        data: as for ``finetune``; one class or one part is enough.
        settings: how the check runs.
        progress: receives progress and notes.

    Raises:
        InvalidFile: DATA cannot be read, or none of its images.
        TlxError: see errors.py.
    """
    started, progress, recipe = time.perf_counter(), progress or Silent(), settings.recipe
    listing = read_source(data, to_train=False)
    cache = ArrayCache(cache_folder() / "arrays" if settings.cache else None)
    with TrunkFeatures(recipe, device_for("torch", settings.device), settings.threads) as trunk:
        with progress.task("reading images", len(listing.entries)) as advance:
            decoded = decode_all(listing, trunk.preprocess, "skip", trunk.threads, advance, cache, reduced=True)
        parts, notes, unsplit = _split(decoded, recipe)
        health = examine(decoded, parts, trunk.preprocess.size, (*listing.notes, *notes), progress)
        with progress.task("features", len(decoded.pixels)) as advance:
            features = trunk.of(decoded.pixels, advance)
    health = with_features(health, decoded, parts, features, recipe.seed)
    health = dataclasses.replace(health, unsplit=unsplit, features=f"{recipe.backbone}, {recipe.weights}")
    return CheckedData(health, decoded, time.perf_counter() - started)


def _split(decoded: Decoded, recipe: Recipe) -> tuple[dict[str, str], tuple[str, ...], str]:
    """The part of each path, notes, and why there is no split if DATA cannot be split."""
    listing = decoded.listing
    own = {entry.path: str(entry.part) for entry in listing.entries if entry.part is not None}
    try:
        dataset, notes = split(listing, decoded.sha256, recipe.val_fraction, recipe.seed)
    except InvalidFile as error:
        return {entry.path: "train" for entry in listing.entries} | own, (), error.message
    # a training image that is a copy of a validation image is in no part of the dataset, but still in its folder
    return own | parts_of(dataset), notes, ""

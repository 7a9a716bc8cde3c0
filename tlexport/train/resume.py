"""The state of a run under way: written beside the checkpoint-to-be, so that a killed run continues exactly."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from tlexport.dataset import Dataset
from tlexport.errors import InvalidFile, UsageError
from tlexport.files import new_file
from tlexport.recipe import Recipe
from tlexport.untrusted import read_object, read_torch

INTERVAL_S = 5.0  # between two states; what lies between is computed again, to the same bits
REQUEST, STATE = "request.json", "state.pt"


def resume_folder(out: Path) -> Path:
    """Where the state of a run that will write ``out`` is kept: a hidden folder beside it."""
    return out.with_name(f".{out.name}.resume")


def dataset_digest(dataset: Dataset) -> str:
    """SHA-256 over the content, class and part of every image: equal only for the same training data."""
    lines = [f"{s.sha256} {s.label} {s.part}" for s in dataset.samples]
    return hashlib.sha256("\n".join((*dataset.classes, *lines)).encode()).hexdigest()


def read_request(out: Path) -> tuple[str, Recipe]:
    """DATA and recipe of the run that was to write ``out``.

    Raises:
        UsageError: there is nothing to resume.
        InvalidFile: the request is damaged.
    """
    folder = resume_folder(out)
    if not (folder / REQUEST).is_file():
        raise UsageError(f"there is nothing to resume for {out}: it was finished, or never begun", "leave out --resume")
    request = read_object(folder / REQUEST)
    if not isinstance(request.get("data"), str) or not isinstance(request.get("recipe"), dict):
        raise InvalidFile(f"{folder / REQUEST} is not the request of a run", "start anew without --resume")
    return request["data"], Recipe.parse(request["recipe"], str(folder / REQUEST))


def interrupted_runs(runs: Path) -> list[Path]:
    """The runs under a folder that can be resumed, the latest last."""
    requests = sorted(runs.glob(f".*.resume/{REQUEST}"), key=lambda path: path.stat().st_mtime)
    return [runs / request.parent.name.removeprefix(".").removesuffix(".resume") for request in requests]


class Saver:
    """Writes states while a run goes on, and removes them when it has ended well."""

    def __init__(self, out: Path, enabled: bool = True) -> None:
        self.folder = resume_folder(out)
        self.enabled = enabled  # False: another process writes
        self.written = time.monotonic()

    def begin(self, data: str, recipe: Recipe, digest: str, threads: int) -> dict[str, Any] | None:
        """Start a run, or find where it was.

        Args:
            data: DATA as the user gave it.
            recipe: as used.
            digest: of the dataset.
            threads: CPU threads; another number would give other bits.

        Returns:
            The last state of the same run, or None when it has to begin at the beginning.
        """
        self.identity = {"recipe": recipe.model_dump(mode="json"), "digest": digest, "threads": threads, "torch": str(torch.__version__)}
        state = self._read()
        if state is None and self.enabled:
            with new_file(self.folder / REQUEST) as temporary:
                temporary.write_text(json.dumps({"data": data, "recipe": recipe.model_dump(mode="json")}) + "\n", encoding="utf-8")
        return state

    def _read(self) -> dict[str, Any] | None:
        path = self.folder / STATE
        if not path.is_file():
            return None
        state = read_torch(path, "the state of a run", "start anew without --resume")
        if not isinstance(state, dict):
            raise InvalidFile(f"{path} holds no state of a run", "start anew without --resume")
        changed = [key for key, value in self.identity.items() if state.get("identity", {}).get(key) != value]
        if changed:
            raise UsageError(
                f"the run in {self.folder} cannot be continued exactly: {' and '.join(changed)} differ from when it began",
                "use the same data, options and number of threads, or start anew without --resume",
            )
        return state

    def save(self, state: dict[str, Any], now: bool) -> None:
        """Keep a state, beside and renamed, if the last one is old enough or ``now``. Raises StepFailed on a full disk."""
        if not self.enabled or (not now and time.monotonic() - self.written < INTERVAL_S):
            return
        with new_file(self.folder / STATE) as temporary:
            torch.save(state | {"identity": self.identity}, temporary)
        self.written = time.monotonic()

    def abandon(self) -> None:
        """The run has failed: where no state was kept yet, there is nothing to resume, and nothing is left."""
        if not (self.folder / STATE).is_file():
            self.forget()

    def forget(self) -> None:
        """Remove everything: the run has ended, or another begins in its place."""
        if self.enabled:
            shutil.rmtree(self.folder, ignore_errors=True)

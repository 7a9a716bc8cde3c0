"""The state of a run, saved beside its checkpoint directory, so that a killed run continues exactly."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tlexport.checkpoint import RECORD, REPORT, Checkpoint, read_dataset
from tlexport.dataset import Dataset
from tlexport.errors import InvalidFile, UsageError
from tlexport.recipe import Recipe
from tlexport.storage.files import new_file, remove
from tlexport.storage.lock import is_claimed
from tlexport.storage.untrusted import DAMAGED, read_object, read_torch

INTERVAL_S = 5.0  # between two saved states; a resumed run repeats the epochs since, with the same bits
REQUEST, STATE = "request.json", "state.pt"


def resume_folder(out: Path) -> Path:
    """The hidden folder beside ``out`` that holds the state of its run."""
    return out.with_name(f".{out.name}.resume")


def dataset_digest(dataset: Dataset) -> str:
    """SHA-256 over the content, class and part of every image: equal only for the same training data."""
    lines = [f"{s.sha256} {s.label} {s.part}" for s in dataset.samples]
    return hashlib.sha256("\n".join((*dataset.classes, *lines)).encode()).hexdigest()


def read_request(out: Path) -> tuple[str, Recipe]:
    """DATA and recipe of the interrupted run for ``out``, or those of an existing checkpoint.

    Raises:
        UsageError: there is nothing to resume.
        InvalidFile: the request, or the checkpoint, is damaged.
    """
    file = resume_folder(out) / REQUEST
    if not file.exists() and (out / RECORD).is_file():
        return read_dataset(out).source, Checkpoint.read(out / RECORD).recipe
    if not file.exists():
        raise UsageError(f"there is nothing to resume for {out}: no run was begun there", "leave out --resume")
    request = read_object(file, _anew(out))
    if not isinstance(request.get("data"), str) or not isinstance(request.get("recipe"), dict):
        raise InvalidFile(f"{file} is not the request of a run: it needs the keys data (text) and recipe (a table)", _anew(out))
    try:
        return request["data"], Recipe.parse(request["recipe"], str(file))
    except InvalidFile as error:
        raise InvalidFile(error.message, _anew(out)) from None


def interrupted_runs(runs: Path) -> list[Path]:
    """The runs in a folder that can be resumed, the latest last: those with a state, and checkpoints without a report."""
    begun = {runs / file.parent.name.removeprefix(".").removesuffix(".resume"): file for file in runs.glob(f".*.resume/{REQUEST}")}
    bare = {file.parent: file for file in runs.glob(f"*/{RECORD}") if not (file.parent / REPORT).exists() and not file.parent.is_symlink()}
    found = {run: file for run, file in (bare | begun).items() if not is_claimed(run)}
    return sorted(found, key=lambda run: found[run].stat().st_mtime)


def _anew(out: Path) -> str:
    return f"begin anew: tlx finetune DATA --out {out} --restart"


class Saver:
    """Saves the state of a run, and removes it after all other files are written."""

    def __init__(self, out: Path, enabled: bool = True) -> None:
        self.out = out
        self.folder = resume_folder(out)
        self.enabled = enabled  # False: another process writes
        self.written = time.monotonic()
        self.tried = False

    @property
    def resumable(self) -> bool:
        """Whether a saved state exists."""
        return (self.folder / STATE).exists()

    @property
    def begun(self) -> bool:
        """Whether a run was started, with or without a saved state."""
        return (self.folder / REQUEST).exists() or self.resumable

    def begin(self, data: str, recipe: Recipe, digest: str, threads: int) -> dict[str, Any] | None:
        """Start a run, or read its saved state.

        Args:
            data: DATA as the user gave it.
            recipe: as used.
            digest: of the dataset.
            threads: CPU threads; another number would give other bits.

        Returns:
            The last state of the same run, or None when it has to begin at the beginning.

        Raises:
            InvalidFile: the state is damaged.
            UsageError: it is the state of a run with other data, another recipe, or under other conditions.
        """
        self.identity = {"recipe": recipe.model_dump(mode="json"), "digest": digest, "threads": threads, "torch": str(torch.__version__)}
        state = self._read()
        if state is None and self.enabled:
            with new_file(self.folder / REQUEST) as temporary:
                temporary.write_text(json.dumps({"data": data, "recipe": recipe.model_dump(mode="json")}) + "\n", encoding="utf-8")
        return state

    def _read(self) -> dict[str, Any] | None:
        path = self.folder / STATE
        if not path.exists():
            return None
        with self.reading():
            _expect_plain_zip(path)
            state = read_torch(path, "the state of a run", _anew(self.out))
            found = {key: state["identity"].get(key) for key in self.identity}
        changed = [key for key, value in self.identity.items() if found[key] != value]
        if changed:
            raise UsageError(
                f"the run in {self.folder} cannot be continued exactly: {' and '.join(changed)} differ from when it began",
                f"use the same data, options and number of threads, or {_anew(self.out)}",
            )
        return dict(state)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Context for code that reads or uses the saved state: an error inside means that the file is damaged.

        Raises:
            InvalidFile: names the file.
        """
        try:
            yield
        except DAMAGED as error:
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise InvalidFile(f"{self.folder / STATE} is damaged, the run cannot be continued: {reason}", _anew(self.out)) from None

    def save(self, state: dict[str, Any], now: bool) -> None:
        """Save a state (written beside, then renamed) if the last one is old enough or ``now``. Raises StepFailed on a full disk."""
        if not self.enabled or (not now and time.monotonic() - self.written < INTERVAL_S):
            return
        self.tried = True
        with new_file(self.folder / STATE) as temporary:
            write_tensors(state | {"identity": self.identity}, temporary)
        self.written = time.monotonic()

    def abandon(self) -> str:
        """End a failed run. Removes it if it has no saved state; otherwise returns a note on how to go on."""
        if not self.tried and not self.resumable:
            self.forget()
            return ""
        return "the state of training is kept; continue" if self.resumable else "no state of training could be written; begin again"

    def conclude(self, interrupted: bool) -> bool:
        """End a run whose files are written. Removes the state unless Ctrl-C ended training early. Returns whether it can be resumed."""
        if interrupted and self.begun:
            return True
        self.forget()
        return False

    def forget(self) -> None:
        """Remove the run. The request is removed first, because a folder without it does not count as a run."""
        self.tried = False
        if self.enabled:
            remove(self.folder / REQUEST)
            remove(self.folder)


def forget_remains(runs: Path) -> None:
    """Remove a folder without its request: its run was killed while it removed its state."""
    for folder in runs.glob(".*.resume"):
        out = runs / folder.name.removeprefix(".").removesuffix(".resume")
        if not (folder / REQUEST).exists() and not is_claimed(out):
            remove(folder)


def write_tensors(value: object, path: Path) -> None:
    """``torch.save`` that raises OSError or KeyboardInterrupt, both of which torch reports as a RuntimeError."""
    with path.open("wb") as stream:
        try:
            torch.save(value, stream)
        except RuntimeError as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, OSError | KeyboardInterrupt):
                cause = cause.__cause__ or cause.__context__
            if cause is not None:
                raise cause from error
            raise


def _expect_plain_zip(path: Path) -> None:
    """Check for the form that ``torch.save`` writes: a zip of uncompressed members, so a small file cannot expand in memory.

    Raises:
        ValueError: it is not.
    """
    if not path.is_file():
        raise ValueError("it is not a file")
    with contextlib.closing(zipfile.ZipFile(path)) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members) or sum(m.file_size for m in members) > path.stat().st_size:
            raise ValueError("its members are not stored as torch.save stores them")
        if broken := archive.testzip():  # torch does not check the checksums
            raise ValueError(f"the checksum of {broken} does not match")

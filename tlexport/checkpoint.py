"""Checkpoint: trained weights and everything needed to use them, in one directory."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Literal

from pydantic import Field

from tlexport.class_names import ClassNames
from tlexport.contract import Preprocess
from tlexport.dataset import Dataset
from tlexport.errors import InvalidFile, StepFailed, TlxError, VerificationFailed
from tlexport.recipe import Recipe
from tlexport.record import Record
from tlexport.storage.files import sha256_of

RECORD = "checkpoint.json"
WEIGHTS = "model.safetensors"
DATASET = "dataset.json"
HISTORY = "history.jsonl"
RECIPE = "recipe.toml"
REPORT = "report.html"
HASH = re.compile("[0-9a-f]{64}")
AGAIN = "copy the checkpoint again, or train it anew: tlx finetune DATA"
ATTEMPTS = 5  # to read a directory while another process replaces it


class Frozen(Record):
    """The parameters and BatchNorm statistics that training did not change."""

    stages: tuple[str, ...]
    parameters: int = Field(ge=0, description="number of frozen parameters")
    total_parameters: int = Field(ge=0)

    def describe(self) -> str:
        """One line for the user."""
        if not self.stages:
            return f"nothing is frozen: all {self.total_parameters:,} parameters are trained"
        numbers = f"{self.parameters:,} of {self.total_parameters:,} parameters, {100 * self.parameters / self.total_parameters:.0f} %"
        return f"frozen, BatchNorm statistics included: {', '.join(self.stages)} ({numbers})"


class InitialWeights(Record):
    """The weights that a training started from."""

    origin: str = Field(description="the file, package or address that they were read from, without a local path")
    sha256: str = Field(description="of the file; empty if it is unknown")
    licence: str | None = Field(None, description="identifier of their licence, as SPDX lists them; None: unknown")


class Checkpoint(Record):
    """The record ``checkpoint.json``. The weights are in a file beside it, under the parameter names of the network's source."""

    format: Literal[1] = 1
    recipe: Recipe
    classes: ClassNames = Field(min_length=2, description="in the order of the outputs")
    preprocess: Preprocess
    metrics: dict[str, float] = Field(description="val_top1 0..1, val_loss, train_top1 0..1, ...; of the best epoch")
    frozen: Frozen
    weights_sha256: str
    versions: dict[str, str] = Field(description="library -> version")
    initial_weights: InitialWeights | None = Field(None, description="None: random, or not recorded")
    interrupted: bool = Field(False, description="the user stopped the training; the weights are the best up to then")


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint directory's record and check the weights' hash. Retries if another process replaces the directory.

    Raises:
        InvalidFile: not a checkpoint, or a broken record.
        VerificationFailed: the weights do not match the record.
    """
    for _ in range(ATTEMPTS):
        before = _identity(path)
        try:
            return _read_once(path)
        except TlxError:
            if before == _identity(path):
                raise
    return _read_once(path)


def expect_checkpoint(path: Path) -> None:
    """Raise InvalidFile if a directory holds no checkpoint's record; the record itself is not read."""
    if not os.path.lexists(path / RECORD):
        raise InvalidFile(f"{path} is not a checkpoint: it holds no {RECORD}", "make one with: tlx finetune DATA")


def _read_once(path: Path) -> Checkpoint:
    expect_checkpoint(path)
    checkpoint = Checkpoint.read(path / RECORD)
    weights = path / WEIGHTS
    if not weights.is_file():
        raise InvalidFile(f"{path} holds no {WEIGHTS}", "the checkpoint is incomplete; train again, or copy it again")
    found = sha256_of(weights)
    if found != checkpoint.weights_sha256:
        raise VerificationFailed(
            f"{weights} has sha256 {found[:12]}…, its record says {checkpoint.weights_sha256[:12]}…", "copy the checkpoint again"
        )
    return checkpoint


def snapshot(path: Path, into: Path) -> Path:
    """Copy a checkpoint for a long job, so that a training that replaces it does not affect the job.

    Args:
        path: the checkpoint.
        into: a folder for the copy, which keeps the checkpoint's name.

    Raises:
        InvalidFile, VerificationFailed: see :func:`read_checkpoint`.
        StepFailed: there is no space for the copy, or other processes keep replacing the checkpoint.
    """
    copy = into / path.resolve().name
    for _ in range(ATTEMPTS):
        before = _identity(path)
        try:
            record, dataset = read_checkpoint(path), read_dataset(path)
            if record.classes != dataset.classes:
                raise InvalidFile(
                    f"{path / DATASET} has {len(dataset.classes)} classes ({_few(dataset.classes)}), "
                    f"{path / RECORD} has {len(record.classes)} ({_few(record.classes)})",
                    AGAIN,
                )
            copy.mkdir(parents=True, exist_ok=True)
            for name in (RECORD, WEIGHTS, DATASET):
                shutil.copyfile(path / name, copy / name)
        except (TlxError, FileNotFoundError):
            if before == _identity(path):
                raise
        except OSError as error:
            raise StepFailed(
                f"cannot copy {path} to {into}: {error.strerror or error}", "set $TMPDIR to a writable folder with enough space"
            ) from error
        else:
            if before == _identity(path):
                return copy
    raise StepFailed(f"{path} was replaced repeatedly while it was read", "try again when no training writes there")


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _identity(path: Path) -> tuple[int, int] | None:
    """Identity of the directory at a path. It changes when the directory is replaced."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def read_dataset(path: Path) -> Dataset:
    """The dataset of a checkpoint. Raises InvalidFile if it is missing or damaged."""
    dataset, hashes = Dataset.read(path / DATASET), dict[str, str]()
    for sample in dataset.samples:
        wrong = "" if HASH.fullmatch(sample.sha256) else f"has the hash {sample.sha256!r:.80}, 64 hexadecimal digits were expected"
        if not wrong and hashes.setdefault(sample.path, sample.sha256) != sample.sha256:
            wrong = "is listed twice, with different hashes"
        if wrong:
            raise InvalidFile(f"{path / DATASET}: {sample.path!r:.200} {wrong}", AGAIN)
    return dataset

"""Checkpoint: trained weights and all that is needed to use them, in one directory."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from tlexport.class_names import ClassNames
from tlexport.contract import Preprocess
from tlexport.dataset import Dataset
from tlexport.errors import InvalidFile, VerificationFailed
from tlexport.files import sha256_of
from tlexport.recipe import Recipe
from tlexport.record import Record

RECORD = "checkpoint.json"
WEIGHTS = "model.safetensors"
DATASET = "dataset.json"
HISTORY = "history.jsonl"
RECIPE = "recipe.toml"
REPORT = "report.html"


class Frozen(Record):
    """What training never changed: parameters and BatchNorm statistics."""

    stages: tuple[str, ...]
    parameters: int = Field(ge=0, description="number of frozen parameters")
    total_parameters: int = Field(ge=0)

    def describe(self) -> str:
        """One line for the user."""
        if not self.stages:
            return f"nothing is frozen: all {self.total_parameters:,} parameters are trained"
        numbers = f"{self.parameters:,} of {self.total_parameters:,} parameters, {100 * self.parameters / self.total_parameters:.0f} %"
        return f"frozen, BatchNorm statistics included: {', '.join(self.stages)} ({numbers})"


class Checkpoint(Record):
    """The record ``checkpoint.json``; the weights lie beside it, under torchvision's own parameter names."""

    format: Literal[1] = 1
    recipe: Recipe
    classes: ClassNames = Field(min_length=2, description="in the order of the outputs")
    preprocess: Preprocess
    metrics: dict[str, float] = Field(description="val_top1 0..1, val_loss, train_top1 0..1, ...; of the best epoch")
    frozen: Frozen
    weights_sha256: str
    versions: dict[str, str] = Field(description="library -> version")
    interrupted: bool = Field(False, description="training was stopped by the user; the best weights up to then")


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint directory's record and check the weights' hash.

    Raises:
        InvalidFile: not a checkpoint, or a broken record.
        VerificationFailed: the weights are not the ones the record was written for.
    """
    if not (path / RECORD).is_file():
        raise InvalidFile(f"{path} is not a checkpoint: it holds no {RECORD}", "make one with: tlx finetune DATA")
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


def read_dataset(path: Path) -> Dataset:
    """The data a checkpoint was trained on. Raises InvalidFile when there is none."""
    return Dataset.read(path / DATASET)

"""A checkpoint whose training ended. ``--resume`` validates it and writes it again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tlexport.checkpoint import RECORD, Checkpoint, read_checkpoint, read_dataset
from tlexport.dataset import Dataset
from tlexport.errors import UsageError
from tlexport.network import Network, load_network
from tlexport.train.phases import Phase
from tlexport.train.result import TrainingResult
from tlexport.train.resume import dataset_digest, resume_folder
from tlexport.train.write_checkpoint import read_history


def finished_run(out: Path) -> Checkpoint | None:
    """The checkpoint at ``out`` if its training ended and no saved state is left; otherwise None.

    Raises:
        InvalidFile, VerificationFailed: it is damaged.
    """
    if resume_folder(out).exists() or not (out / RECORD).is_file():
        return None
    return read_checkpoint(out)


def result_of_checkpoint(out: Path, record: Checkpoint, network: Network, dataset: Dataset, phases: Sequence[Phase]) -> TrainingResult:
    """The result of a checkpoint's training. Loads its weights into ``network``.

    Args:
        out: the checkpoint.
        record: its record.
        network: a network of the same backbone and classes.
        dataset: the images that DATA holds now.
        phases: the phases of the recipe.

    Raises:
        UsageError: the checkpoint was trained on other images.
        InvalidFile: it is damaged.
    """
    if dataset_digest(read_dataset(out)) != dataset_digest(dataset):
        raise UsageError(f"{out} was trained on other images than DATA holds now", "give the same data, or train again without --resume")
    history = read_history(out, phases)
    network.load(load_network(out, record).net.state_dict())
    best = next((epoch for epoch in history if epoch.epoch == record.metrics.get("best_epoch")), None)
    return TrainingResult(history, best or max(history, key=lambda epoch: epoch.rank), record.interrupted)

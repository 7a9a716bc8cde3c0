"""A checkpoint whose training had ended, as the training left it: what ``--resume`` writes again where no state is kept any more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tlexport.checkpoint import RECORD, Checkpoint, read_checkpoint, read_dataset
from tlexport.dataset import Dataset
from tlexport.errors import UsageError
from tlexport.network import Network, load_network
from tlexport.train.fit import Fit
from tlexport.train.phases import Phase
from tlexport.train.resume import dataset_digest, resume_folder
from tlexport.train.write_checkpoint import read_history


def finished_run(out: Path) -> Checkpoint | None:
    """The checkpoint at ``out`` where training has ended and keeps no state any more; None where there is none.

    Raises:
        InvalidFile, VerificationFailed: it is damaged.
    """
    if resume_folder(out).exists() or not (out / RECORD).is_file():
        return None
    return read_checkpoint(out)


def as_trained(out: Path, record: Checkpoint, network: Network, dataset: Dataset, phases: Sequence[Phase]) -> Fit:
    """How the training of a checkpoint went; ``network`` gets its weights.

    Args:
        out: the checkpoint.
        record: its record.
        network: of the same backbone and classes.
        dataset: what DATA holds now.
        phases: those of the recipe.

    Raises:
        UsageError: the checkpoint was trained on other images.
        InvalidFile: it is damaged.
    """
    if dataset_digest(read_dataset(out)) != dataset_digest(dataset):
        raise UsageError(f"{out} was trained on other images than DATA holds now", "give the same data, or train anew without --resume")
    history = read_history(out, phases)
    network.load(load_network(out, record).net.state_dict())
    best = next((epoch for epoch in history if epoch.epoch == record.metrics.get("best_epoch")), None)
    return Fit(history, best or max(history, key=lambda epoch: epoch.rank), record.interrupted)


def spent(fit: Fit) -> dict[str, Any]:
    """The times of a training, as far as its epochs show them; see ``Stopwatch.add``."""
    steps: dict[str, float] = {}
    for epoch in fit.history:
        steps[f"training {epoch.phase}"] = steps.get(f"training {epoch.phase}", 0) + epoch.seconds
    return {"seconds": sum(steps.values()), "steps": list(steps.items()), "sessions": 1}

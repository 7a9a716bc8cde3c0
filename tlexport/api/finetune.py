"""The verb ``finetune``: images in, a checkpoint out."""

from __future__ import annotations

import importlib.metadata
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from tlexport import __version__
from tlexport.accuracy import Scores, probabilities, score
from tlexport.api.subject import device_for
from tlexport.checkpoint import Checkpoint, Frozen
from tlexport.contract import Preprocess
from tlexport.data.decode import Decoded, decode_all
from tlexport.data.source import read_source
from tlexport.data.split import split
from tlexport.dataset import Dataset, Part
from tlexport.errors import Unsupported
from tlexport.network import Network, cpu_threads
from tlexport.ports import Progress, RunOptions, Silent
from tlexport.recipe import Recipe
from tlexport.runtimes.torch import TorchRunner
from tlexport.train.fit import Fit, Images, Trainer
from tlexport.train.frozen import frozen_state
from tlexport.train.phases import Phase, plan_phases
from tlexport.train.weights import initial_network, preprocess_for
from tlexport.train.write_checkpoint import check_place, write_checkpoint

LIBRARIES = ("torch", "torchvision", "numpy", "pillow", "safetensors")
EVALUATION_BATCH = 64


@dataclass(frozen=True)
class Trained:
    """What ``finetune`` answers."""

    path: Path
    checkpoint: Checkpoint
    scores: Scores  # on the validation part
    seconds: float

    def to_json(self) -> dict[str, object]:
        """As cli.md has it."""
        frozen = self.checkpoint.frozen
        return {
            "checkpoint": str(self.path),
            "metrics": self.checkpoint.metrics,
            "seconds": round(self.seconds, 2),
            "frozen": {"stages": list(frozen.stages), "parameters": frozen.parameters},
            "interrupted": self.checkpoint.interrupted,
        }


def finetune(
    data: str,
    recipe: Recipe,
    out: Path,
    *,
    device: str = "auto",
    threads: int | None = None,
    on_error: Literal["skip", "fail"] | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Adapt a pretrained network to a set of images.

    Args:
        data: DATA of the command line: a folder of class folders, one with train/ val/ test/, a table, or ``demo:digits``.
        recipe: what to train and how.
        out: the checkpoint directory to write; an earlier checkpoint there is replaced.
        device: ``auto`` (a CUDA GPU if there is one), ``cpu`` or ``cuda[:N]``.
        threads: CPU threads; None: torch's choice. With the same number, CPU runs of one recipe give the same weights.
        on_error: what to do about images that cannot be read; None: skip up to 5 %, else fail.
        progress: where to tell what happens.

    Raises:
        TlxError: see errors.py. Nothing is written then.
        KeyboardInterrupt: interrupted before an epoch ended; afterwards a checkpoint is written with ``interrupted`` set.
    """
    started = time.perf_counter()
    progress = progress or Silent()
    check_place(out)
    chosen = choose_device(device)
    with cpu_threads(threads):
        listing = read_source(data)
        for note in listing.notes:
            progress.note(note)
        torch.manual_seed(recipe.seed)
        network = initial_network(recipe, len(listing.classes))
        preprocess = preprocess_for(recipe)
        boundary = network.boundary(recipe.freeze) if recipe.freeze is not None else None
        phases = plan_phases(recipe, tuple(network.stages), boundary)
        with progress.task("reading images", len(listing.entries)) as advance:
            decoded = decode_all(listing, preprocess, on_error, threads or torch.get_num_threads(), advance)
        dataset, notes = split(decoded.listing, decoded.sha256, recipe.val_fraction, recipe.seed)
        for note in (*_skipped(decoded), *notes):
            progress.note(note)
        frozen = _frozen(network, phases)
        progress.note(_frozen_text(frozen))
        images = {part: _part(decoded, dataset, part) for part in ("train", "val")}
        fit = Trainer(network, preprocess, recipe, chosen, progress).fit(phases, images["train"], images["val"])
        scores = _final_scores(network, preprocess, chosen, images["val"], listing.classes, progress)
        record = Checkpoint(
            recipe=recipe,
            classes=listing.classes,
            preprocess=preprocess,
            metrics=_metrics(fit, scores),
            frozen=frozen,
            weights_sha256="",
            versions={"tlexport": __version__} | {name: importlib.metadata.version(name) for name in LIBRARIES},
            interrupted=fit.interrupted,
        )
        record = write_checkpoint(out, network, record, dataset, fit.history, scores.confusion)
    return Trained(out, record, scores, time.perf_counter() - started)


def choose_device(device: str) -> torch.device:
    """``auto`` -> a CUDA GPU if torch finds one, else the CPU. Raises Unsupported for a GPU that is not here."""
    chosen = torch.device(device_for("torch", device))
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise Unsupported(
            f"--device {device}: torch finds {torch.cuda.device_count()} CUDA GPUs here", "use --device auto, or see: tlx doctor"
        )
    return chosen


def _skipped(decoded: Decoded) -> list[str]:
    notes = []
    if decoded.listing.skipped:
        notes.append(f"{decoded.listing.skipped} files beside the images are not images and were skipped")
    if decoded.bad:
        shown = "; ".join(f"{path}: {reason}" for path, reason in decoded.bad[:5])
        more = f" and {len(decoded.bad) - 5} more" if len(decoded.bad) > 5 else ""
        notes.append(f"{len(decoded.bad)} images cannot be read and were left out: {shown}{more}")
    return notes


def _part(decoded: Decoded, dataset: Dataset, part: Part) -> Images:
    samples = dataset.part(part)
    return Images(decoded.pixels[decoded.rows(samples)], torch.tensor([sample.label for sample in samples], dtype=torch.int64))


def _frozen(network: Network, phases: tuple[Phase, ...]) -> Frozen:
    count = min(phase.frozen for phase in phases)
    inside = frozen_state(network, count)
    sizes = {name: p.numel() for name, p in network.net.named_parameters()}
    return Frozen(
        stages=tuple(network.stages)[:count],
        parameters=sum(size for name, size in sizes.items() if name in inside),
        total_parameters=sum(sizes.values()),
    )


def _frozen_text(frozen: Frozen) -> str:
    if not frozen.stages:
        return f"nothing is frozen: all {frozen.total_parameters:,} parameters are trained"
    share = 100 * frozen.parameters / frozen.total_parameters
    numbers = f"{frozen.parameters:,} of {frozen.total_parameters:,} parameters, {share:.0f} %"
    return f"frozen, BatchNorm statistics included: {', '.join(frozen.stages)} ({numbers})"


def _final_scores(
    network: Network, preprocess: Preprocess, device: torch.device, val: Images, classes: tuple[str, ...], progress: Progress
) -> Scores:
    """Accuracy of the unfolded network, which is what the checkpoint holds, by the code that measures any exported model's."""
    with TorchRunner(network, preprocess, RunOptions(device=str(device))) as runner:
        outputs = probabilities(runner, val.pixels, EVALUATION_BATCH, progress, "validating")
    return score(outputs, val.labels.tolist(), classes)


def _metrics(fit: Fit, scores: Scores) -> dict[str, float]:
    best = fit.best
    return {
        "val_top1": scores.top1,
        "val_ece": round(scores.ece, 6),
        "val_loss": round(best.val_loss, 6),
        "val_images": scores.n,
        "train_top1": round(best.train_top1, 6),
        "train_loss": round(best.train_loss, 6),
        "best_epoch": best.epoch,
        "epochs": len(fit.history),
    }

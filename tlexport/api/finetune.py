"""The verb ``finetune``: images in, a checkpoint out."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tlexport.accuracy import BATCH, Scores, probabilities, score
from tlexport.checkpoint import Checkpoint, Frozen
from tlexport.contract import Preprocess
from tlexport.data.decode import Decoded, decode_all, exact_pixels
from tlexport.data.source import read_source
from tlexport.data.split import split
from tlexport.dataset import Dataset, Part
from tlexport.errors import InvalidFile, UsageError
from tlexport.health.training import TrainingHealth
from tlexport.loading.model import device_for
from tlexport.loading.runs import expect_nothing_to_resume, place_of_run, point_latest_at, resume_command
from tlexport.loading.teacher import teacher_logits
from tlexport.network import Network, cpu_threads
from tlexport.ports import Progress, RunOptions, Silent
from tlexport.recipe import Recipe
from tlexport.report.training import RunTimes, Validated, finetune_report
from tlexport.runtimes.torch import TorchRunner
from tlexport.storage.cache import ArrayCache, cache_folder
from tlexport.train.advice import before_training
from tlexport.train.defaults import decided
from tlexport.train.distributed import Workers, workers
from tlexport.train.finished import finished_run, result_of_checkpoint
from tlexport.train.fit import Trainer
from tlexport.train.frozen import frozen_record
from tlexport.train.images import LabelledImages, images_digest
from tlexport.train.phases import Phase, boundary_of, plan_phases
from tlexport.train.result import TrainingResult
from tlexport.train.resume import Saver, dataset_digest
from tlexport.train.saved_state import number
from tlexport.train.solved_head import last_linear
from tlexport.train.stopwatch import Stopwatch
from tlexport.train.trackers import Tracker, choose_tracker, tracking
from tlexport.train.weights import initial_network, preprocess_for
from tlexport.train.write_checkpoint import write_checkpoint
from tlexport.version import __version__

RECORDED_LIBRARIES = ("torch", "torchvision", "numpy", "pillow", "safetensors")  # the checkpoint states their versions


@dataclass(frozen=True)
class FinetuneSettings:
    """How a training runs. The recipe says what is trained; these settings do not change it.

    Attributes:
        device: ``auto`` (a CUDA GPU if there is one), ``cpu`` or ``cuda[:N]``.
        threads: CPU threads; None: torch's choice. Two CPU runs of one recipe with the same number give the same weights.
        on_error: for unreadable images; None: skip up to 5 %, otherwise fail.
        cache: keep decoded images and features for the next run.
        tracker: where epochs are reported besides ``history.jsonl``; ``auto``: TensorBoard if it is installed.
        budget_bytes: largest model file of the target; used for advice only.
        resume: continue the interrupted run of the same output directory, with the same data and recipe. If its training had
            ended, validate the checkpoint and write it again, with its report.
        restart: discard the state of an interrupted run. Without it, such a state is an error.
    """

    device: str = "auto"
    threads: int | None = None
    on_error: Literal["skip", "fail"] | None = None
    cache: bool = True
    tracker: Tracker = "auto"
    budget_bytes: int | None = None
    resume: bool = False
    restart: bool = False


@dataclass(frozen=True)
class Trained:
    """The result of ``finetune``."""

    path: Path
    checkpoint: Checkpoint
    scores: Scores  # on the validation part
    seconds: float  # in all sessions; a resumed run has several
    sessions: int
    advice: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """The object that ``--json`` prints."""
        frozen = self.checkpoint.frozen
        return {
            "checkpoint": str(self.path),
            "metrics": self.checkpoint.metrics,
            "seconds": round(self.seconds, 2),
            "sessions": self.sessions,
            "frozen": {"stages": list(frozen.stages), "parameters": frozen.parameters},
            "interrupted": self.checkpoint.interrupted,
            "advice": list(self.advice),
        }


def finetune(
    data: str, recipe: Recipe, out: Path | None, settings: FinetuneSettings | None = None, *, progress: Progress | None = None
) -> Trained:
    """Fine-tune a network on a set of images and write a checkpoint.

    Under ``torchrun`` every process calls this function; the first process writes and reports.

    Args:
        data: a folder of class folders, a folder with train/ val/ test/, a table, or ``demo:digits``.
        recipe: what is trained, and how.
        out: the checkpoint directory to write; an earlier checkpoint there is replaced. None: a new directory under ``runs/``.
        settings: how the training runs.
        progress: receives progress and notes.

    Raises:
        TlxError: see errors.py. No checkpoint is written; the state that ``resume`` continues from is kept.
        UsageError: another process is writing ``out``, or an interrupted run for it can be resumed.
        KeyboardInterrupt: interrupted before the first epoch ended or after training. An interruption during training writes a
            checkpoint with ``interrupted`` set.
    """
    settings = settings or FinetuneSettings()
    with ExitStack() as stack:
        team = stack.enter_context(workers())
        stack.enter_context(cpu_threads(settings.threads))
        if out is None and team.count > 1:
            raise UsageError("several processes need the same output directory", "give it with --out")
        path = out if out is not None and not team.first else stack.enter_context(place_of_run(out, recipe.backbone))
        return _Run(data, recipe, path, settings, team, (progress if team.first else None) or Silent()).carry_out()


@dataclass(frozen=True)
class _Task:
    """The network of a run, what is trained of it and when, and the images."""

    network: Network
    preprocess: Preprocess
    boundary: int | None  # number of stages that --freeze keeps frozen
    phases: tuple[Phase, ...]
    frozen: Frozen
    dataset: Dataset
    train: LabelledImages
    val: LabelledImages
    health: TrainingHealth


class _Run:
    """One call of the verb: the values that its steps share."""

    def __init__(self, data: str, recipe: Recipe, out: Path, settings: FinetuneSettings, team: Workers, progress: Progress) -> None:
        self.data, self.out, self.settings, self.team = data, out, settings, team
        self.progress = Stopwatch(progress)
        self.recipe = recipe
        self.device = team.device(device_for("torch", settings.device))
        self.cache = ArrayCache(cache_folder() / "arrays" if settings.cache else None)
        self.threads = settings.threads or torch.get_num_threads()
        self.features: Tensor | None = None  # of the training images, see Trainer

    def carry_out(self) -> Trained:
        """Train, validate, write, and last remove the saved state. The state stays if Ctrl-C ended training early."""
        saver = Saver(self.out, self.team.first)
        if self.team.first and not (self.settings.resume or self.settings.restart):
            expect_nothing_to_resume(self.out, self.data)
        tracker = choose_tracker(self.settings.tracker)
        task = self._prepare()
        with self._resumable(saver):
            recipe, result = self._train(task, tracker, saver)
            trained = self._write(task, recipe, result)
        if saver.conclude(result.interrupted):
            self.progress.note(f"to continue the training: {resume_command(self.out, self.data)}")
        return trained

    def _prepare(self) -> _Task:
        """Read the images, build the network, plan the phases."""
        listing = read_source(self.data)
        self._note_all(listing.notes)
        torch.manual_seed(self.recipe.seed)
        network = initial_network(self.recipe, len(listing.classes))
        self.recipe = decided(self.recipe, last_linear(network.stages["head"]) is not None)
        preprocess = preprocess_for(self.recipe)
        boundary = None
        if self.recipe.freeze is not None:
            boundary = boundary_of(self.recipe.freeze, self.recipe.backbone, tuple(network.stages))
        phases = plan_phases(self.recipe, tuple(network.stages), boundary)
        with self.progress.task("reading images", len(listing.entries)) as advance:
            decoded = decode_all(listing, preprocess, self.settings.on_error, self.threads, advance, self.cache, reduced=True)
        dataset, notes = split(decoded.listing, decoded.sha256, self.recipe.val_fraction, self.recipe.seed)
        frozen = frozen_record(network, min(phase.frozen for phase in phases))
        counts = [sum(sample.label == label for sample in dataset.part("train")) for label in range(len(listing.classes))]
        advice = before_training(self.recipe, counts, frozen.total_parameters, self.settings.budget_bytes)
        notes = (*decoded.notes(), *notes)
        health = TrainingHealth.before(decoded, dataset, preprocess.size, notes, self.progress, self.team.first)
        self._note_all((*notes, *health.notes(), *advice, frozen.describe()))
        train, val = (self._part(decoded, dataset, part, preprocess) for part in ("train", "val"))
        return _Task(network, preprocess, boundary, phases, frozen, dataset, train, val, health)

    @contextmanager
    def _resumable(self, saver: Saver) -> Iterator[None]:
        """From the first epoch to the last file: on an error or Ctrl-C, note how to resume."""
        try:
            yield
        except BaseException as error:
            if (state := saver.abandon()) and not isinstance(error, UsageError | InvalidFile):
                self.progress.note(f"{state} with: {resume_command(self.out, self.data)}")
            raise

    def _note_all(self, notes: Sequence[str]) -> None:
        for note in notes:
            self.progress.note(note)

    def _train(self, task: _Task, tracker: Tracker, saver: Saver) -> tuple[Recipe, TrainingResult]:
        """Train, resume, or read a training that had ended. Returns the recipe with the learning rate that was used."""
        finished = finished_run(self.out) if self.settings.resume else None
        if finished is not None:
            result = result_of_checkpoint(self.out, finished, task.network, task.dataset, task.phases)
            self.progress.add(result.times())
            self.progress.note(f"the training for {self.out} had ended; validating and writing the checkpoint again")
            return finished.recipe, result
        if not self.settings.resume:
            if saver.begun:
                self.progress.note(f"discarding the state of an interrupted run for {self.out}")
            saver.forget()
            self.team.wait()
        saved = saver.begin(self.data, self.recipe, dataset_digest(task.dataset), self.threads)
        if saved:
            with saver.reading():
                self.progress.add(saved["watch"])
        trainer = Trainer(task.network, task.preprocess, self.recipe, self.device, self.progress, self.team, self.cache)
        phases = self._phases(trainer, task, saver, saved)
        with tracking(tracker if self.team.first else "none", self.out, trainer.recipe) as report:
            result = trainer.fit(phases, task.train, task.val, saver, saved, report, self.progress.state)
        self.features = trainer.features
        return trainer.recipe, result

    def _phases(self, trainer: Trainer, task: _Task, saver: Saver, saved: dict[str, Any] | None) -> tuple[Phase, ...]:
        """The phases to train. For ``lr = "auto"``, find the rate (or read it from the saved state) and put it into the recipe."""
        if self.recipe.lr != "auto":
            return task.phases
        if saved:
            with saver.reading():
                lr = number(saved["lr"], "the rate", 0)
        else:
            lr = trainer.find_lr(task.phases[0], task.train, task.val)
        trainer.recipe = self.recipe.model_copy(update={"lr": lr})
        phases = plan_phases(trainer.recipe, tuple(task.network.stages), task.boundary)
        self.progress.note(f"learning rate found: {lr:g}")
        return phases

    def _write(self, task: _Task, recipe: Recipe, result: TrainingResult) -> Trained:
        """Validate the network and write the checkpoint with its report."""
        # the unfolded network, which the checkpoint stores, through the code that measures the accuracy of every exported model
        with TorchRunner(task.network, task.preprocess, RunOptions(device=str(self.device))) as runner:
            outputs = probabilities(runner, task.val, BATCH, self.progress, "validating")
        labels = task.val.labels.tolist()
        scores = score(outputs, labels, task.dataset.classes)
        advice = result.advice(recipe, scores)
        self._note_all(advice)
        record = Checkpoint(
            recipe=recipe,
            classes=task.dataset.classes,
            preprocess=task.preprocess,
            metrics=result.metrics(scores),
            frozen=task.frozen,
            weights_sha256="",
            versions={"tlexport": __version__} | {name: importlib.metadata.version(name) for name in RECORDED_LIBRARIES},
            initial_weights=task.network.initial_weights,
            interrupted=result.interrupted,
        )

        def report(written: Checkpoint) -> str:
            validated = Validated(scores, outputs, labels, [sample.path for sample in task.dataset.part("val")], task.val.image)
            history = [dataclasses.asdict(epoch) for epoch in result.history]
            times = RunTimes(self.progress.steps, self.progress.seconds, self.progress.sessions)
            section = task.health.section(outputs, self.features, recipe.seed)
            return finetune_report(written, task.dataset.source, history, validated, times, advice, section)

        if self.team.first:
            record = write_checkpoint(self.out, task.network, record, task.dataset, result.history, scores.confusion, report)
            point_latest_at(self.out, self.progress)
        self.team.wait()
        return Trained(self.out, record, scores, self.progress.seconds, self.progress.sessions, tuple(advice))

    def _part(self, decoded: Decoded, dataset: Dataset, part: Part, preprocess: Preprocess) -> LabelledImages:
        samples = dataset.part(part)
        pixels, rows = decoded.pixels, decoded.rows(samples)
        # validation uses the exact pixels that the device computes
        exact = exact_pixels([dataset.file(sample) for sample in samples], preprocess, self.threads, self.cache) if part == "val" else None
        if exact is not None:
            pixels, rows = exact, np.arange(len(samples))
        labels = torch.tensor([sample.label for sample in samples], dtype=torch.int64)
        digest = images_digest(part, preprocess, [sample.sha256 for sample in samples])
        teacher = None
        if self.recipe.teacher is not None and part == "train":
            teacher = teacher_logits(Path(self.recipe.teacher), dataset, str(self.device), self.threads, self.progress)
        return LabelledImages(pixels, labels, digest, rows, teacher)

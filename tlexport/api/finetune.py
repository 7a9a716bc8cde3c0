"""The verb ``finetune``: images in, a checkpoint out."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tlexport.accuracy import Probabilities, Scores, probabilities, score
from tlexport.api.finetune_report import Stopwatch, advice_after, metrics_of, report_of
from tlexport.checkpoint import Checkpoint
from tlexport.contract import Preprocess
from tlexport.data.decode import Decoded, decode_all, decode_files, exact_pixels
from tlexport.data.source import read_source
from tlexport.data.split import split
from tlexport.dataset import Dataset, Part
from tlexport.errors import InvalidFile, UsageError
from tlexport.loading.model import device_for, load
from tlexport.loading.runs import expect_nothing_to_resume, place_of_run, point_latest_at, resume_command
from tlexport.network import Network, cpu_threads
from tlexport.ports import Progress, RunOptions, Silent
from tlexport.recipe import Recipe
from tlexport.runtimes.torch import TorchRunner
from tlexport.storage.cache import ArrayCache, cache_folder
from tlexport.train.advice import before_training
from tlexport.train.distributed import Workers, workers
from tlexport.train.finished import as_trained, finished_run, spent
from tlexport.train.fit import Fit, Trainer
from tlexport.train.frozen import frozen_record
from tlexport.train.images import Images
from tlexport.train.phases import Phase, boundary_of, plan_phases, usual_lr
from tlexport.train.resume import Saver, dataset_digest
from tlexport.train.saved_state import number
from tlexport.train.trackers import Tracker, choose_tracker, tracking
from tlexport.train.weights import initial_network, preprocess_for
from tlexport.train.write_checkpoint import write_checkpoint
from tlexport.version import __version__

LIBRARIES = ("torch", "torchvision", "numpy", "pillow", "safetensors")
EVALUATION_BATCH = 16


@dataclass(frozen=True)
class Trained:
    """The result of ``finetune``."""

    path: Path
    checkpoint: Checkpoint
    scores: Scores  # on the validation part
    seconds: float  # in all sessions, of which there are several where the run was resumed
    sessions: int
    advice: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """For ``--json``."""
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


@dataclass(frozen=True)
class _How:
    """How a run is carried out; nothing here changes what is asked of it."""

    device: str
    threads: int | None
    on_error: Literal["skip", "fail"] | None
    cache: bool
    tracker: Tracker
    budget_bytes: int | None
    resume: bool
    restart: bool


def finetune(
    data: str,
    recipe: Recipe,
    out: Path | None,
    *,
    device: str = "auto",
    threads: int | None = None,
    on_error: Literal["skip", "fail"] | None = None,
    cache: bool = True,
    tracker: Tracker = "auto",
    budget_bytes: int | None = None,
    resume: bool = False,
    restart: bool = False,
    progress: Progress | None = None,
) -> Trained:
    """Adapt a pretrained network to a set of images.

    Under ``torchrun`` every process calls this alike; the first one writes and reports.

    Args:
        data: DATA of the command line: a folder of class folders, one with train/ val/ test/, a table, or ``demo:digits``.
        recipe: what to train and how.
        out: the checkpoint directory to write; an earlier checkpoint there is replaced. None: a new one under ``runs/``.
        device: ``auto`` (a CUDA GPU if there is one), ``cpu`` or ``cuda[:N]``.
        threads: CPU threads; None: torch's choice. With the same number, CPU runs of one recipe give the same weights.
        on_error: what to do about images that cannot be read; None: skip up to 5 %, else fail.
        cache: keep decoded images and features for the next run.
        tracker: where epochs are reported beside ``history.jsonl``; ``auto``: TensorBoard where it is installed.
        budget_bytes: largest model file of the target, if one was named, for advice.
        resume: continue the run that was to write ``out`` and was killed; the same data and recipe are required. A checkpoint
            whose training had ended is validated and written again, with its report.
        restart: discard the state of an interrupted run for ``out``, which otherwise stops a new one from beginning.
        progress: receives progress and notes.

    Raises:
        TlxError: see errors.py. No checkpoint is written then; what ``resume`` continues from stays.
        UsageError: another process is writing ``out``, or an interrupted run for it can be resumed.
        KeyboardInterrupt: interrupted before an epoch ended, or after training; between them a checkpoint is written with
            ``interrupted`` set.
    """
    how = _How(device, threads, on_error, cache, tracker, budget_bytes, resume, restart)
    with ExitStack() as stack:
        team = stack.enter_context(workers())
        stack.enter_context(cpu_threads(threads))
        if out is None and team.count > 1:
            raise UsageError("several processes need the same directory to write", "name it with --out")
        path = out if out is not None and not team.first else stack.enter_context(place_of_run(out, recipe.backbone))
        return _Run(data, recipe, path, how, team, (progress if team.first else None) or Silent()).carry_out()


class _Run:
    """One run of the verb."""

    def __init__(self, data: str, recipe: Recipe, out: Path, how: _How, team: Workers, progress: Progress) -> None:
        self.data, self.out, self.how, self.team = data, out, how, team
        self.progress = Stopwatch(progress)
        self.recipe = recipe if recipe.lr is not None else recipe.model_copy(update={"lr": usual_lr(recipe)})
        self.device = team.device(device_for("torch", how.device))
        self.cache = ArrayCache(cache_folder() / "arrays" if how.cache else None)
        self.threads = how.threads or torch.get_num_threads()

    def carry_out(self) -> Trained:
        """Train, validate, write; the state for ``--resume`` goes last. It stays where Ctrl-C ended training early."""
        saver = Saver(self.out, self.team.first)
        if self.team.first and not (self.how.resume or self.how.restart):
            expect_nothing_to_resume(self.out, self.data)
        tracker = choose_tracker(self.how.tracker)
        listing = read_source(self.data)
        self._tell(listing.notes)
        torch.manual_seed(self.recipe.seed)
        network = initial_network(self.recipe, len(listing.classes))
        preprocess = preprocess_for(self.recipe)
        boundary = None
        if self.recipe.freeze is not None:
            boundary = boundary_of(self.recipe.freeze, self.recipe.backbone, tuple(network.stages))
        phases = plan_phases(self.recipe, tuple(network.stages), boundary)
        with self.progress.task("reading images", len(listing.entries)) as advance:
            decoded = decode_all(listing, preprocess, self.how.on_error, self.threads, advance, self.cache, reduced=True)
        dataset, notes = split(decoded.listing, decoded.sha256, self.recipe.val_fraction, self.recipe.seed)
        frozen = frozen_record(network, min(phase.frozen for phase in phases))
        counts = [sum(sample.label == label for sample in dataset.part("train")) for label in range(len(listing.classes))]
        advice = before_training(self.recipe, counts, frozen.total_parameters, self.how.budget_bytes)
        self._tell((*decoded.notes(), *notes, *advice, frozen.describe()))
        train, val = (self._part(decoded, dataset, part, preprocess) for part in ("train", "val"))
        with self._kept(saver):
            recipe, fit = self._fit(network, preprocess, phases, boundary, dataset, train, val, tracker, saver)
            outputs = _answers(network, preprocess, self.device, val, self.progress)
            scores = score(outputs, val.labels.tolist(), listing.classes)
            told = advice_after(recipe, fit, scores)
            self._tell(told)
            record = Checkpoint(
                recipe=recipe,
                classes=listing.classes,
                preprocess=preprocess,
                metrics=metrics_of(fit, scores),
                frozen=frozen,
                weights_sha256="",
                versions={"tlexport": __version__} | {name: importlib.metadata.version(name) for name in LIBRARIES},
                interrupted=fit.interrupted,
            )
            if self.team.first:
                record = write_checkpoint(
                    self.out,
                    network,
                    record,
                    dataset,
                    fit.history,
                    scores.confusion,
                    lambda written: report_of(written, dataset, fit, val, outputs, scores, told, self.progress),
                )
                point_latest_at(self.out, self.progress)
            self.team.wait()
        if saver.conclude(fit.interrupted):
            self.progress.note(f"training can go on: {resume_command(self.out, self.data)}")
        return Trained(self.out, record, scores, self.progress.seconds, self.progress.sessions, tuple(told))

    @contextmanager
    def _kept(self, saver: Saver) -> Iterator[None]:
        """Around everything from the first epoch to the last file: what fails or is interrupted in there can be resumed."""
        try:
            yield
        except BaseException as error:
            if (kept := saver.abandon()) and not isinstance(error, UsageError | InvalidFile):
                self.progress.note(f"{kept} with: {resume_command(self.out, self.data)}")
            raise

    def _tell(self, notes: tuple[str, ...] | list[str]) -> None:
        for note in notes:
            self.progress.note(note)

    def _fit(
        self,
        network: Network,
        preprocess: Preprocess,
        phases: tuple[Phase, ...],
        boundary: int | None,
        dataset: Dataset,
        train: Images,
        val: Images,
        tracker: Tracker,
        saver: Saver,
    ) -> tuple[Recipe, Fit]:
        """Train, or go on training; the recipe as used, with a rate where one was to be found."""
        finished = finished_run(self.out) if self.how.resume else None
        if finished is not None:
            fit = as_trained(self.out, finished, network, dataset, phases)
            self.progress.add(spent(fit))
            self.progress.note(f"training for {self.out} had ended; validating and writing it again")
            return finished.recipe, fit
        if not self.how.resume:
            if saver.begun:
                self.progress.note(f"what an interrupted run for {self.out} left is discarded")
            saver.forget()
            self.team.wait()
        saved = saver.begin(self.data, self.recipe, dataset_digest(dataset), self.threads)
        if saved:
            with saver.reading():
                self.progress.add(saved["watch"])
        return self._train(network, preprocess, phases, boundary, train, val, tracker, saver, saved)

    def _train(
        self,
        network: Network,
        preprocess: Preprocess,
        phases: tuple[Phase, ...],
        boundary: int | None,
        train: Images,
        val: Images,
        tracker: Tracker,
        saver: Saver,
        saved: dict[str, Any] | None,
    ) -> tuple[Recipe, Fit]:
        trainer = Trainer(network, preprocess, self.recipe, self.device, self.progress, self.team, self.cache)
        if self.recipe.lr == "auto":
            if saved:
                with saver.reading():
                    lr = number(saved["lr"], "the rate", 0)
            else:
                lr = trainer.find_lr(phases[0], train, val)
            trainer.recipe = self.recipe.model_copy(update={"lr": lr})
            phases = plan_phases(trainer.recipe, tuple(network.stages), boundary)
            self.progress.note(f"learning rate found: {lr:g}")
        with tracking(tracker if self.team.first else "none", self.out, trainer.recipe) as report:
            return trainer.recipe, trainer.fit(phases, train, val, saver, saved, report, self.progress.state)

    def _part(self, decoded: Decoded, dataset: Dataset, part: Part, preprocess: Preprocess) -> Images:
        samples = dataset.part(part)
        pixels, rows = decoded.pixels, decoded.rows(samples)
        # what is validated is exactly what the device will see
        exact = exact_pixels([dataset.file(sample) for sample in samples], preprocess, self.threads, self.cache) if part == "val" else None
        if exact is not None:
            pixels, rows = exact, np.arange(len(samples))
        labels = torch.tensor([sample.label for sample in samples], dtype=torch.int64)
        lines = [part, preprocess.model_dump_json(), *(sample.sha256 for sample in samples)]
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        teacher = self._teacher(dataset, part) if self.recipe.teacher is not None and part == "train" else None
        return Images(pixels, labels, digest, rows, teacher)

    def _teacher(self, dataset: Dataset, part: Part) -> Tensor:
        """Logits of the teacher on the images as they are, through its own preprocessing: float32 (image, class)."""
        path = Path(self.recipe.teacher or "")
        teacher = load(path).runnable()
        if teacher.classes != dataset.classes:
            raise InvalidFile(f"the teacher {path} knows other classes than {self.data}", "train a teacher on the same classes")
        pixels, _ = decode_files([dataset.file(sample) for sample in dataset.part(part)], teacher.preprocess, self.threads)
        with teacher.open(str(self.device), None) as runner:
            outputs = probabilities(runner, pixels, EVALUATION_BATCH, self.progress, "teacher")
        return torch.from_numpy(outputs).clamp_min(1e-8).log()


def _answers(network: Network, preprocess: Preprocess, device: torch.device, val: Images, progress: Progress) -> Probabilities:
    """Those of the unfolded network, which is what the checkpoint holds, by the code that measures any exported model's accuracy."""
    with TorchRunner(network, preprocess, RunOptions(device=str(device))) as runner:
        return probabilities(runner, val, EVALUATION_BATCH, progress, "validating")

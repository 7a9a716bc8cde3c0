"""One running phase of training: its epochs, early stopping, and the state for ``--resume``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from tlexport.ports import Task
from tlexport.recipe import Recipe
from tlexport.train.augment import mix_batch
from tlexport.train.distributed import Workers
from tlexport.train.inputs import Inputs
from tlexport.train.loop import (
    Epoch,
    batches,
    compiled,
    evaluate,
    falling_back_to_eager,
    make_optimizer,
    quicken_batch_norm,
    rate,
    training,
)
from tlexport.train.objective import Objective, balanced_indices
from tlexport.train.phases import Phase
from tlexport.train.saved_state import check_optimizer, check_phase

COMPILING_PAYS_FROM = 300.0  # remaining seconds of training; compiling takes about one minute and saves tens of percent


def _averaging(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """Exponential moving average whose decay grows with the steps, so that the start does not dominate in a short run."""

    def average(kept: Tensor, new: Tensor, count: Tensor | int) -> Tensor:
        now = min(decay, (1 + int(count)) / (10 + int(count)))
        return kept * now + new * (1 - now) if kept.is_floating_point() else new

    return average


class PhaseRun:
    """A running phase: the trained stages with optimizer, schedule, moving average and early stopping.

    Every epoch starts by seeding torch from the recipe's seed and the epoch's number, so that an epoch depends on nothing
    but this object's :meth:`state` and its number: a run resumed from a saved state computes the same bits.
    """

    def __init__(
        self, stages: Sequence[nn.Module], train: Inputs, val: Inputs, phase: Phase, recipe: Recipe, objective: Objective, workers: Workers
    ) -> None:
        self.train, self.val, self.phase, self.recipe, self.objective, self.workers = train, val, phase, recipe, objective, workers
        self.top = nn.Sequential(*stages).eval()
        quicken_batch_norm(self.top)
        self.optimizer = make_optimizer(stages, recipe, phase.lr)
        steps = phase.epochs * len(batches(torch.arange(len(train)), recipe.batch_size))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: rate(step, steps, recipe))
        self.average = AveragedModel(self.top, avg_fn=_averaging(recipe.ema), use_buffers=True) if recipe.ema else None
        self.wrapped = workers.wrap(self.top, train.device)
        self.done = 0  # epochs of this phase
        self.lowest, self.waited = math.inf, 0
        self.on_gpu = train.device.type == "cuda"

    def state(self) -> dict[str, Any]:
        """All inputs of the next epoch, as tensors and plain data."""
        return {
            "top": self.top.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.last_epoch,
            "average": self.average.state_dict() if self.average else None,
            "done": self.done,
            "lowest": self.lowest,
            "waited": self.waited,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a :meth:`state`. Raises ValueError, or an error of torch, if it belongs to another phase."""
        check_phase(state, self.phase, self.top, self.average)
        self.top.load_state_dict(state["top"])
        self.optimizer.load_state_dict(state["optimizer"])
        check_optimizer(self.optimizer)
        self.schedule.last_epoch = state["schedule"]
        if self.average:
            self.average.load_state_dict(state["average"])
        self.done, self.lowest, self.waited = state["done"], state["lowest"], state["waited"]

    @property
    def finished(self) -> bool:
        """All epochs done, or the validation loss has not fallen for ``patience`` epochs."""
        return self.done >= self.phase.epochs or self.waited >= self.recipe.patience

    def epochs(self, first: int, advance: Task, settled: Callable[[], None]) -> Iterator[Epoch]:
        """Train until finished.

        While an epoch is being looked at, ``top`` holds the weights that were validated: with a moving average, the average.

        Args:
            first: number of the phase's first epoch.
            advance: moved on by the number of images.
            settled: called after each epoch was looked at, when :meth:`state` is again what the next one depends on.
        """
        while not self.finished:
            number = first + self.done
            started = time.perf_counter()
            lr = self.optimizer.param_groups[0]["lr"]
            train_loss, train_top1, waited = self._train_epoch(number, advance)
            trained = time.perf_counter() - started
            with self._averaged():
                val_loss, val_top1 = evaluate(self.top, self.val)
                self.done += 1
                self.waited = 0 if val_loss < self.lowest else self.waited + 1
                self.lowest = min(self.lowest, val_loss)
                seconds = round(time.perf_counter() - started, 3)
                speed, share = round(len(self.train) / trained, 1), round(waited / trained, 4)
                epoch = Epoch(self.phase.name, number, lr, train_loss, train_top1, val_loss, val_top1, speed, share, seconds)
                advance(0, f"epoch {number}/{self.recipe.epochs} {epoch.describe()}\n")
                yield epoch
            settled()
            self._compile_if_it_pays(seconds)

    def _compile_if_it_pays(self, seconds: float) -> None:
        """After the first epoch of this process: compile if the remaining epochs are long enough to save more time than it costs."""
        left = seconds * (self.phase.epochs - self.done)
        if self.wrapped is self.top and self.on_gpu and left > COMPILING_PAYS_FROM:
            self.wrapped = compiled(self.top)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        if self.average is None:
            yield
            return
        raw = {name: tensor.clone() for name, tensor in self.top.state_dict().items()}
        self.top.load_state_dict(self.average.module.state_dict())
        try:
            yield
        finally:
            self.top.load_state_dict(raw)

    def _order(self, generator: torch.Generator) -> Tensor:
        if self.recipe.balance == "sampler":
            return balanced_indices(self.train.labels, self.objective.num_classes, generator)
        return torch.randperm(len(self.train), generator=generator)

    def _train_epoch(self, number: int, advance: Task) -> tuple[float, float, float]:
        """One pass over the training images; mean loss, running top-1 accuracy (0..1), seconds spent waiting for the images."""
        seed = self.recipe.seed * 1_000_003 + number
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        loss_sum, right, seen, waited = 0.0, 0.0, 0, 0.0
        parts = batches(self._order(generator), self.recipe.batch_size)
        started = asked = time.perf_counter()
        with training(self.wrapped), falling_back_to_eager(self.on_gpu):
            loading = self.train.loaded(map(self.workers.share, parts), number)
            for indices, (share, loaded) in zip(parts, loading, strict=True):
                waited += time.perf_counter() - asked
                loss, correct = self.step(self.wrapped, share, self.train.see(loaded, generator), generator)
                self._update(loss)
                seen += len(share)
                loss_sum += loss.item() * len(share)
                right += correct
                speed = self.workers.count * seen / (time.perf_counter() - started)
                advance(len(indices), f"loss {loss_sum / seen:.3f}, top-1 {100 * right / seen:.1f} %, {speed:.0f} img/s")
                asked = time.perf_counter()
        loss_sum, right, total = self.workers.total(loss_sum, right, seen)
        return loss_sum / total, right / total, waited

    def _update(self, loss: Tensor) -> None:
        """One step of the optimizer, the schedule and the moving average."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(self.top.parameters(), self.recipe.clip)
        self.optimizer.step()
        self.schedule.step()
        if self.average:
            self.average.update_parameters(self.top)

    def step(self, top: nn.Module, indices: Tensor, inputs: Tensor, generator: torch.Generator) -> tuple[Tensor, int]:
        """Loss and number of right answers of one batch: image indices int64 (batch,), inputs float32 (batch, ...)."""
        labels = self.train.labels[indices].to(self.train.device)
        targets = self.objective.targets(labels)
        teacher = None if self.train.teacher is None else self.train.teacher[indices].to(self.train.device)
        if self.recipe.augment == "strong":
            inputs, mix = mix_batch(inputs, generator)
            targets = mix.blend(targets)
            teacher = None if teacher is None else mix.blend(teacher)
        # bfloat16 needs no loss scaling, but is slower on CPUs without its matrix units: only on a GPU
        with torch.autocast("cuda", torch.bfloat16) if self.on_gpu else nullcontext():
            logits = top(inputs)
        logits = logits.float()
        return self.objective(logits, targets, teacher), int((logits.argmax(1) == labels).sum())

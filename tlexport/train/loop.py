"""The training loop of one phase: batches in, gradient steps, validation, early stopping."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlexport.ports import Task
from tlexport.recipe import Recipe
from tlexport.train.phases import Phase

EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Inputs:
    """What the trained stages see of one part of the data.

    ``batch`` maps image indices int64 (batch,) and a generator to float32 (batch, ...) on ``device``; with kept
    features it is an array look-up, otherwise it runs the frozen stages.
    """

    batch: Callable[[Tensor, torch.Generator], Tensor]
    labels: Tensor  # int64 (image,), host memory
    device: torch.device

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Epoch:
    """One line of history.jsonl. Accuracies 0..1; the rate is the one of the last step."""

    phase: str
    epoch: int  # counted over all phases, from 1
    lr: float
    train_loss: float
    train_top1: float
    val_loss: float
    val_top1: float
    images_per_s: float
    seconds: float

    @property
    def rank(self) -> tuple[float, float]:
        """Greater is better: validation accuracy, then validation loss."""
        return (self.val_top1, -self.val_loss)


def quicken_batch_norm(module: nn.Module) -> None:
    """Let running statistics follow within tens of steps.

    torchvision's MobileNetV3, EfficientNet and MNASNet carry momenta down to 0.0003, made for hundreds of thousands of steps;
    in a run of a few hundred the statistics would still be the initial ones, and validation at chance. 0.1 is torch's default.
    """
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.momentum is not None:
            norm.momentum = max(norm.momentum, 0.1)


@contextmanager
def training(module: nn.Module) -> Iterator[None]:
    """Training mode for a while, evaluation mode afterwards."""
    module.train()
    try:
        yield
    finally:
        module.eval()


def make_optimizer(top: nn.Module, recipe: Recipe, lr: float) -> torch.optim.Optimizer:
    """AdamW or SGD with momentum; no weight decay on biases and norms (parameters of one dimension)."""
    groups = [
        {"params": [p for p in top.parameters() if p.dim() > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in top.parameters() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=lr)


def rate(step: int, steps: int, warmup: float) -> float:
    """Factor on the peak rate: linear warm-up over ``warmup`` of the steps, then a cosine to zero (Loshchilov and Hutter 2017)."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def batches(count: int, size: int, generator: torch.Generator) -> list[Tensor]:
    """A shuffled pass over ``count`` images, int64 indices. A lone last image joins the batch before it: BatchNorm needs two."""
    parts = list(torch.randperm(count, generator=generator).split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def evaluate(top: nn.Module, inputs: Inputs) -> tuple[float, float]:
    """Mean cross-entropy and top-1 accuracy (0..1) of the trained stages over a part."""
    loss, right, generator = 0.0, 0, torch.Generator()
    with torch.no_grad():
        for indices in torch.arange(len(inputs)).split(EVALUATION_BATCH):
            logits = top(inputs.batch(indices, generator)).float()
            labels = inputs.labels[indices].to(inputs.device)
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            right += int((logits.argmax(1) == labels).sum())
    return loss / len(inputs), right / len(inputs)


def run_phase(top: nn.Module, train: Inputs, val: Inputs, phase: Phase, recipe: Recipe, first_epoch: int, advance: Task) -> Iterator[Epoch]:
    """Train ``top`` epoch by epoch, yielding after each; stops early when the validation loss no longer falls.

    Every epoch starts by seeding torch from the recipe's seed and the epoch's number, so that an epoch depends on
    nothing but the weights, the optimizer and its number.
    """
    quicken_batch_norm(top)
    optimizer = make_optimizer(top, recipe, phase.lr)
    steps = phase.epochs * len(batches(len(train), recipe.batch_size, torch.Generator()))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps, recipe.warmup))
    lowest, waited = math.inf, 0
    for epoch in range(first_epoch, first_epoch + phase.epochs):
        started = time.perf_counter()
        seed = recipe.seed * 1_000_003 + epoch
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        lr = optimizer.param_groups[0]["lr"]
        train_loss, train_top1 = _train_epoch(top, train, optimizer, schedule, recipe, generator, advance)
        speed = len(train) / (time.perf_counter() - started)
        val_loss, val_top1 = evaluate(top, val)
        advance(0, f"loss {train_loss:.3f}, val {100 * val_top1:.1f} %")
        yield Epoch(
            phase.name, epoch, lr, train_loss, train_top1, val_loss, val_top1, round(speed, 1), round(time.perf_counter() - started, 3)
        )
        waited = 0 if val_loss < lowest else waited + 1
        lowest = min(lowest, val_loss)
        if waited >= recipe.patience:
            return


def _train_epoch(
    top: nn.Module,
    train: Inputs,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    recipe: Recipe,
    generator: torch.Generator,
    advance: Task,
) -> tuple[float, float]:
    """One pass over the training images; mean loss and running top-1 accuracy (0..1)."""
    loss_sum, right, seen = 0.0, 0, 0
    started = time.perf_counter()
    with training(top):
        for indices in batches(len(train), recipe.batch_size, generator):
            labels = train.labels[indices].to(train.device)
            logits = top(train.batch(indices, generator)).float()
            loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            seen += len(indices)
            loss_sum += loss.item() * len(indices)
            right += int((logits.argmax(1) == labels).sum())
            speed = seen / (time.perf_counter() - started)
            advance(len(indices), f"loss {loss_sum / seen:.3f}, top-1 {100 * right / seen:.1f} %, {speed:.0f} images/s")
    return loss_sum / seen, right / seen

"""The parts of a training step: batches, optimizer, learning rate, and validation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlexport.recipe import Recipe
from tlexport.train.inputs import Inputs

EVALUATION_BATCH = 64


@dataclass(frozen=True)
class Epoch:
    """One line of history.jsonl. Accuracies 0..1; the rate is that of the first step."""

    phase: str
    epoch: int  # counted over all phases, from 1
    lr: float
    train_loss: float
    train_top1: float
    val_loss: float
    val_top1: float
    images_per_s: float
    wait_share: float  # of the training time, 0..1: waiting for the images to be loaded
    seconds: float

    @property
    def rank(self) -> tuple[float, float]:
        """Greater is better: validation accuracy, then validation loss."""
        return (self.val_top1, -self.val_loss)

    def describe(self) -> str:
        """One line of progress for the user."""
        train = f"loss {self.train_loss:.3f}, top-1 {100 * self.train_top1:.1f} %"
        return f"{self.phase}: {train}; val loss {self.val_loss:.3f}, top-1 {100 * self.val_top1:.1f} %; {self.seconds:.1f} s"


def quicken_batch_norm(module: nn.Module) -> None:
    """Make running statistics converge within tens of steps.

    torchvision's MobileNetV3, EfficientNet and MNASNet carry momenta down to 0.0003, made for hundreds of thousands of steps;
    in a run of a few hundred the statistics would still be the initial ones, and validation at chance. 0.1 is torch's default.
    """
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.momentum is not None:
            norm.momentum = max(norm.momentum, 0.1)


def compiled(module: nn.Module) -> nn.Module:
    """The same function of the same parameters, compiled when it is first called; call it inside :func:`falling_back_to_eager`."""
    return cast(nn.Module, torch.compile(module))


@contextmanager
def falling_back_to_eager(compiling: bool) -> Iterator[None]:
    """Run a compiled module uncompiled if the machine cannot compile it. Restores torch's global switch afterwards."""
    if not compiling:
        yield
        return
    import torch._dynamo

    with torch._dynamo.config.patch(suppress_errors=True):
        yield


@contextmanager
def training(module: nn.Module) -> Iterator[None]:
    """Training mode inside the block, evaluation mode afterwards."""
    module.train()
    try:
        yield
    finally:
        module.eval()


def make_optimizer(stages: Sequence[nn.Module], recipe: Recipe, lr: float) -> torch.optim.Optimizer:
    """AdamW or SGD with momentum over the trained stages, in order up to the head.

    A stage's rate is ``stage_decay`` times that of the stage above it (discriminative rates, Howard and Ruder 2018); biases
    and norms (parameters of one dimension) have no weight decay.
    """
    groups = []
    for depth, stage in enumerate(reversed(stages)):
        rate_here = lr * recipe.stage_decay**depth
        for decayed in (True, False):
            members = [p for p in stage.parameters() if (p.dim() > 1) == decayed]
            if members:
                groups.append({"params": members, "lr": rate_here, "weight_decay": recipe.weight_decay if decayed else 0.0})
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True, fused=True)
    return torch.optim.AdamW(groups, lr=lr, fused=True)


def rate(step: int, steps: int, recipe: Recipe) -> float:
    """Factor on the peak rate: a linear warm-up, then a cosine to zero (Loshchilov and Hutter 2017) or a constant.

    ``one-cycle`` warms up over at least 30 % of the steps (Smith and Topin 2018).
    """
    share = max(recipe.warmup, 0.3) if recipe.schedule == "one-cycle" else recipe.warmup
    rising = max(1, round(share * steps))
    if step < rising:
        return (step + 1) / rising
    if recipe.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def batches(order: Tensor, size: int) -> list[Tensor]:
    """An order of images, int64 (image,), cut into batches. A single last image joins the previous batch, because BatchNorm needs two."""
    parts = list(order.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def evaluate(top: nn.Module, inputs: Inputs) -> tuple[float, float]:
    """Mean cross-entropy and top-1 accuracy (0..1) of the trained stages over a part."""
    loss, right, generator = 0.0, 0, torch.Generator()
    with torch.no_grad():
        for indices, loaded in inputs.loaded(torch.arange(len(inputs)).split(EVALUATION_BATCH), 0):
            logits = top(inputs.see(loaded, generator)).float()
            labels = inputs.labels[indices].to(inputs.device)
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            right += int((logits.argmax(1) == labels).sum())
    return loss / len(inputs), right / len(inputs)

"""A classifier's phase without epochs: its last linear layer is solved on the features of the frozen stages."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlexport.train.inputs import Inputs
from tlexport.train.loop import EVALUATION_BATCH, Epoch
from tlexport.train.objective import Objective
from tlexport.train.solve import solve


def last_linear(head: nn.Module) -> tuple[nn.Module, nn.Linear] | None:
    """The layers of a classifier before its last linear one, and that one; None if it ends otherwise, as SqueezeNet's."""
    if isinstance(head, nn.Linear):
        return nn.Identity(), head
    if isinstance(head, nn.Sequential) and len(head) > 0 and isinstance(head[-1], nn.Linear):
        return head[:-1], head[-1]
    return None


def solve_head(head: nn.Module, train: Inputs, val: Inputs, objective: Objective, seed: int, number: int) -> Epoch:
    """Solve the last layer of a classifier, in place. The layers before it keep their weights.

    Args:
        head: a classifier for which :func:`last_linear` is not None, in evaluation mode.
        train: features of the training images.
        val: features of the validation images.
        objective: its class weights are used; the penalty takes the place of label smoothing.
        seed: of the folds of the cross-validation.
        number: of the epoch that stands for the solution in the history.

    Raises:
        ValueError: the classifier does not end in a linear layer.
    """
    found = last_linear(head)
    if found is None:
        raise ValueError("the classifier does not end in a linear layer")
    hidden, layer = found
    started = time.perf_counter()
    features, labels = _features(hidden, train), train.labels.to(train.device)
    solution = solve(features, labels, objective.num_classes, objective.class_weights, seed)
    with torch.no_grad():
        layer.weight.copy_(solution.weight)
        layer.bias.copy_(solution.bias)
    train_loss, train_top1 = _scores(solution.logits(features), labels)
    val_loss, val_top1 = _scores(solution.logits(_features(hidden, val)), val.labels.to(val.device))
    seconds = time.perf_counter() - started
    speed = round(len(train) / seconds, 1)
    return Epoch("head", number, 0.0, train_loss, train_top1, val_loss, val_top1, speed, 0.0, round(seconds, 3))


def _features(hidden: nn.Module, inputs: Inputs) -> Tensor:
    """Inputs of the last layer, float32 (image, feature), on the device."""
    generator = torch.Generator()
    with torch.no_grad():
        return torch.cat(
            [
                hidden(inputs.see(loaded, generator)).float()
                for _, loaded in inputs.loaded(torch.arange(len(inputs)).split(EVALUATION_BATCH), 0)
            ]
        )


def _scores(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean cross-entropy and top-1 accuracy, 0..1."""
    return F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).double().mean().item()

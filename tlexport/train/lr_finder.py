"""The learning-rate range test (Smith 2017, "Cyclical Learning Rates for Training Neural Networks")."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

LOWEST, HIGHEST = 1e-6, 1.0
RANGE_TEST_STEPS = 60
SMOOTHING = 0.9  # of the running mean of the loss
DIVERGED = 3.0  # the test stops at this multiple of the lowest loss


def find_lr(
    top: nn.Module, make_optimizer: Callable[[nn.Module, float], torch.optim.Optimizer], loss_of: Callable[[nn.Module, int], Tensor]
) -> float:
    """Raise the rate from 1e-6 to 1 over 60 steps on a copy of the trained stages, and take the one where the loss falls fastest.

    Args:
        top: the trained stages; not changed.
        make_optimizer: (module, rate) -> optimizer, as in training.
        loss_of: (module, step) -> the training loss of one batch.

    Returns:
        The rate, a third below the steepest descent of the smoothed loss over log rate, as a safe peak for a schedule.
    """
    module = copy.deepcopy(top).train()
    optimizer = make_optimizer(module, LOWEST)
    factor = (HIGHEST / LOWEST) ** (1 / (RANGE_TEST_STEPS - 1))
    rates: list[float] = []
    losses: list[float] = []
    running, lowest = 0.0, math.inf
    for step in range(RANGE_TEST_STEPS):
        rate = LOWEST * factor**step
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of(module, step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        running = SMOOTHING * running + (1 - SMOOTHING) * loss.item()
        smooth = running / (1 - SMOOTHING ** (step + 1))
        if not math.isfinite(smooth) or smooth > DIVERGED * lowest:
            break
        lowest = min(lowest, smooth)
        rates.append(rate)
        losses.append(smooth)
    return steepest(rates, losses)


def steepest(rates: list[float], losses: list[float]) -> float:
    """Two thirds of the rate at which the loss falls fastest per step; 1e-3 if it never falls."""
    slopes = [(after - before, rate) for before, after, rate in zip(losses, losses[1:], rates[1:], strict=False)]
    fall, rate = min(slopes, default=(0.0, 0.0))
    return float(f"{2 / 3 * rate:.2g}") if fall < 0 else 1e-3

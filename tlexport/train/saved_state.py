"""Checks that a saved state belongs to this run, before training continues from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tlexport.train.loop import Epoch
from tlexport.train.phases import Phase


def expect(holds: object, text: str) -> None:
    """Raise ValueError with ``text`` unless ``holds``."""
    if not holds:
        raise ValueError(text)


def whole(value: object, low: int, high: float, name: str) -> int:
    """A whole number in a range, both ends included. Raises ValueError."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r:.40}, a whole number from {low} to {high:g} was expected")
    return value


def number(value: object, name: str, low: float = -math.inf) -> float:
    """A finite number of at least ``low``. Raises ValueError."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not (math.isfinite(value) and value >= low):
        raise ValueError(f"{name} is {value!r:.40}, a finite number was expected")
    return float(value)


def check_history(history: Sequence[Epoch], phases: Sequence[Phase], phase: object) -> None:
    """Check that the phases up to ``phase`` can have given these epochs. Raises ValueError."""
    names = [known.name for known in phases[: whole(phase, 0, len(phases) - 1, "phase") + 1]]
    for position, epoch in enumerate(history, 1):
        expect(whole(epoch.epoch, 1, math.inf, "epoch") == position, f"epoch {position} has the number {epoch.epoch}")
        expect(epoch.phase in names, f"epoch {position} is of the phase {epoch.phase!r:.40}, which is not one of {', '.join(names)}")
        for name in ("lr", "train_loss", "val_loss", "images_per_s", "wait_share", "seconds"):
            number(getattr(epoch, name), f"{name} of epoch {position}")
        for name in ("train_top1", "val_top1"):
            expect(0 <= number(getattr(epoch, name), name) <= 1, f"{name} of epoch {position} is not from 0 to 1")


def check_tensors(found: Mapping[str, Any], own: Mapping[str, Tensor], needed: Iterable[str], what: str) -> None:
    """Check for finite tensors with the names, shapes and dtypes of ``own``, including all of ``needed``. Raises ValueError."""
    expect(isinstance(found, dict), f"{what} is no table of tensors")
    missing = [name for name in needed if name not in found]
    expect(not missing, f"{what} lack {', '.join(missing[:3])}")
    for name, tensor in found.items():
        expect(name in own, f"{what} hold {name!r:.60}, which the network does not have")
        expect(isinstance(tensor, Tensor), f"{name} of {what} is no tensor")
        expect(tensor.shape == own[name].shape, f"{name} of {what} has the shape {list(tensor.shape)}, expected {list(own[name].shape)}")
        expect(tensor.dtype == own[name].dtype, f"{name} of {what} is {tensor.dtype}, expected {own[name].dtype}")
        expect(bool(torch.isfinite(tensor).all()), f"{name} of {what} is not finite")


def check_phase(state: Mapping[str, Any], phase: Phase, top: nn.Module, average: nn.Module | None) -> None:
    """Check the state of a phase before it is loaded into the trained stages and their moving average. Raises ValueError."""
    done = whole(state["done"], 0, phase.epochs, "epochs done")
    whole(state["waited"], 0, done, "epochs waited")
    whole(state["schedule"], 0, math.inf, "steps done")
    expect(isinstance(state["lowest"], float) and not math.isnan(state["lowest"]), "the lowest loss is no number")
    own = top.state_dict()
    check_tensors(state["top"], own, own, "the weights of the phase")
    expect((state["average"] is None) == (average is None), "the moving average is there without being asked for, or missing")
    if average is not None:
        averaged = average.state_dict()
        check_tensors(state["average"], averaged, averaged, "the moving averages")


def check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Check the loaded state of the optimizer, which torch does not check. Raises ValueError."""
    for group in optimizer.param_groups:
        number(group["lr"], "the rate", 0)
        for parameter in group["params"]:
            for name, value in optimizer.state.get(parameter, {}).items():
                expect(isinstance(value, Tensor), f"{name} of the optimizer is no tensor")
                expect(value.shape in (parameter.shape, torch.Size([])), f"{name} of the optimizer has the shape {list(value.shape)}")
                expect(bool(torch.isfinite(value).all()), f"{name} of the optimizer is not finite")

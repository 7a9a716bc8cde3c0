"""Fine-tuning: the phases one after the other, each on what lies above its frozen stages; the best weights are kept."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from tlexport.contract import Preprocess
from tlexport.errors import StepFailed
from tlexport.network import Contract, Network
from tlexport.ports import Pixels, Progress
from tlexport.recipe import Recipe
from tlexport.train.augment import light
from tlexport.train.frozen import FrozenTrunk, features_of, fingerprint, frozen_state
from tlexport.train.loop import Epoch, Inputs, run_phase
from tlexport.train.phases import Phase

FEATURE_BATCH = 64


@dataclass(frozen=True)
class Images:
    """One part of the data: uint8 (image, height, width, channel) and int64 class indices (image,)."""

    pixels: Pixels
    labels: Tensor


@dataclass(frozen=True)
class Fit:
    """How training went. The network was left with the weights of the best epoch."""

    history: tuple[Epoch, ...]
    best: Epoch
    interrupted: bool


class Trainer:
    """Runs the phases of one recipe on one device."""

    def __init__(self, network: Network, preprocess: Preprocess, recipe: Recipe, device: torch.device, progress: Progress) -> None:
        self.network = network.to(device).to(memory_format=torch.channels_last).eval()
        self.contract = Contract(preprocess).to(device)
        self.recipe = recipe
        self.device = device
        self.progress = progress

    def fit(self, phases: tuple[Phase, ...], train: Images, val: Images) -> Fit:
        """Train through all phases. Ctrl-C ends early: what was best until then is kept, if an epoch was finished.

        Raises:
            StepFailed: the loss is no longer finite, or a frozen stage changed (which would be a bug).
            KeyboardInterrupt: interrupted before the first epoch ended.
        """
        always_frozen = frozen_state(self.network, min(phase.frozen for phase in phases))
        before = fingerprint(always_frozen)
        history: list[Epoch] = []
        best: Epoch | None = None
        weights: dict[str, Tensor] = {}
        interrupted = False
        try:
            for phase in phases:
                for epoch in self._phase(phase, train, val, len(history) + 1):
                    if not math.isfinite(epoch.train_loss + epoch.val_loss):
                        losses = f"{epoch.train_loss} in training, {epoch.val_loss} in validation"
                        message = f"the loss is not finite in epoch {epoch.epoch}: {losses}"
                        raise StepFailed(message, "lower --lr, or start from other --weights")
                    history.append(epoch)
                    if best is None or epoch.rank > best.rank:
                        best = epoch
                        weights = {k: v.clone() for k, v in self.network.net.state_dict().items() if k not in always_frozen}
                self.network.load(weights, strict=False)
        except KeyboardInterrupt:
            if best is None:
                raise
            self.network.load(weights, strict=False)
            interrupted = True
        if fingerprint(always_frozen) != before:
            raise StepFailed("a frozen stage changed during training; nothing was written", "please report this with the recipe")
        return Fit(tuple(history), cast(Epoch, best), interrupted)

    def _phase(self, phase: Phase, train: Images, val: Images, first_epoch: int) -> Iterator[Epoch]:
        stages = list(self.network.stages.values())
        for position, stage in enumerate(stages):
            stage.requires_grad_(position >= phase.frozen)
        top = nn.Sequential(*stages[phase.frozen :]).eval()
        trunk = FrozenTrunk(self.network, self.contract, phase.frozen, self.device)
        inputs = self._inputs(trunk, val, augment=False), self._inputs(trunk, train, augment=self.recipe.augment != "none")
        with self.progress.task(f"training {phase.name}", phase.epochs * len(train.labels)) as advance:
            yield from run_phase(top, inputs[1], inputs[0], phase, self.recipe, first_epoch, advance)

    def _inputs(self, trunk: FrozenTrunk, images: Images, augment: bool) -> Inputs:
        """Features of the frozen stages: kept where they are the same in every epoch and fit, else computed per batch."""
        if not augment and trunk.stages > 0:
            with self.progress.task("features of the frozen stages", len(images.labels)) as advance:
                kept = features_of(trunk, images.pixels, FEATURE_BATCH, advance)
            if kept is not None:
                return Inputs(lambda indices, _: kept[indices].to(self.device), images.labels, self.device)

        def compute(indices: Tensor, generator: torch.Generator) -> Tensor:
            pixels = torch.from_numpy(images.pixels[indices.numpy()]).to(self.device)
            return trunk(light(pixels, self.recipe.flip, generator) if augment else pixels)

        return Inputs(compute, images.labels, self.device)

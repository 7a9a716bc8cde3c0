"""Fine-tuning: the phases one after the other, each on what lies above its frozen stages; the best weights are kept."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from tlexport.contract import Preprocess
from tlexport.errors import StepFailed
from tlexport.network import Contract, Network
from tlexport.ports import Progress
from tlexport.recipe import Recipe
from tlexport.storage.cache import ArrayCache
from tlexport.train.augment import Augment
from tlexport.train.distributed import Workers
from tlexport.train.features import FeatureSource
from tlexport.train.frozen import FrozenTrunk, fingerprint, frozen_state
from tlexport.train.images import Images
from tlexport.train.loop import Epoch, batches, make_optimizer
from tlexport.train.lr_finder import find_lr
from tlexport.train.objective import Objective, class_weights
from tlexport.train.phase_run import PhaseRun
from tlexport.train.phases import Phase
from tlexport.train.resume import Saver
from tlexport.train.saved_state import check_history, check_tensors, number, whole


@dataclass(frozen=True)
class Fit:
    """How training went. The network was left with the weights of the best epoch."""

    history: tuple[Epoch, ...]
    best: Epoch
    interrupted: bool


@dataclass
class _Progressing:
    """What is carried from epoch to epoch, and saved."""

    phase: int = 0
    history: list[Epoch] = dataclasses.field(default_factory=list)
    best: Epoch | None = None
    weights: dict[str, Tensor] = dataclasses.field(default_factory=dict)  # of the best epoch, all that is ever trained
    before_phase: tuple[float, float] | None = None  # rank of the best epoch when the phase began

    def state(self) -> dict[str, Any]:
        """As tensors and plain data."""
        history = [dataclasses.asdict(epoch) for epoch in self.history]
        best = None if self.best is None else self.best.epoch
        return {"phase": self.phase, "history": history, "best": best, "weights": self.weights, "before_phase": self.before_phase}

    @classmethod
    def restored(cls, state: dict[str, Any], phases: tuple[Phase, ...], own: dict[str, Tensor], frozen: dict[str, Tensor]) -> _Progressing:
        """From :meth:`state`, for a network of the tensors ``own``. Raises ValueError, and others, when it is not one of this run."""
        history = [Epoch(**epoch) for epoch in state["history"]]
        check_history(history, phases, state["phase"])
        whole(state["best"], 1, len(history), "the best epoch")
        check_tensors(state["weights"], own, [name for name in own if name not in frozen], "the best weights")
        before = state["before_phase"]
        rank = None if before is None else (number(before[0], "before_phase"), number(before[1], "before_phase"))
        return cls(state["phase"], history, history[state["best"] - 1], state["weights"], rank)


class Trainer:
    """Runs the phases of one recipe on one device, in one process or as one of several."""

    def __init__(
        self,
        network: Network,
        preprocess: Preprocess,
        recipe: Recipe,
        device: torch.device,
        progress: Progress,
        workers: Workers,
        cache: ArrayCache,
    ) -> None:
        self.network = network.to(device).to(memory_format=torch.channels_last).eval()
        self.contract = Contract(preprocess).to(device)
        self.recipe = recipe
        self.device = device
        self.progress = progress
        self.workers = workers
        self.cache = cache
        self.augment = Augment(recipe.augment, recipe.flip) if recipe.augment != "none" else None

    def find_lr(self, phase: Phase, train: Images, val: Images) -> float:
        """A peak rate for the first phase, by a range test that leaves the network as it is."""
        run = self.open_phase(phase, train, val)
        torch.manual_seed(self.recipe.seed)
        generator = torch.Generator().manual_seed(self.recipe.seed)
        order = batches(torch.randperm(len(train.labels), generator=generator), self.recipe.batch_size)

        def loss_of(module: nn.Module, step: int) -> Tensor:
            indices = order[step % len(order)]
            return run.step(module, indices, run.train.batch(indices, step // len(order), generator), generator)[0]

        return find_lr(run.top, lambda module, lr: make_optimizer(list(module.children()), self.recipe, lr), loss_of)

    def fit(
        self,
        phases: tuple[Phase, ...],
        train: Images,
        val: Images,
        saver: Saver,
        saved: dict[str, Any] | None,
        report: Callable[[Epoch], None],
        watch: Callable[[], dict[str, Any]] = dict,
    ) -> Fit:
        """Train through all phases, or on from a saved state; ``report`` is told each epoch, ``watch`` gives the times to save.

        Ctrl-C ends early: what was best until then is kept, if an epoch was finished.

        Raises:
            StepFailed: the loss is no longer finite, or a frozen stage changed (which would be a bug).
            KeyboardInterrupt: interrupted before the first epoch ended.
        """
        frozen = frozen_state(self.network, min(phase.frozen for phase in phases))
        before = fingerprint(frozen)
        at = _Progressing()
        if saved:
            with saver.reading():
                at = _Progressing.restored(saved, phases, self.network.net.state_dict(), frozen)
        interrupted = False
        try:
            while at.phase < len(phases):
                self._run_phase(phases[at.phase], at, train, val, frozen, saver, saved, report, watch)
                saved = None
                if phases[at.phase].must_gain and at.before_phase is not None and cast(Epoch, at.best).rank <= at.before_phase:
                    self.progress.note(f"phase {phases[at.phase].name} did not improve validation; the stages below stay frozen")
                    break
                at.phase += 1
        except KeyboardInterrupt:
            if at.best is None:
                raise
            interrupted = True
        self.network.load(at.weights, strict=False)
        if fingerprint(frozen) != before:
            raise StepFailed("a frozen stage changed during training; nothing was written", "please report this with the recipe")
        return Fit(tuple(at.history), cast(Epoch, at.best), interrupted)

    def _run_phase(
        self,
        phase: Phase,
        at: _Progressing,
        train: Images,
        val: Images,
        frozen: dict[str, Tensor],
        saver: Saver,
        saved: dict[str, Any] | None,
        report: Callable[[Epoch], None],
        watch: Callable[[], dict[str, Any]],
    ) -> None:
        run = self.open_phase(phase, train, val)
        if saved:
            with saver.reading():
                run.restore(saved["run"])
        else:
            at.before_phase = at.best.rank if at.best else None
        first = len(at.history) - run.done + 1
        with self.progress.task(f"training {phase.name}", phase.epochs * len(train.labels)) as advance:
            if run.done:
                advance(run.done * len(train.labels))

            def settled() -> None:
                saver.save(at.state() | {"run": run.state(), "lr": self.recipe.lr, "watch": watch()}, now=run.finished)

            for epoch in run.epochs(first, advance, settled):
                if not math.isfinite(epoch.train_loss + epoch.val_loss):
                    saver.forget()  # continuing from there would end here again
                    losses = f"{epoch.train_loss} in training, {epoch.val_loss} in validation"
                    raise StepFailed(
                        f"the loss is not finite in epoch {epoch.epoch}: {losses}", "lower --lr, or start from other --weights"
                    )
                best, weights = at.best, at.weights
                if best is None or epoch.rank > best.rank:
                    best, weights = epoch, {k: v.clone() for k, v in self.network.net.state_dict().items() if k not in frozen}
                # without a call in between, so that Ctrl-C finds them in step
                at.history, at.best, at.weights = [*at.history, epoch], best, weights
                report(epoch)
        self.network.load(at.weights, strict=False)

    def open_phase(self, phase: Phase, train: Images, val: Images) -> PhaseRun:
        """A phase ready to run: stages below its boundary frozen, their features at hand."""
        stages = list(self.network.stages.values())
        for position, stage in enumerate(stages):
            stage.requires_grad_(position >= phase.frozen)
        trunk = FrozenTrunk(self.network, self.contract, phase.frozen, self.device)
        source = FeatureSource(trunk, self.cache, self.workers, self.progress)
        objective = Objective(
            self.network.num_classes,
            self.recipe.label_smoothing,
            class_weights(train.labels, self.network.num_classes).to(self.device) if self.recipe.balance == "weights" else None,
        )
        val_inputs = source.inputs(val, None, self.recipe, phase)
        train_inputs = source.inputs(train, self.augment, self.recipe, phase)
        return PhaseRun(stages[phase.frozen :], train_inputs, val_inputs, phase, self.recipe, objective, self.workers)

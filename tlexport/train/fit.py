"""Fine-tuning: the phases in order, each above its frozen stages. Keeps the weights of the best epoch."""

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
from tlexport.train.images import LabelledImages
from tlexport.train.loop import Epoch, batches, make_optimizer
from tlexport.train.lr_finder import find_lr
from tlexport.train.objective import Objective, class_weights
from tlexport.train.phase_run import PhaseRun
from tlexport.train.phases import Phase
from tlexport.train.result import TrainingResult
from tlexport.train.resume import Saver
from tlexport.train.saved_state import check_history, check_tensors, number, whole
from tlexport.train.solved_head import solve_head

# training accuracy from which a phase without a gain ends gradual unfreezing; below, the network underfits, and deeper stages may help
FITS = 0.9


@dataclass
class _TrainingState:
    """The values that pass from epoch to epoch and are saved for ``--resume``."""

    phase: int = 0
    history: list[Epoch] = dataclasses.field(default_factory=list)
    best: Epoch | None = None
    weights: dict[str, Tensor] = dataclasses.field(default_factory=dict)  # of the best epoch; without the stages that no phase trains
    before_phase: tuple[float, float] | None = None  # rank of the best epoch before the phase

    @property
    def gained(self) -> bool:
        """Whether the phase improved on the best epoch before it."""
        return self.before_phase is None or self.best is None or self.best.rank > self.before_phase

    def state(self) -> dict[str, Any]:
        """Tensors and plain data."""
        history = [dataclasses.asdict(epoch) for epoch in self.history]
        best = None if self.best is None else self.best.epoch
        return {"phase": self.phase, "history": history, "best": best, "weights": self.weights, "before_phase": self.before_phase}

    @classmethod
    def restored(
        cls, state: dict[str, Any], phases: tuple[Phase, ...], own: dict[str, Tensor], frozen: dict[str, Tensor]
    ) -> _TrainingState:
        """From :meth:`state`.

        Args:
            state: the saved state.
            phases: the phases of this run.
            own: the network's state dict, to compare names, shapes and types.
            frozen: the tensors that no phase trains.

        Raises:
            ValueError, KeyError, TypeError: the state does not belong to this run, or is damaged.
        """
        history = [Epoch(**epoch) for epoch in state["history"]]
        check_history(history, phases, state["phase"])
        whole(state["best"], 1, len(history), "the best epoch")
        check_tensors(state["weights"], own, [name for name in own if name not in frozen], "the best weights")
        before = state["before_phase"]
        rank = None if before is None else (number(before[0], "before_phase"), number(before[1], "before_phase"))
        return cls(state["phase"], history, history[state["best"] - 1], state["weights"], rank)


@dataclass(frozen=True)
class _Session:
    """The values that all phases of one call of :meth:`Trainer.fit` share."""

    train: LabelledImages
    val: LabelledImages
    frozen: dict[str, Tensor]  # tensors of the stages that no phase trains
    saver: Saver
    report: Callable[[Epoch], None]
    times: Callable[[], dict[str, Any]]


class Trainer:
    """Trains the phases of one recipe on one device, in one process or as one of several.

    Attributes:
        features: of the training images, float32 (image, feature) in host memory, from the first phase that keeps pooled features of
            its frozen stages; of several augmented views, the first. None: no phase did.
    """

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
        self.features: Tensor | None = None

    def find_lr(self, phase: Phase, train: LabelledImages, val: LabelledImages) -> float:
        """A peak learning rate for the first phase, found by a range test. Does not change the network."""
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
        train: LabelledImages,
        val: LabelledImages,
        saver: Saver,
        saved: dict[str, Any] | None,
        report: Callable[[Epoch], None],
        times: Callable[[], dict[str, Any]] = dict,
    ) -> TrainingResult:
        """Train all phases. Ctrl-C after the first epoch ends the training early and keeps the best weights.

        Args:
            phases: in order.
            train: training images.
            val: validation images.
            saver: writes the state between epochs.
            saved: the state to continue from; None: start at the beginning.
            report: is called with each epoch.
            times: returns the times to save with the state.

        Raises:
            StepFailed: the loss is not finite, or a frozen stage changed (a bug).
            KeyboardInterrupt: interrupted before the first epoch ended.
        """
        frozen = frozen_state(self.network, min(phase.frozen for phase in phases))
        before = fingerprint(frozen)
        session = _Session(train, val, frozen, saver, report, times)
        at = _TrainingState()
        if saved:
            with saver.reading():
                at = _TrainingState.restored(saved, phases, self.network.net.state_dict(), frozen)
        interrupted = False
        try:
            while at.phase < len(phases):
                self._run_phase(phases[at.phase], at, session, saved)
                saved = None
                if phases[at.phase].must_gain and not at.gained and at.history[-1].train_top1 >= FITS:
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
        return TrainingResult(tuple(at.history), cast(Epoch, at.best), interrupted)

    def _run_phase(self, phase: Phase, at: _TrainingState, session: _Session, saved: dict[str, Any] | None) -> None:
        """Train one phase, from its beginning or from a saved state. Leaves the network with the best weights until now."""
        run = self.open_phase(phase, session.train, session.val)
        if phase.solved:
            self._solve_phase(phase, run, at, session)
            return
        if saved:
            with session.saver.reading():
                run.restore(saved["run"])
        else:
            at.before_phase = at.best.rank if at.best else None
        first = len(at.history) - run.done + 1
        with self.progress.task(f"training {phase.name}", phase.epochs * len(session.train)) as advance:
            if run.done:
                advance(run.done * len(session.train))

            def save() -> None:
                state = at.state() | {"run": run.state(), "lr": self.recipe.lr, "watch": session.times()}
                session.saver.save(state, now=run.finished)

            for epoch in run.epochs(first, advance, save):
                if not math.isfinite(epoch.train_loss + epoch.val_loss):
                    session.saver.forget()  # a resumed run would end here again
                    losses = f"{epoch.train_loss} in training, {epoch.val_loss} in validation"
                    raise StepFailed(
                        f"the loss is not finite in epoch {epoch.epoch}: {losses}", "lower --lr, or start from other --weights"
                    )
                best, weights = at.best, at.weights
                if best is None or epoch.rank > best.rank:
                    tensors = self.network.net.state_dict()
                    best, weights = epoch, {name: value.clone() for name, value in tensors.items() if name not in session.frozen}
                # no call between these assignments, so that Ctrl-C cannot leave them inconsistent
                at.history, at.best, at.weights = [*at.history, epoch], best, weights
                session.report(epoch)
        self.network.load(at.weights, strict=False)

    def _solve_phase(self, phase: Phase, run: PhaseRun, at: _TrainingState, session: _Session) -> None:
        """Solve the classifier. A resumed run that has solved it already keeps its weights."""
        if not at.history:
            with self.progress.task("solving the classifier", 1) as advance:
                try:
                    epoch = solve_head(run.top[0], run.train, run.val, run.objective, self.recipe.seed, 1)
                except ValueError as error:
                    raise StepFailed(f"the classifier cannot be solved: {error}", "start from other --weights") from error
                advance(1, f"{epoch.describe()}\n")
            tensors = self.network.net.state_dict()
            weights = {name: value.clone() for name, value in tensors.items() if name not in session.frozen}
            at.history, at.best, at.weights = [epoch], epoch, weights
            session.saver.save(at.state() | {"lr": self.recipe.lr, "watch": session.times()}, now=True)
            session.report(epoch)
        self.network.load(at.weights, strict=False)

    def open_phase(self, phase: Phase, train: LabelledImages, val: LabelledImages) -> PhaseRun:
        """A phase ready to run: freezes the stages below its boundary and computes their features."""
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
        if self.features is None and train_inputs.kept and train_inputs.load(torch.arange(1), 0).dim() == 2:
            self.features = train_inputs.load(torch.arange(len(train)), 0)
        return PhaseRun(stages[phase.frozen :], train_inputs, val_inputs, phase, self.recipe, objective, self.workers)

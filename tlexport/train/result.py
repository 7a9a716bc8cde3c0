"""The result of a training: its epochs, and the figures and advice that follow from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tlexport.accuracy import Scores
from tlexport.recipe import Recipe
from tlexport.train.advice import after_training
from tlexport.train.loop import Epoch


@dataclass(frozen=True)
class TrainingResult:
    """The epochs of a training. The network has the weights of the best epoch."""

    history: tuple[Epoch, ...]
    best: Epoch
    interrupted: bool

    def metrics(self, scores: Scores) -> dict[str, float]:
        """The metrics that the checkpoint's record states; ``scores`` are those of the network on the validation part."""
        return {
            "val_top1": scores.top1,
            "val_ece": round(scores.ece, 6),
            "val_loss": round(self.best.val_loss, 6),
            "val_images": scores.n,
            "train_top1": round(self.best.train_top1, 6),
            "train_loss": round(self.best.train_loss, 6),
            "best_epoch": self.best.epoch,
            "epochs": len(self.history),
        }

    def advice(self, recipe: Recipe, scores: Scores) -> list[str]:
        """Notes for the user, one sentence each; ``scores`` are those of the network on the validation part."""
        head = max((epoch.val_top1 for epoch in self.history if epoch.phase == "head"), default=math.nan)
        missed = [name for name, figures in scores.per_class().items() if figures["recall"] == 0]
        # if the best epoch was an early one, the last epoch shows overfitting more clearly
        train = max(self.best.train_top1, self.history[-1].train_top1)
        return after_training(recipe, train, self.best.val_top1, head, len(scores.classes), missed)

    def times(self) -> dict[str, Any]:
        """Seconds of each phase, from its epochs, in the form of ``Stopwatch.state``."""
        steps: dict[str, float] = {}
        for epoch in self.history:
            steps[f"training {epoch.phase}"] = steps.get(f"training {epoch.phase}", 0) + epoch.seconds
        return {"seconds": sum(steps.values()), "steps": list(steps.items()), "sessions": 1}

"""The loss: cross-entropy with label smoothing and class weights, plus distillation with a teacher."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 2.0  # Hinton et al. 2015 found 2.5 to 4 for small students; 2 keeps the ranking of a confident teacher
TEACHER_SHARE = 0.7  # of the loss, with a teacher


@dataclass(frozen=True)
class Objective:
    """The loss of a batch."""

    num_classes: int
    label_smoothing: float
    class_weights: Tensor | None  # float32 (class,)

    def targets(self, labels: Tensor) -> Tensor:
        """Class indices (batch,) -> one-hot float32 (batch, class)."""
        return F.one_hot(labels, self.num_classes).float()

    def __call__(self, logits: Tensor, targets: Tensor, teacher: Tensor | None) -> Tensor:
        """Mean loss.

        Args:
            logits: float32 (batch, class).
            targets: float32 (batch, class), rows sum to 1.
            teacher: the teacher's logits, float32 (batch, class), or None.
        """
        loss = F.cross_entropy(logits, targets, weight=self.class_weights, label_smoothing=self.label_smoothing)
        if teacher is None:
            return loss
        soft = F.kl_div(
            F.log_softmax(logits / TEMPERATURE, 1), F.log_softmax(teacher / TEMPERATURE, 1), reduction="batchmean", log_target=True
        )
        return (1 - TEACHER_SHARE) * loss + TEACHER_SHARE * TEMPERATURE**2 * soft


def class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """Inverse class frequencies with mean 1 over the images: class indices (image,) -> float32 (class,)."""
    counts = torch.bincount(labels, minlength=num_classes).clamp(min=1).float()
    return len(labels) / (num_classes * counts)


def balanced_indices(labels: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
    """Draw as many images as there are, with replacement and every class equally often: int64 (image,)."""
    return torch.multinomial(class_weights(labels, num_classes)[labels], len(labels), replacement=True, generator=generator)

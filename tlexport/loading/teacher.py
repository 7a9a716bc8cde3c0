"""The teacher of a distillation: its predictions on the training images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tlexport.accuracy import BATCH, probabilities
from tlexport.data.decode import decode_files
from tlexport.dataset import Dataset
from tlexport.errors import InvalidFile
from tlexport.loading.model import load
from tlexport.ports import Progress

if TYPE_CHECKING:
    from torch import Tensor


def teacher_logits(path: Path, dataset: Dataset, device: str, threads: int, progress: Progress) -> Tensor:
    """Logits of a teacher on the training images without augmentation, with its own preprocessing.

    Args:
        path: the teacher's checkpoint.
        dataset: the split of the student.
        device: of the teacher.
        threads: for decoding.
        progress: receives the progress.

    Returns:
        float32 (image, class).

    Raises:
        InvalidFile: the teacher has other classes, or is not a checkpoint.
    """
    import torch

    teacher = load(path).runnable()
    if teacher.classes != dataset.classes:
        raise InvalidFile(f"the classes of the teacher {path} are not those of {dataset.source}", "train a teacher on the same classes")
    pixels, _ = decode_files([dataset.file(sample) for sample in dataset.part("train")], teacher.preprocess, threads)
    with teacher.open(device, None) as runner:
        outputs = probabilities(runner, pixels, BATCH, progress, "teacher")
    return torch.from_numpy(outputs).clamp_min(1e-8).log()

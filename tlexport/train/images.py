"""The labelled images of one part of the data, as training reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tlexport.contract import Preprocess
from tlexport.ports import Pixels
from tlexport.storage.cache import release


def images_digest(part: str, preprocess: Preprocess, sha256: Sequence[str]) -> str:
    """SHA-256 that identifies the pixels of one part: its name, the preprocessing, and the hash of each image file in order."""
    return hashlib.sha256("\n".join([part, preprocess.model_dump_json(), *sha256]).encode()).hexdigest()


@dataclass(frozen=True)
class LabelledImages:
    """The images of one part with their labels."""

    pixels: Pixels  # uint8 (row, height, width, channel), shared by all parts so that no image is in memory twice
    labels: Tensor  # int64 class indices (image,)
    digest: str  # see images_digest; keys the cache of features
    rows: npt.NDArray[np.intp] | None = None  # row of each image in pixels; None: image i is row i
    teacher: Tensor | None = None  # logits of a teacher, float32 (image, class)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice) -> Pixels:
        return self.take(torch.arange(len(self))[rows])

    def image(self, index: int) -> Pixels:
        """One image: uint8 (height, width, channel)."""
        taken: Pixels = self[index : index + 1][0]
        return taken

    def take(self, indices: Tensor) -> Pixels:
        """Image indices int64 (batch,) -> uint8 (batch, height, width, channel)."""
        taken: Pixels = self.pixels[indices.numpy() if self.rows is None else self.rows[indices.numpy()]]
        release(self.pixels)
        return taken

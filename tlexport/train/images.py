"""The images of one part of the data, as training reads them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tlexport.ports import Pixels
from tlexport.storage.cache import release


@dataclass(frozen=True)
class Images:
    """One part of the data.

    ``digest`` names the pixels: equal only for the same images in the same order through the same preprocessing.
    """

    pixels: Pixels  # uint8 (row, height, width, channel): of all parts together, so that none is held twice
    labels: Tensor  # int64 class indices (image,)
    digest: str
    rows: npt.NDArray[np.intp] | None = None  # of each image in pixels; None: the images are the rows
    teacher: Tensor | None = None  # logits of a teacher, float32 (image, class)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice) -> Pixels:
        return self.take(torch.arange(len(self))[rows])

    def take(self, indices: Tensor) -> Pixels:
        """Image indices int64 (batch,) -> uint8 (batch, height, width, channel)."""
        taken: Pixels = self.pixels[indices.numpy() if self.rows is None else self.rows[indices.numpy()]]
        release(self.pixels)
        return taken

"""Features of images, from all stages of a pretrained network but the classifier."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from tlexport.network import Contract, cpu_threads
from tlexport.ports import Pixels
from tlexport.recipe import Recipe
from tlexport.storage.cache import release
from tlexport.train.distributed import Workers
from tlexport.train.features import FEATURE_BATCH, GPU_FEATURE_BATCH
from tlexport.train.frozen import FrozenTrunk
from tlexport.train.weights import initial_network, preprocess_for


class TrunkFeatures:
    """The trunk of a recipe's network with its initial weights. A context manager, which limits torch's threads.

    Args:
        recipe: its backbone, weights, image size and background are used.
        device: of torch.
        threads: CPU threads; None: torch's choice.

    Raises:
        TlxError: as for :func:`tlexport.train.weights.initial_network`; Unsupported for a GPU that is not here.
    """

    def __init__(self, recipe: Recipe, device: str, threads: int | None) -> None:
        self._stack = ExitStack()
        self.threads = threads or torch.get_num_threads()
        torch.manual_seed(recipe.seed)  # of weights = "none"
        network = initial_network(recipe, 2).eval()
        self.preprocess = preprocess_for(recipe)
        self._trunk = FrozenTrunk(network, Contract(self.preprocess), len(network.stages) - 1, Workers().device(device))

    def of(self, pixels: Pixels, advance: Callable[[int], None] = lambda amount: None) -> npt.NDArray[np.float32]:
        """Features of every image.

        Args:
            pixels: uint8 (image, height, width, channel), of ``preprocess``.
            advance: called with the number of images that were finished.

        Returns:
            float32 (image, feature). Feature maps are averaged over their area.
        """
        size = FEATURE_BATCH if self._trunk.device.type == "cpu" else GPU_FEATURE_BATCH
        found = []
        for start in range(0, len(pixels), size):
            batch = torch.from_numpy(np.array(pixels[start : start + size]))
            features = self._trunk(batch)
            found.append((features.mean((2, 3)) if features.dim() == 4 else features.flatten(1)).cpu().numpy())
            release(pixels)
            advance(len(batch))
        return np.concatenate(found)

    def __enter__(self) -> Self:
        self._stack.enter_context(cpu_threads(self.threads))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

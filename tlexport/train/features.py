"""The inputs of the trained stages: features of the frozen stages, computed once and kept, or computed for each batch."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tlexport.ports import Progress
from tlexport.recipe import Recipe
from tlexport.storage.cache import ArrayCache
from tlexport.train.augment import Augment
from tlexport.train.distributed import Workers
from tlexport.train.frozen import FrozenTrunk
from tlexport.train.inputs import Inputs
from tlexport.train.phases import Phase

if TYPE_CHECKING:
    from tlexport.train.images import LabelledImages

KEPT_BYTES = 2 * 10**9  # features above this are computed again for each batch rather than kept in memory
FEATURE_BATCH = 16  # as fast as any on two cores; activations of more images exceed the cache
GPU_FEATURE_BATCH = 256


class FeatureSource:
    """Computes the inputs of a phase."""

    def __init__(self, trunk: FrozenTrunk, cache: ArrayCache, workers: Workers, progress: Progress) -> None:
        self.trunk, self.cache, self.workers, self.progress = trunk, cache, workers, progress

    def inputs(self, images: LabelledImages, augment: Augment | None, recipe: Recipe, phase: Phase) -> Inputs:
        """Stored features if stages are frozen and the features fit; with augmentation, of several random views of each image.

        View ``v`` of an image is used in every epoch whose number is ``v`` modulo the number of views: ``recipe.views``, or as
        many as the phase has epochs or memory has room for.
        """
        views = 1 if augment is None else min(recipe.views, phase.epochs)
        if self.trunk.stages > 0:
            views = min(views, KEPT_BYTES // max(1, self._bytes_of(images)))
            if views >= 1:
                kept = [self._view(images, augment, recipe, view) for view in range(views)]
                return self._looked_up(kept, images)

        def see(pixels: Tensor, generator: torch.Generator) -> Tensor:
            return self._compute(pixels, augment, generator)

        return Inputs(lambda indices, epoch: self._pixels(images, indices), see, images.labels, self.trunk.device, images.teacher)

    def _looked_up(self, kept: list[Tensor], images: LabelledImages) -> Inputs:
        def look_up(indices: Tensor, epoch: int) -> Tensor:
            return self._pinned(kept[epoch % len(kept)][indices])

        def see(features: Tensor, generator: torch.Generator) -> Tensor:
            return features.to(self.trunk.device, non_blocking=True)

        return Inputs(look_up, see, images.labels, self.trunk.device, images.teacher, kept=True)

    def _bytes_of(self, images: LabelledImages) -> int:
        """Size of one view of all images."""
        one = self._one(images)
        return one.element_size() * one[0].numel() * len(images.labels)

    def _view(self, images: LabelledImages, augment: Augment | None, recipe: Recipe, view: int) -> Tensor:
        """Features of one view of every image, float32 (image, ...) in host memory: from the cache, or computed and cached."""
        drawn = None if augment is None else {"level": recipe.augment, "flip": recipe.flip, "seed": recipe.seed, "view": view}
        key = {
            "kind": "features",
            "images": images.digest,
            "frozen": self.trunk.fingerprint,
            "view": drawn,
            "device": self.trunk.device.type,
            "threads": torch.get_num_threads(),
            "torch": str(torch.__version__),
            "workers": self.workers.count,
        }
        found = self.cache.get(key)
        if found is not None:
            return torch.from_numpy(np.array(found))
        computed = self._extract(images, augment, recipe, view)
        if self.workers.first:
            self.cache.keep(key, computed.numpy())
        return computed

    def _extract(self, images: LabelledImages, augment: Augment | None, recipe: Recipe, view: int) -> Tensor:
        share = self.workers.share(torch.arange(len(images.labels)))
        seed = int.from_bytes(hashlib.sha256(f"{recipe.seed} {view} {self.workers.rank}".encode()).digest()[:4], "big")
        title = "features of the frozen stages" if augment is None else f"features of the frozen stages, view {view + 1}"
        with torch.random.fork_rng(devices=[]), self.progress.task(title, len(share)) as advance:
            torch.manual_seed(seed)  # augmentation uses the global generator
            generator = torch.Generator().manual_seed(seed)
            rows = torch.empty((len(share), *self._one(images).shape[1:]))
            done = 0
            for indices in share.split(FEATURE_BATCH if self.trunk.device.type == "cpu" else GPU_FEATURE_BATCH):
                rows[done : done + len(indices)] = self._compute(self._pixels(images, indices), augment, generator).cpu()
                done += len(indices)
                advance(len(indices))
        return self.workers.gather(rows, len(images.labels))

    def _one(self, images: LabelledImages) -> Tensor:
        """Features of the first image."""
        return self._compute(self._pixels(images, torch.arange(1)), None, torch.Generator())

    def _pixels(self, images: LabelledImages, indices: Tensor) -> Tensor:
        """uint8 (batch, height, width, 3) in host memory."""
        return self._pinned(torch.from_numpy(images.take(indices)))

    def _pinned(self, tensor: Tensor) -> Tensor:
        """Copy to pinned memory, from which a GPU copies during computation."""
        return tensor.pin_memory() if self.trunk.device.type == "cuda" else tensor

    def _compute(self, pixels: Tensor, augment: Augment | None, generator: torch.Generator) -> Tensor:
        pixels = pixels.to(self.trunk.device, non_blocking=True)
        return self.trunk(pixels if augment is None else augment(pixels, generator))

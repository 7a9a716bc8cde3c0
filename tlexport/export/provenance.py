"""The training data and the licences of a bundle's models, as far as they are known."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Literal

from tlexport.bundle.manifest import Licences, Terms, Training
from tlexport.checkpoint import Checkpoint
from tlexport.dataset import Dataset
from tlexport.embedded import EMBEDDED
from tlexport.recipe import Recipe
from tlexport.storage.untrusted import read_object

CODE = Terms(spdx="Apache-2.0", note="tlexport's own")
# torchvision builds every backbone; this is its licence (LICENSE of pytorch/vision)
NETWORK = Terms(spdx="BSD-3-Clause", note="built by torchvision")
# the README of pytorch/vision: terms derived from the training data may apply to weights, and the user must determine them;
# https://www.image-net.org/download.php provides the images for non-commercial research and education
IMAGENET = Terms(
    spdx=None,
    note="torchvision's, trained on ImageNet-1k. torchvision names no licence for them; ImageNet gives its images for non-commercial "
    "research and education. Whether that binds a model made from them is for whoever uses it to find out",
)


def training_of(checkpoint: Checkpoint, dataset: Dataset) -> Training:
    """The recipe and the images, by hash, without any path."""
    lines = sorted(f"{sample.sha256} {sample.part} {dataset.classes[sample.label]}\n" for sample in dataset.samples)
    return Training(
        backbone=checkpoint.recipe.backbone,
        weights=_kind(checkpoint.recipe),
        strategy=checkpoint.recipe.strategy,
        recipe_sha256=hashlib.sha256(checkpoint.recipe.to_toml().encode()).hexdigest(),
        dataset_sha256=hashlib.sha256("".join(lines).encode()).hexdigest(),
        images=dict(sorted(Counter(sample.part for sample in dataset.samples).items())),
    )


def licences_of(recipe: Recipe) -> Licences:
    """Licences of the program files, of the network's code, and of the initial weights."""
    return Licences(code=CODE, network=NETWORK, weights=_weights(recipe))


def _kind(recipe: Recipe) -> Literal["imagenet", "embedded", "none", "file"]:
    known: dict[str, Literal["imagenet", "embedded", "none"]] = {"imagenet": "imagenet", "embedded": "embedded", "none": "none"}
    return known.get(recipe.weights, "file")


def _weights(recipe: Recipe) -> Terms:
    kind = _kind(recipe)
    if kind == "imagenet":
        return IMAGENET
    if kind == "embedded":
        record = read_object(EMBEDDED / f"{recipe.backbone}.json")
        return Terms(spdx=record["licence"], note=f"tlexport's own, trained on {record['trained_on']}")
    return Terms(spdx=None, note="from a file of the user's" if kind == "file" else "none: training started from random weights")

"""The training data and the licences of a bundle's models, as far as they are known."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Literal

from tlexport.bundle.manifest import Licences, Terms, Training
from tlexport.checkpoint import Checkpoint
from tlexport.dataset import Dataset
from tlexport.embedded import EMBEDDED
from tlexport.plugins import family_of, source_of, traits_of
from tlexport.recipe import Recipe
from tlexport.storage.untrusted import read_object

CODE = Terms(spdx="Apache-2.0", note="tlexport's own")


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
        initial_weights=checkpoint.initial_weights,
    )


def licences_of(recipe: Recipe) -> Licences:
    """Licences of the program files, of the network's code, and of the initial weights."""
    network = Terms(spdx=source_of(recipe.backbone).LICENCE, note=f"built by {family_of(recipe.backbone).SOURCE}")
    return Licences(code=CODE, network=network, weights=_weights(recipe))


def _kind(recipe: Recipe) -> Literal["imagenet", "embedded", "none", "file"]:
    if recipe.pretrained:
        return "imagenet"
    known: dict[str, Literal["embedded", "none"]] = {"embedded": "embedded", "none": "none"}
    return known.get(recipe.weights, "file")


def _weights(recipe: Recipe) -> Terms:
    kind = _kind(recipe)
    if kind == "imagenet":
        preset = source_of(recipe.backbone).preset(recipe.backbone, traits_of(recipe.backbone))
        return Terms(spdx=preset.licence, note=preset.terms)
    if kind == "embedded":
        record = read_object(EMBEDDED / f"{recipe.backbone}.json")
        return Terms(spdx=record["licence"], note=f"tlexport's own, trained on {record['trained_on']}")
    return Terms(spdx=None, note="from a file of the user's" if kind == "file" else "none: training started from random weights")

"""The initial weights of a backbone, and their preprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from tlexport.checkpoint import InitialWeights
from tlexport.contract import Preprocess
from tlexport.errors import InvalidFile, MissingDependency
from tlexport.network import Network, build
from tlexport.plugins import backbone_names, family_of, source_of, traits_of
from tlexport.recipe import Recipe
from tlexport.storage.files import sha256_of
from tlexport.storage.untrusted import read_object, read_safetensors, read_torch
from tlexport.train.frozen import frozen_state
from tlexport.train.request import embedded_file, expect_image_size, expect_weights_file


def preprocess_for(recipe: Recipe) -> Preprocess:
    """The image contract for a recipe: that of the weights, or otherwise of the pretrained weights for the backbone.

    Another ``image_size`` keeps the ratio between resize and crop.

    Raises:
        UsageError: no embedded weights for this backbone, or an ``image_size`` that it cannot take.
    """
    if recipe.weights == "embedded":
        record = read_object(embedded_file(recipe.backbone).with_suffix(".json"))
        size, resize, interpolation = record["image_size"], record["image_size"], "bilinear"
        mean, std = record["mean"], record["std"]
    else:
        preset = source_of(recipe.backbone).preset(recipe.backbone, traits_of(recipe.backbone))
        size, resize, interpolation, mean, std = preset.size, preset.resize, preset.interpolation, preset.mean, preset.std
    if recipe.image_size is not None:
        expect_image_size(recipe)
        size, resize = recipe.image_size, round(resize * recipe.image_size / size)
    found = {"size": size, "resize": resize, "interpolation": interpolation, "background": recipe.background, "mean": mean, "std": std}
    return Preprocess.parse(found, f"the preprocessing of {recipe.backbone}")


def initial_network(recipe: Recipe, num_classes: int) -> Network:
    """The initial network. Parameters that the weights lack are random, from torch's global generator.

    Raises:
        UsageError: unknown backbone, or no embedded weights for it.
        MissingDependency: the backbone's library is not installed, or its pretrained weights are not cached and cannot be fetched.
        StepFailed: pretrained weights that cannot be stored.
        InvalidFile: a weights file that does not fit the backbone, or would run code.
    """
    network = build(recipe.backbone, num_classes)
    if recipe.weights == "none":
        return network
    if recipe.pretrained:
        found = source_of(recipe.backbone).pretrained(recipe.backbone, traits_of(recipe.backbone))
        state, origin, digest = dict(found.state), found.origin, found.sha256
        licence = source_of(recipe.backbone).preset(recipe.backbone, traits_of(recipe.backbone)).licence
    elif recipe.weights == "embedded":
        file = embedded_file(recipe.backbone)
        state, origin, digest = read_safetensors(file), "embedded", sha256_of(file)
        licence = read_object(file.with_suffix(".json"))["licence"]
    else:
        file = Path(recipe.weights)
        state, origin, digest, licence = read_weights(file), file.name, sha256_of(file), None
    _load(network, state, recipe.weights)
    network.initial_weights = InitialWeights(origin=origin, sha256=digest, licence=licence)
    return network


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from a .safetensors file or a .pth/.pt one, without executing anything in the file.

    Raises:
        InvalidFile: missing, damaged, of another kind, or a pickle that would run code.
    """
    expect_weights_file(path)
    hint = "give a .safetensors file, or save the state_dict alone: torch.save(model.state_dict(), FILE)"
    if path.suffix == ".safetensors":
        return read_safetensors(path, hint)
    loaded = read_torch(path, "weights", hint)
    for wrapper in ("state_dict", "model", "model_state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not loaded or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise InvalidFile(f"{path} holds no state dict: expected parameter names with tensors")
    return {str(key).removeprefix("module."): value for key, value in loaded.items()}


def _load(network: Network, state: dict[str, Tensor], source: str) -> None:
    """Load the weights. Only the classifier may differ (another number of classes) or be absent."""
    own = network.net.state_dict()
    trunk = frozen_state(network, len(network.stages) - 1)
    left_out = traits_of(network.backbone).left_out
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    missing = [key for key in trunk if key not in fitting and not key.endswith("num_batches_tracked")]
    foreign = [key for key in state if key not in own and not key.startswith(left_out)]
    if missing or foreign:
        raise InvalidFile(
            f"{source} does not fit {network.backbone}: {len(missing)} parameters are missing or of another shape (such as "
            f"{', '.join(missing[:3]) or '-'}), {len(foreign)} are unknown (such as {', '.join(foreign[:3]) or '-'})",
            _backbones_of(state) or f"check --backbone; the parameter names of {family_of(network.backbone).SOURCE} are expected",
        )
    network.load(fitting, strict=False)


def _backbones_of(state: Mapping[str, Tensor]) -> str:
    """A hint with the backbones whose trunk the weights fit; empty if they fit none."""
    shapes = {name: tensor.shape for name, tensor in state.items()}
    fitting = []
    for variant in backbone_names():
        trunk, names = _expected(variant)
        if not trunk or not trunk.items() <= shapes.items():
            continue
        left_out = traits_of(variant).left_out
        if all(name.startswith(left_out) for name in shapes.keys() - names):
            fitting.append(variant)
    return f"they fit --backbone {' or '.join(fitting)}" if fitting else ""


@cache
def _expected(variant: str) -> tuple[dict[str, torch.Size], frozenset[str]]:
    """Shapes of the parameters and statistics below the head, and all names; both empty if the backbone's library is not installed."""
    with torch.random.fork_rng(devices=[]):
        try:
            try:
                with torch.device("meta"):  # no memory, no random numbers
                    network = build(variant, 2)
            except NotImplementedError:  # torchvision's RegNet computes its widths with tensors
                network = build(variant, 2)
        except MissingDependency:
            return {}, frozenset()
    trunk = frozen_state(network, len(network.stages) - 1)
    shapes = {name: tensor.shape for name, tensor in trunk.items() if not name.endswith("num_batches_tracked")}
    return shapes, frozenset(network.net.state_dict())

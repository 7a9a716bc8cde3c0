"""The initial weights of a backbone, and their preprocessing."""

from __future__ import annotations

import contextlib
import pickle
import sys
import urllib.error
from pathlib import Path

import torch
from torch import Tensor
from torchvision import models

from tlexport.contract import Preprocess
from tlexport.errors import InvalidFile, MissingDependency, StepFailed
from tlexport.network import Network, build
from tlexport.plugins import traits_of
from tlexport.recipe import Recipe
from tlexport.storage.files import sha256_of
from tlexport.storage.untrusted import read_object, read_safetensors, read_torch
from tlexport.train.frozen import frozen_state
from tlexport.train.request import embedded_file, expect_image_size, expect_weights_file


def preprocess_for(recipe: Recipe) -> Preprocess:
    """The image contract for a recipe: that of the weights, or otherwise of torchvision's weights for the backbone.

    Another ``image_size`` keeps the ratio between resize and crop.

    Raises:
        UsageError: no embedded weights for this backbone, or an ``image_size`` that it cannot take.
    """
    if recipe.weights == "embedded":
        record = read_object(embedded_file(recipe.backbone).with_suffix(".json"))
        size, resize, interpolation = record["image_size"], record["image_size"], "bilinear"
        mean, std = record["mean"], record["std"]
    else:
        preset = models.get_model_weights(recipe.backbone).DEFAULT.transforms()
        size, resize, interpolation = preset.crop_size[0], preset.resize_size[0], preset.interpolation.value
        mean, std = traits_of(recipe.backbone).normalisation or (preset.mean, preset.std)
    if recipe.image_size is not None:
        expect_image_size(recipe)
        size, resize = recipe.image_size, round(resize * recipe.image_size / size)
    found = {"size": size, "resize": resize, "interpolation": interpolation, "background": recipe.background, "mean": mean, "std": std}
    return Preprocess.parse(found, f"the preprocessing of {recipe.backbone}")


def initial_network(recipe: Recipe, num_classes: int) -> Network:
    """The initial network. Parameters that the weights lack are random, from torch's global generator.

    Raises:
        UsageError: unknown backbone, or no embedded weights for it.
        MissingDependency: ImageNet weights that are neither cached nor can be fetched.
        StepFailed: ImageNet weights that were fetched and cannot be kept.
        InvalidFile: a weights file that does not fit the backbone, or would run code.
    """
    network = build(recipe.backbone, num_classes)
    if recipe.weights == "none":
        return network
    if recipe.weights == "imagenet":
        state = _imagenet(recipe.backbone)
    elif recipe.weights == "embedded":
        state = read_safetensors(embedded_file(recipe.backbone))
    else:
        state = read_weights(Path(recipe.weights))
    _load(network, state, recipe.weights)
    return network


def _imagenet(backbone: str) -> dict[str, Tensor]:
    weights = models.get_model_weights(backbone).DEFAULT
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    try:
        # torchvision checks the hash of a file only when it downloads it; the file name ends in the first digits of the hash
        if file.is_file() and not sha256_of(file).startswith(file.stem.rpartition("-")[2]):
            raise InvalidFile(f"{file} is damaged: its hash is not the one in its name", "remove it; it is fetched again")
        with contextlib.redirect_stdout(sys.stderr):  # torch prints the download there; stdout is for results
            return dict(weights.get_state_dict(progress=True, check_hash=True, weights_only=True))
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise MissingDependency(
            f"the ImageNet weights of {backbone} are not on this machine and cannot be fetched: {getattr(error, 'reason', error)}",
            f"fetch {weights.url} elsewhere and put it at {file}, or give --weights FILE, --weights embedded, or --weights none",
        ) from error
    except OSError as error:
        raise StepFailed(
            f"cannot keep the ImageNet weights at {file}: {error.strerror or error}", "choose another folder with $TORCH_HOME"
        ) from error
    except (RuntimeError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidFile(
            f"what {weights.url} gives are no weights of {backbone}: {reason}", f"try again; if {file} is there, remove it"
        ) from error


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
            "check --backbone; torchvision's parameter names are expected",
        )
    network.load(fitting, strict=False)

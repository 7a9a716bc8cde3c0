"""timm (PyTorch Image Models): builds its classifiers; weights come from packages on the index or from timm's own repositories.

Packages are read as files: their code never runs.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.metadata
import math
import sys
import urllib.error
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tlexport.errors import InvalidFile, MissingDependency, StepFailed
from tlexport.ports import Preset, Pretrained, Traits
from tlexport.storage.files import sha256_of
from tlexport.storage.untrusted import read_safetensors, read_torch

if TYPE_CHECKING:
    from torch import Tensor, nn

LICENCE = "Apache-2.0"  # LICENSE of huggingface/pytorch-image-models
INSTALL = "pip install 'tlexport[timm]'"
INSTALL_LITE = "pip install 'tlexport[lite]'"
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
    packaged = traits.packages.get(variant)
    file = None if packaged is None else _file_of(packaged.package)
    if packaged is not None and file is not None:
        digest = sha256_of(file)
        if digest != packaged.sha256:
            raise InvalidFile(
                f"{file} is not the file that {packaged.package} had: its sha256 is {digest[:16]}…, expected {packaged.sha256[:16]}…", AGAIN
            )
        return Pretrained(renamed(read_torch(file, "weights", AGAIN), variant, file), f"{packaged.package}: {file.name}", digest)
    extra = "" if packaged is None else f"{INSTALL_LITE}, or "
    file = _downloaded(variant, extra)
    return Pretrained(read_safetensors(file, "remove it; it is fetched again"), f"timm/{file.stem}", sha256_of(file))


def pad_statically(module: nn.Module, example: Tensor) -> None:
    """Replace timm's Conv2dSame, which computes its padding in each pass, by torch's Conv2d for inputs of the size of ``example``.

    "Same" padding of a strided convolution may need one more row at the bottom than at the top. Conv2d pads alike on both sides, so the
    kernel gets a row of zeros at the top, which is faster than padding the image first.
    """
    import torch
    from timm.layers.conv2d_same import Conv2dSame

    sizes: dict[nn.Module, tuple[int, int]] = {}
    found = [part for part in module.modules() if isinstance(part, Conv2dSame)]
    hooks = [part.register_forward_pre_hook(lambda part, given: sizes.update({part: tuple(given[0].shape[-2:])})) for part in found]
    with torch.no_grad():
        module(example)
    for hook in hooks:
        hook.remove()
    for parent in list(module.modules()):
        for name, part in list(parent.named_children()):
            if part in sizes:
                parent.register_module(name, _padded(part, sizes[part]))


def _padded(conv: Any, size: tuple[int, int]) -> nn.Module:
    """A Conv2d that computes the same as a Conv2dSame for inputs of a height and width, pixels."""
    import torch
    from torch import nn

    before, after = [], []
    for length, kernel, stride, dilation in zip(size, conv.kernel_size, conv.stride, conv.dilation, strict=True):
        total = max((math.ceil(length / stride) - 1) * stride + (kernel - 1) * dilation + 1 - length, 0)
        before.append(total // 2)
        after.append(total - total // 2)
    top, left = (more - less for more, less in zip(after, before, strict=True))
    if max(conv.dilation) > 1 and (top or left):  # a row of zeros would have to be as wide as the dilation
        return cast("nn.Module", conv)
    weight = torch.nn.functional.pad(conv.weight.detach(), (left, 0, top, 0))
    plain = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        (weight.shape[2], weight.shape[3]),
        conv.stride,
        (after[0], after[1]),
        conv.dilation,
        conv.groups,
        bias=conv.bias is not None,
        device=weight.device,
        dtype=weight.dtype,
    )
    plain.load_state_dict({"weight": weight} | ({} if conv.bias is None else {"bias": conv.bias.detach()}))
    return plain.requires_grad_(conv.weight.requires_grad)


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


def _file_of(package: str) -> Path | None:
    """The file of weights in an installed package, found without importing it; None if it is not installed."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.suffix == ".pth"), None)


def renamed(state: Any, variant: str, file: Path) -> dict[str, Tensor]:
    """The tensors of a state dict under timm's names.

    efficientnet_pytorch, whose names the packages use, lists the layers in timm's order; shapes are compared one by one.

    Args:
        state: the content of ``file``, as read.
        variant: timm's name of the network.
        file: named in errors.

    Raises:
        InvalidFile: another number of tensors, or a tensor of another shape.
    """
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


def _downloaded(variant: str, otherwise: str) -> Path:
    """The file of timm's weights in torch's cache; downloaded if it is missing. ``otherwise`` starts the hint of what to do offline."""
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
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise MissingDependency(
            f"the pretrained weights of {variant} are not on this machine and cannot be fetched: {getattr(error, 'reason', error)}",
            f"{otherwise}fetch {url} elsewhere and put it at {file}, or give --weights FILE or --weights none",
        ) from error
    except OSError as error:
        raise StepFailed(
            f"cannot keep the pretrained weights at {file}: {error.strerror or error}", "choose another folder with $TORCH_HOME"
        ) from error
    return file

"""A classifier as stages from stem to head, and the image contract as its first layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from tlexport.checkpoint import AGAIN, RECORD, WEIGHTS, Checkpoint, InitialWeights
from tlexport.contract import Preprocess
from tlexport.errors import InvalidFile
from tlexport.plugins import backbone_names, family_of, source_of, traits_of
from tlexport.storage.untrusted import read_safetensors


class Network(nn.Module):
    """A classifier as a sequence of stages.

    ``net`` keeps the module and parameter names of its source, such as torchvision, so that its state dict is one of that library;
    ``stages`` are the same modules in the order in which they run. :meth:`forward` runs the stages.
    """

    def __init__(self, backbone: str, num_classes: int, net: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes
        self.net = net
        self.initial_weights: InitialWeights | None = None  # None: random, or not loaded for training
        # not registered: the modules belong to net, and the state dict keeps the source's names
        object.__setattr__(self, "stages", family_of(backbone).stages(net))

    stages: dict[str, nn.Module]

    def forward(self, images: Tensor) -> Tensor:
        """Normalised float32 (batch, 3, height, width) -> logits float32 (batch, class)."""
        for stage in self.stages.values():
            images = stage(images)
        return images

    def load(self, state: Mapping[str, Tensor], strict: bool = True) -> None:
        """Load a state dict of the source, complete unless ``strict`` is False; values are converted to the parameters' types."""
        versioned = self.net.state_dict()  # it contains the version that MNASNet requires, which tensors lack
        versioned.clear()
        versioned.update(state)
        self.net.load_state_dict(versioned, strict=strict)


class Contract(nn.Module):
    """The first layer of every exported graph: raw pixels in, normalised planes out.

    Cast first, then transpose, then scale: the uint8 input feeds nothing but a Cast (TensorRT's rule), and with
    ``contiguous`` the exporter does not mistake the layout for strides.
    """

    scale: Tensor
    bias: Tensor

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        mean, std = torch.tensor(preprocess.mean).view(1, 3, 1, 1), torch.tensor(preprocess.std).view(1, 3, 1, 1)
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("bias", -mean / std, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """RGB 0..255, uint8 or float32 (batch, height, width, 3) -> normalised float32 (batch, 3, height, width)."""
        return pixels.to(torch.float32).permute(0, 3, 1, 2).contiguous() * self.scale + self.bias


class PlaneMean(nn.Module):
    """Global average pooling, bit-identical, as one operator for every memory layout.

    Of planes that were permuted, torch's own pooling also copies the strides, which the exporter writes out as a
    ``Gather`` over computed indices.
    """

    def forward(self, planes: Tensor) -> Tensor:
        """(batch, channel, height, width) -> (batch, channel, 1, 1)."""
        return planes.mean((-1, -2), keepdim=True)


class Classifier(nn.Module):
    """Contract, network and softmax: the function that every exported graph must compute."""

    def __init__(self, network: Network, preprocess: Preprocess) -> None:
        super().__init__()
        self.contract = Contract(preprocess)
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """RGB 0..255, uint8 or float32 (batch, height, width, 3) -> probabilities float32 (batch, class)."""
        return torch.softmax(self.network(self.contract(image)), dim=1)


def build(backbone: str, num_classes: int) -> Network:
    """A randomly initialised network (torch's global generator). Raises MissingDependency if its source is not installed."""
    family = family_of(backbone)
    net = source_of(backbone).build(backbone, traits_of(backbone))
    family.replace_classifier(net, num_classes)
    return Network(backbone, num_classes, net)


def load_network(path: Path, checkpoint: Checkpoint) -> Network:
    """The trained network of a checkpoint directory whose record was read (and hash checked) before, in evaluation mode.

    Raises:
        InvalidFile: the weights are not those of the record's backbone and classes, or not finite.
    """
    backbone, classes = checkpoint.recipe.backbone, len(checkpoint.classes)
    if backbone not in backbone_names():
        raise InvalidFile(f"{path / RECORD}: there is no backbone {backbone!r:.80}", "list them with: tlx backbones")
    state = read_safetensors(path / WEIGHTS, AGAIN)
    if not any(
        tensor.dim() and len(tensor) == classes for tensor in state.values()
    ):  # checked before a network with that many classes is built
        raise InvalidFile(f"{path / WEIGHTS} holds no classifier for the {classes} classes of {path / RECORD}", AGAIN)
    network = build(backbone, classes)
    _expect_fitting(state, network.net.state_dict(), path / WEIGHTS, backbone)
    for name, values in state.items():
        if bad := int((~torch.isfinite(values)).sum()):
            raise InvalidFile(
                f"{path / WEIGHTS}: {bad} of the {values.numel()} values of {name} are not finite; a trained network has finite ones",
                "train again with a lower rate: tlx finetune DATA --lr RATE",
            )
    network.load(state)
    return network.eval()


def _expect_fitting(state: Mapping[str, Tensor], own: Mapping[str, Tensor], file: Path, backbone: str) -> None:
    """Raise InvalidFile unless names, shapes and types are those of the network; the message has the first that differ."""
    wrong = [f"{name} is missing" for name in own if name not in state]
    wrong += [f"{name[:80]} is unknown" for name in state if name not in own]
    for name in own.keys() & state.keys():
        found, expected = state[name], own[name]
        if (found.shape, found.dtype) != (expected.shape, expected.dtype):
            wrong.append(f"{name} is {found.dtype} {list(found.shape)}, expected {expected.dtype} {list(expected.shape)}")
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise InvalidFile(f"{file} does not fit {backbone}: {'; '.join(sorted(wrong)[:3])}{more}", AGAIN)


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Limit torch's CPU threads inside the block; None: no limit."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

"""The networks of the published latencies, as ONNX files with random weights::

    python benchmarks/published_networks.py FOLDER

Existing files are kept. Most networks come from torchvision; those of Caffe and Keras in ncnn's benchmark are built here. Inception-v4 is
omitted (two rows).
"""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch
from board_rows import SIDES
from torch import Tensor, nn
from torchvision import models
from torchvision.models.efficientnet import EfficientNet, FusedMBConvConfig, MBConvConfig
from torchvision.models.resnet import Bottleneck

from tlexport.export.rewrite import clean

OPSET = 18


def mobilenet_v1(width: float = 1.0) -> nn.Module:
    """MobileNet (Howard et al., 2017, table 1)."""

    def block(before: int, after: int, kernel: int, stride: int, groups: int = 1) -> list[nn.Module]:
        conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)
        return [conv, nn.BatchNorm2d(after), nn.ReLU()]

    channels = int(32 * width)
    layers = block(3, channels, 3, 2)
    for wanted, stride in [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]:
        layers += block(channels, channels, 3, stride, channels) + block(channels, int(wanted * width), 1, 1)
        channels = int(wanted * width)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))


def _conv(before: int, after: int, kernel: int, stride: int = 1, padding: int = 0, groups: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(before, after, kernel, stride, padding, groups=groups), nn.ReLU()]


def caffe_alexnet() -> nn.Module:
    """AlexNet as published: five convolutions, three of them in two groups, and 61 million weights.

    Here and below, a sigmoid replaces the local response normalisation: one layer without weights.
    """
    return nn.Sequential(
        *(*_conv(3, 96, 11, 4), nn.Sigmoid(), nn.MaxPool2d(3, 2)),
        *(*_conv(96, 256, 5, 1, 2, groups=2), nn.Sigmoid(), nn.MaxPool2d(3, 2)),
        *_conv(256, 384, 3, 1, 1),
        *_conv(384, 384, 3, 1, 1, groups=2),
        *(*_conv(384, 256, 3, 1, 1, groups=2), nn.MaxPool2d(3, 2), nn.Flatten()),
        *(nn.Linear(9216, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000)),
    )


class Inception(nn.Module):
    """Four parallel branches: 1x1; 1x1 and 3x3; 1x1 and 5x5; a pool and 1x1."""

    def __init__(self, before: int, one: int, *rest: int) -> None:
        super().__init__()
        three_in, three, five_in, five, pool = rest
        self.one = nn.Sequential(*_conv(before, one, 1))
        self.three = nn.Sequential(*_conv(before, three_in, 1), *_conv(three_in, three, 3, 1, 1))
        self.five = nn.Sequential(*_conv(before, five_in, 1), *_conv(five_in, five, 5, 1, 2))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), *_conv(before, pool, 1))

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self.one(images), self.three(images), self.five(images), self.pool(images)], 1)


def caffe_googlenet() -> nn.Module:
    """GoogLeNet (Szegedy et al., 2014, table 1) with its 5x5 convolutions, which torchvision's version lacks."""
    halve = partial(nn.MaxPool2d, 3, 2, ceil_mode=True)
    return nn.Sequential(
        *(*_conv(3, 64, 7, 2, 3), halve(), nn.Sigmoid()),
        *(*_conv(64, 64, 1), *_conv(64, 192, 3, 1, 1), nn.Sigmoid(), halve()),
        *(Inception(192, 64, 96, 128, 16, 32, 32), Inception(256, 128, 128, 192, 32, 96, 64), halve()),
        *(Inception(480, 192, 96, 208, 16, 48, 64), Inception(512, 160, 112, 224, 24, 64, 64)),
        *(Inception(512, 128, 128, 256, 24, 64, 64), Inception(512, 112, 144, 288, 32, 64, 64)),
        *(Inception(528, 256, 160, 320, 32, 128, 128), halve()),
        *(Inception(832, 256, 160, 320, 32, 128, 128), Inception(832, 384, 192, 384, 48, 128, 128)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1024, 1000)),
    )


def caffe_resnet50() -> nn.Module:
    """ResNet-50 with the stride in the first convolution of a block, as published; torchvision has it in the second."""
    net: nn.Module = models.resnet50()
    for block in net.modules():
        if isinstance(block, Bottleneck):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    return net


def efficientnetv2_b0() -> nn.Module:
    """EfficientNetV2-B0 of Keras: the smallest of the family (Tan and Le, 2021, with the widths of EfficientNet-B0)."""
    fused, mbconv = FusedMBConvConfig, MBConvConfig
    stages = [fused(1, 3, 1, 32, 16, 1), fused(4, 3, 2, 16, 32, 2), fused(4, 3, 2, 32, 48, 2)]
    stages += [mbconv(4, 3, 2, 48, 96, 3), mbconv(6, 3, 1, 96, 112, 5), mbconv(6, 3, 2, 112, 192, 8)]
    net: nn.Module = EfficientNet(stages, 0.2, last_channel=1280)
    return net


BUILT: dict[str, Callable[[], nn.Module]] = {
    "caffe_alexnet": caffe_alexnet,
    "caffe_googlenet": caffe_googlenet,
    "caffe_resnet50": caffe_resnet50,
    "efficientnetv2_b0": efficientnetv2_b0,
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v1_050": partial(mobilenet_v1, 0.5),
    "mobilenet_v1_025": partial(mobilenet_v1, 0.25),
}
TORCHVISION = (
    *("alexnet", "densenet121", "densenet161", "densenet169", "densenet201", "efficientnet_b0", "mnasnet0_5", "mnasnet1_0"),
    *("mnasnet1_3", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "resnet34", "resnet50"),
    *("resnet101", "resnet152", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0", "squeezenet1_0"),
    *("squeezenet1_1", "vgg11", "vgg13", "vgg16", "vgg19"),
)
FILES = (*BUILT, *TORCHVISION, "resnet18-256", "resnet34-256", "resnet50-256", "squeezenet1_1-227")


def export(file: str, folder: Path) -> Path:
    """Write one as FILE.onnx, FP32, (1, 3, side, side) -> logits, unless it exists."""
    path = folder / f"{file}.onnx"
    if path.exists():
        return path
    name, _, size = file.partition("-")
    side = int(size or SIDES.get(name, 224))
    torch.manual_seed(0)
    net = (BUILT[name]() if name in BUILT else models.get_model(name, weights=None)).eval()
    with contextlib.redirect_stdout(io.StringIO()):
        program: Any = torch.onnx.export(
            net, (torch.zeros(1, 3, side, side),), dynamo=True, opset_version=OPSET, external_data=False, verbose=False
        )
    onnx.save(clean(program.model_proto), path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for file in FILES:
        print(export(file, folder))


if __name__ == "__main__":
    main()

"""Augmentation of a batch of training images. All randomness comes from a generator and torch's global one, which the loop seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

Level = Literal["none", "light", "medium", "strong"]

SMALLEST_CROP = {
    "light": 0.7,
    "medium": 0.5,
    "strong": 0.35,
}  # share of the image's area; torchvision's 0.08 loses the object on small sets
MIXUP_ALPHA, CUTMIX_ALPHA = 0.2, 1.0  # Zhang et al. 2018; Yun et al. 2019


class Augment:
    """One level of augmentation.

    ``light``: random resized crop and flip. ``medium``: also TrivialAugment (Mueller and Hutter 2021). ``strong``: also
    RandAugment (Cubuk et al. 2020) in its place, random erasing (Zhong et al. 2020), and mixup or CutMix of the batch.
    """

    def __init__(self, level: Level, flip: bool) -> None:
        self.level = level
        self.flip = flip
        self.policy = {"medium": v2.TrivialAugmentWide(), "strong": v2.RandAugment()}.get(level)
        self.erase = v2.RandomErasing(p=0.25, value=127) if level == "strong" else None

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """uint8 (batch, height, width, 3) -> float32 (batch, height, width, 3), 0..255."""
        if self.policy is not None:
            planes = [self.policy(image) for image in pixels.permute(0, 3, 1, 2)]
            pixels = torch.stack([self.erase(image) if self.erase else image for image in planes]).permute(0, 2, 3, 1)
        return crop_and_flip(pixels, SMALLEST_CROP[self.level], self.flip, generator)


def crop_and_flip(pixels: Tensor, smallest: float, flip: bool, generator: torch.Generator) -> Tensor:
    """Random resized crop and, if ``flip``, random mirroring, all images in one operation, on the tensor's own device.

    Args:
        pixels: uint8 (batch, height, width, 3).
        smallest: share of the image's area that a crop has at least.
        flip: whether images may be mirrored left to right.
        generator: source of all randomness; a CPU generator.

    Returns:
        float32 (batch, height, width, 3), 0..255.
    """
    n, height, width, _ = pixels.shape
    area = torch.empty(n).uniform_(smallest, 1.0, generator=generator)
    aspect = torch.empty(n).uniform_(-0.2, 0.2, generator=generator).exp()
    scale_x, scale_y = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    mirror = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0) if flip else torch.ones(n)
    shift = torch.empty(n, 2).uniform_(-1, 1, generator=generator)
    zero = torch.zeros(n)
    theta = torch.stack(
        [
            torch.stack([scale_x * mirror, zero, shift[:, 0] * (1 - scale_x)], 1),
            torch.stack([zero, scale_y, shift[:, 1] * (1 - scale_y)], 1),
        ],
        1,
    ).to(pixels.device)
    planes = pixels.permute(0, 3, 1, 2).float()
    grid = F.affine_grid(theta, [n, 3, height, width], align_corners=False)
    return F.grid_sample(planes, grid, padding_mode="border", align_corners=False).permute(0, 2, 3, 1)


@dataclass(frozen=True)
class Mix:
    """How the rows of a batch are mixed with one another: row ``i`` with row ``partner[i]``."""

    share: float  # of the row itself, 0..1; the partner has the rest
    partner: Tensor  # int64 (batch,)

    def blend(self, rows: Tensor) -> Tensor:
        """Mix targets or inputs as wholes: (batch, ...) -> the same."""
        return self.share * rows + (1 - self.share) * rows[self.partner.to(rows.device)]


def mix_batch(inputs: Tensor, generator: torch.Generator) -> tuple[Tensor, Mix]:
    """Mixup, or for inputs with a height and width in every second batch CutMix.

    Args:
        inputs: what the trained stages see, float32 (batch, ...): images, or features of the frozen stages (which is
            manifold mixup, Verma et al. 2019).
        generator: source of all randomness.

    Returns:
        The mixed inputs, and how to mix the targets alike.
    """
    partner = torch.randperm(len(inputs), generator=generator)
    spatial = inputs.dim() == 4 and min(inputs.shape[2:]) > 1
    if spatial and torch.rand((), generator=generator) < 0.5:
        height, width = inputs.shape[2:]
        share = _beta(CUTMIX_ALPHA, generator)
        box_h, box_w = round(height * (1 - share) ** 0.5), round(width * (1 - share) ** 0.5)
        top = int(torch.randint(0, height - box_h + 1, (), generator=generator))
        left = int(torch.randint(0, width - box_w + 1, (), generator=generator))
        mixed = inputs.clone()
        box = (slice(None), slice(None), slice(top, top + box_h), slice(left, left + box_w))
        mixed[box] = inputs[partner.to(inputs.device)][box]
        return mixed, Mix(1 - box_h * box_w / (height * width), partner)
    mix = Mix(_beta(MIXUP_ALPHA, generator), partner)
    return mix.blend(inputs), mix


def _beta(alpha: float, generator: torch.Generator) -> float:
    """A draw from Beta(alpha, alpha), by Johnk's method (1964): torch's own Beta takes no generator."""
    while True:
        x, y = (torch.rand(2, dtype=torch.float64, generator=generator) ** (1 / alpha)).tolist()
        if 0 < x + y <= 1:
            return float(x / (x + y))

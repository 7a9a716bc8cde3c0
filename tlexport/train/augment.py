"""Augmentation of a batch of training images, drawn from a generator, so that a seed fixes it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST_CROP = 0.7  # share of the image's area; torchvision's 0.08 loses the object on small image sets


def light(pixels: Tensor, flip: bool, generator: torch.Generator) -> Tensor:
    """Random resized crop and, if ``flip``, random mirroring.

    Args:
        pixels: uint8 (batch, height, width, 3).
        flip: whether images may be mirrored left to right.
        generator: source of all randomness; a CPU generator.

    Returns:
        float32 (batch, height, width, 3), 0..255.
    """
    n, height, width, _ = pixels.shape
    area = torch.empty(n).uniform_(SMALLEST_CROP, 1.0, generator=generator)
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

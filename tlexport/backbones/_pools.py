"""Stages of families whose layers form one sequence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def up_to_each_pool(layers: Iterable[nn.Module]) -> dict[str, nn.Sequential]:
    """``stem``, ``stage1`` and so on: a stage ends with each max-pooling, and with the last layer."""
    from torch import nn

    blocks: list[list[nn.Module]] = [[]]
    for layer in layers:
        if blocks[-1] and isinstance(blocks[-1][-1], nn.MaxPool2d):
            blocks.append([])
        blocks[-1].append(layer)
    return {f"stage{number}" if number else "stem": nn.Sequential(*block) for number, block in enumerate(blocks)}

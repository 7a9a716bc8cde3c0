"""Deterministic random inputs for a model without data, from its declared shapes and types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tlexport.errors import Unsupported

if TYPE_CHECKING:
    from tlexport.contract import TensorSpec
    from tlexport.ports import Array

IMAGE = "image"  # input name of tlexport's graphs, which takes pixels 0..255 in every type


def synthetic_inputs(
    what: str, specs: Sequence[TensorSpec], batch: int, shapes: Mapping[str, Sequence[int]]
) -> tuple[dict[str, Array], tuple[str, ...]]:
    """One batch of every input.

    Args:
        what: the user's name of the model.
        specs: its inputs.
        batch: length of a free first axis.
        shapes: shapes of the inputs that have other free axes.

    Returns:
        The arrays, and a description of each.

    Raises:
        Unsupported: an axis other than the first is free, so its length is unknown.
    """
    draw = np.random.default_rng(0)
    feed: dict[str, Array] = {}
    words = []
    for spec in specs:
        shape = tuple(shapes.get(spec.name) or _shape(what, spec, batch))
        feed[spec.name], values = _drawn(draw, spec, shape)
        words.append(f"{spec.name} {spec.dtype} {'x'.join(map(str, shape)) or 'scalar'}, {values}")
    return feed, tuple(words)


def _shape(what: str, spec: TensorSpec, batch: int) -> tuple[int, ...]:
    lengths = [batch if place == 0 and isinstance(axis, str) else axis for place, axis in enumerate(spec.shape)]
    fixed = tuple(axis for axis in lengths if isinstance(axis, int))
    if len(fixed) != len(lengths):
        example = "x".join(str(axis) if isinstance(axis, int) else "N" for axis in lengths)
        raise Unsupported(
            f"no input can be generated for {what}: '{spec.name}' has free axes, {spec.shape}",
            f"give their lengths: --shape {spec.name}={example}",
        )
    return fixed


def _drawn(draw: np.random.Generator, spec: TensorSpec, shape: tuple[int, ...]) -> tuple[Array, str]:
    """Integers other than pixels are 0 or 1, because they may index a table of unknown length."""
    if spec.dtype == "uint8" or (spec.name == IMAGE and spec.dtype.startswith("float")):
        return draw.integers(0, 256, shape, dtype=np.uint8).astype(spec.dtype), "random pixels 0..255"
    if spec.dtype.startswith("float"):
        return draw.standard_normal(shape).astype(spec.dtype), "standard normal"
    return draw.integers(0, 2, shape).astype(spec.dtype), "random 0 and 1"

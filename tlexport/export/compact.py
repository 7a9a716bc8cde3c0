"""Compacts a model file: removes what no runtime needs. Names take a tenth of a small INT8 model."""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator

import onnx
from onnx import numpy_helper

from tlexport.onnx_model.graph import copy_of, without_unused

DIGITS = string.digits + string.ascii_letters


def compact(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with bit-identical results. Inputs, outputs and nodes keep their names; the given graph is not changed.

    Equal constants are merged (most zero points are 0, and each bias has one per channel), tensors get short names, and
    shapes are left out, which every runtime infers.
    """
    result = copy_of(model)
    graph = result.graph
    del graph.value_info[:]
    renamed = {value.name: value.name for value in (*graph.input, *graph.output)}
    names = (name for name in _short_names() if name not in renamed)
    same: dict[tuple[int, tuple[int, ...], bytes], str] = {}  # name of the first constant with this type, shape and content
    for tensor in graph.initializer:
        content = tensor.data_type, tuple(tensor.dims), numpy_helper.to_array(tensor).tobytes()
        if content not in same:
            same[content] = tensor.name if tensor.name in renamed else next(names)
            renamed[tensor.name] = same[content]
        renamed.setdefault(tensor.name, same[content])
        tensor.name = renamed[tensor.name]
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]  # an omitted input has an empty name
        for name in node.output:
            if name and name not in renamed:
                renamed[name] = next(names)
        node.output[:] = [renamed.get(name, name) for name in node.output]
    kept = {tensor.name: tensor for tensor in copy_of(result).graph.initializer}
    del graph.initializer[:]
    graph.initializer.extend(kept.values())
    return without_unused(result)


def _short_names() -> Iterator[str]:
    """a, b, ..., aa, ab, ...; never a digit first."""
    for length in itertools.count(1):
        for letters in itertools.product(DIGITS, repeat=length):
            if not letters[0].isdigit():
                yield "".join(letters)

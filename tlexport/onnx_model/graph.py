"""What all that works on ONNX graphs does with them: copies, constants and readers, unread constants dropped, shared channels found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import onnx


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """A deep copy."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Initializers by name."""
    return {tensor.name: tensor for tensor in graph.initializer}


def shapes_of(graph: onnx.GraphProto) -> dict[str, list[int]]:
    """Name -> shape of each activation whose type the graph holds; 0 for an axis that is free."""
    values = (*graph.value_info, *graph.input, *graph.output)
    return {value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in values}


def readers_of(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read each tensor, by its name; a node that reads it twice is there twice."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


@dataclass
class Channels:
    """Activations with the same channels, since each is computed from another channel by channel; what gives them and takes them."""

    names: set[str] = field(default_factory=set)
    makers: list[onnx.NodeProto] = field(default_factory=list)  # weighted nodes that give one of them
    readers: list[onnx.NodeProto] = field(default_factory=list)  # weighted nodes that take one of them
    depthwise: list[onnx.NodeProto] = field(default_factory=list)  # convolutions between two of them
    fixed: bool = False  # something else gives or takes one of them


class ChannelGroups:
    """The activations of a graph, by which others they share their channels with."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._of: dict[str, Channels] = {}
        self.fix(value.name for value in (*graph.input, *graph.output))

    def join(self, *names: str) -> Channels:
        """The group of these activations, which are one from now on."""
        joined = Channels()
        for name in names:
            found = self._of.get(name) or Channels({name})
            if found is joined:
                continue
            joined.names |= found.names
            joined.makers += found.makers
            joined.readers += found.readers
            joined.depthwise += found.depthwise
            joined.fixed |= found.fixed
            self._of.update(dict.fromkeys(found.names, joined))
        return joined

    def fix(self, names: Iterable[str]) -> None:
        """Something that is not followed gives or takes these activations."""
        for name in names:
            self.join(name).fixed = True

    def all(self) -> list[Channels]:
        """Each group once."""
        return list({id(found): found for found in self._of.values()}.values())


def without_unused(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without initializers that no node reads."""
    model = copy_of(model)
    read = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model

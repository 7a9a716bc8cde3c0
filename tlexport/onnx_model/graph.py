"""Operations on ONNX graphs: copies, constants, readers, removal of unread constants, and groups of shared channels."""

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
    """Name -> shape of each activation with a type in the graph; 0 for a free axis."""
    values = (*graph.value_info, *graph.input, *graph.output)
    return {value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in values}


def readers_of(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read each tensor, by its name; a node that reads it twice occurs twice."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


@dataclass
class Channels:
    """Activations that share channels, because each is computed channel by channel from another, with their producers and consumers."""

    names: set[str] = field(default_factory=set)
    makers: list[onnx.NodeProto] = field(default_factory=list)  # weighted nodes that write one of them
    readers: list[onnx.NodeProto] = field(default_factory=list)  # weighted nodes that read one of them
    depthwise: list[onnx.NodeProto] = field(default_factory=list)  # convolutions between two of them
    fixed: bool = False  # another kind of node writes or reads one of them


class ChannelGroups:
    """The groups of activations in a graph that share channels."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._of: dict[str, Channels] = {}
        self.fix(value.name for value in (*graph.input, *graph.output))

    def join(self, *names: str) -> Channels:
        """Merge the groups of these activations, and return the merged group."""
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
        """Mark the groups of these activations as open: an unsupported node writes or reads them."""
        for name in names:
            self.join(name).fixed = True

    def all(self) -> list[Channels]:
        """All groups, each once."""
        return list({id(found): found for found in self._of.values()}.values())


def without_unused(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove initializers that no node reads."""
    model = copy_of(model)
    read = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model

"""The image as a convolution reads it that does not pad: in a frame, and with what each of its strides goes over as one pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Colour = npt.NDArray[np.uint8]  # (channel,)
Weight = npt.NDArray[np.float32]  # (filter, channel, row, column)
FRAMED, BLOCKS = "pixels_in_frame", "pixels_in_blocks"  # tensors: the images with a frame around them, and of blocks


@dataclass(frozen=True)
class _Reading:
    """How a convolution goes over an image. All are pixels, along the height and along the width."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    before: tuple[int, int]  # padding at the top and at the left
    after: tuple[int, int]  # padding at the bottom and at the right that is read; negative: so much of the image is not
    sides: tuple[int, int]  # of the image

    @classmethod
    def of(cls, conv: onnx.NodeProto, kernel: Sequence[int], sides: tuple[int, int]) -> _Reading:
        values = {attribute.name: helper.get_attribute_value(attribute) for attribute in conv.attribute}
        pads, strides = values.get("pads", [0] * 4), values.get("strides", [1, 1])
        after = []
        for axis, length in enumerate(sides):
            steps = (length + pads[axis] + pads[axis + 2] - kernel[axis]) // strides[axis]
            after.append(steps * strides[axis] + kernel[axis] - length - pads[axis])
        return cls((kernel[0], kernel[1]), (strides[0], strides[1]), (pads[0], pads[1]), (after[0], after[1]), sides)

    def in_whole_strides(self) -> _Reading:
        """The same, with the kernel filled up at its end to a multiple of the stride."""
        more = [-kernel % stride for kernel, stride in zip(self.kernel, self.strides, strict=True)]
        kernel, after = ((sides[0] + more[0], sides[1] + more[1]) for sides in (self.kernel, self.after))
        return replace(self, kernel=kernel, after=after)

    @property
    def frame(self) -> tuple[int, int, int, int]:
        """Pixels at the top, left, bottom and right."""
        return *self.before, max(0, self.after[0]), max(0, self.after[1])

    @property
    def shape(self) -> tuple[int, int]:
        """Sides of the image in its frame."""
        top, left, bottom, right = self.frame
        return self.sides[0] + top + bottom, self.sides[1] + left + right


def sides_of(graph: onnx.GraphProto) -> tuple[int, int]:
    """Height and width of the images (image, height, width, channel) that a graph takes, pixels; 0 where one is free."""
    axes = [axis.dim_value for axis in graph.input[0].type.tensor_type.shape.dim]
    return axes[1], axes[2]


def without_padding(
    graph: onnx.GraphProto, colour: Colour, conv: onnx.NodeProto, weight: Weight
) -> tuple[list[onnx.NodeProto], Weight, tuple[int, int]]:
    """What goes before a convolution of images so that it need not pad them, nor take strides where these fit the image.

    What a stride goes over becomes one pixel of more channels ("space to depth"), and filters that are filled up with zeros read
    these one by one. ONNX Runtime's INT8 convolutions read in place what has a multiple of four channels, and gather three at a time:
    a sixth of a ResNet-18's time at 224 px, a tenth of a MobileNetV2's.

    Args:
        graph: takes images uint8 (image, height, width, 3), of known sides; constants of the nodes are added to it.
        colour: of the pixels around the image.
        conv: says its padding in numbers, and is not dilated.
        weight: its filters.

    Returns:
        The nodes, of which the last gives the images; the filters and the strides that read them.
    """
    reading = _Reading.of(conv, weight.shape[2:], sides_of(graph))
    whole = reading.in_whole_strides()
    if min(whole.strides) == 1 or min(whole.after) < 0:  # blocks behind the last that is read would have to be cut away
        return _framed(graph, colour, reading), weight, reading.strides
    nodes = _framed(graph, colour, whole)
    nodes += _in_blocks(graph, nodes[-1].output[0] if nodes else graph.input[0].name, whole)
    return nodes, _of_blocks(weight, whole), (1, 1)


def _framed(graph: onnx.GraphProto, colour: Colour, reading: _Reading) -> list[onnx.NodeProto]:
    """Nodes that put a frame around the images; none where it has no pixels."""
    top, left, bottom, right = reading.frame
    if not any((top, left, bottom, right)):
        return []
    image, (height, width) = graph.input[0].name, (reading.shape[0], reading.sides[1])
    ends = [_constant(graph, f"frame_{end}", np.array([end], np.int64)) for end in (0, 1)]
    nodes = [
        helper.make_node("Shape", [image], ["frame_shape"], name="frame_shape"),
        helper.make_node("Slice", ["frame_shape", *ends], ["frame_images"], name="frame_images"),
    ]

    def strip(side: str, rows: int, columns: int) -> list[str]:
        if not rows * columns:
            return []
        name, shape = f"frame_{side}", np.array([rows, columns, len(colour)], np.int64)
        pixels = _constant(graph, f"{name}_pixels", np.broadcast_to(colour, (1, *shape)).copy())
        of_all = ["frame_images", _constant(graph, f"{name}_sides", shape)]
        nodes.append(helper.make_node("Concat", of_all, [f"{name}_of"], name=f"{name}_of", axis=0))
        nodes.append(helper.make_node("Expand", [pixels, f"{name}_of"], [name], name=name))
        return [name]

    rows = [*strip("top", top, width), image, *strip("bottom", bottom, width)]
    nodes.append(helper.make_node("Concat", rows, ["frame_rows"], name="frame_rows", axis=1))
    columns = [*strip("left", height, left), "frame_rows", *strip("right", height, right)]
    nodes.append(helper.make_node("Concat", columns, [FRAMED], name=FRAMED, axis=2))
    return nodes


def _in_blocks(graph: onnx.GraphProto, image: str, reading: _Reading) -> list[onnx.NodeProto]:
    """Nodes that make one pixel of each block of a stride's sides: (image, row, column, channel of all its pixels).

    Rows are split and joined again: ONNX Runtime is four times slower at a transposition of so few bytes.
    """
    (high, wide), (height, width) = reading.strides, reading.shape
    rows, columns = height // high, width // wide
    apart = _constant(graph, "blocks_rows_shape", np.array([0, rows, high, width * 3], np.int64))
    whole = _constant(graph, "blocks_row_shape", np.array([0, rows, columns, wide * 3], np.int64))
    singly = _constant(graph, "blocks_split_lengths", np.ones(high, np.int64))  # an input from opset 13 on; left out, 18 wants an attribute
    parts = [f"blocks_row{row}" for row in range(high)]
    return [
        helper.make_node("Reshape", [image, apart], ["blocks_rows"], name="blocks_rows"),
        helper.make_node("Split", ["blocks_rows", singly], [f"{name}_flat" for name in parts], name="blocks_split", axis=2),
        *(helper.make_node("Reshape", [f"{name}_flat", whole], [name], name=name) for name in parts),
        helper.make_node("Concat", parts, [BLOCKS], name=BLOCKS, axis=3),
    ]


def _of_blocks(weight: Weight, reading: _Reading) -> Weight:
    """Filters (filter, 3, row, column) as they read what :func:`_in_blocks` makes: (filter, channel of a block, row, column of blocks)."""
    (high, wide), (height, width) = reading.strides, reading.kernel
    more = [(0, 0), (0, 0), (0, height - weight.shape[2]), (0, width - weight.shape[3])]
    filled = np.pad(weight, more).reshape(len(weight), 3, height // high, high, width // wide, wide)
    return filled.transpose(0, 3, 5, 1, 2, 4).reshape(len(weight), -1, height // high, width // wide)


def _constant(graph: onnx.GraphProto, name: str, value: npt.NDArray[np.generic]) -> str:
    graph.initializer.append(numpy_helper.from_array(value, name))
    return name

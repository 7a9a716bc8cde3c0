"""Explicit padding and space-to-depth for the first convolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Colour = npt.NDArray[np.uint8]  # (channel,)
Weight = npt.NDArray[np.float32]  # (filter, channel, row, column)
FRAMED, BLOCKS = "pixels_in_frame", "pixels_in_blocks"  # tensors: the padded images, and the images as blocks


@dataclass(frozen=True)
class _Reading:
    """The window of a convolution over an image, in pixels along height and width."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    before: tuple[int, int]  # padding at the top and left
    after: tuple[int, int]  # padding at the bottom and right that is read; negative: trailing pixels that the convolution never reads
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
        """The same window, with the kernel padded at its end to a multiple of the stride."""
        more = [-kernel % stride for kernel, stride in zip(self.kernel, self.strides, strict=True)]
        kernel, after = ((sides[0] + more[0], sides[1] + more[1]) for sides in (self.kernel, self.after))
        return replace(self, kernel=kernel, after=after)

    @property
    def frame(self) -> tuple[int, int, int, int]:
        """Padding at the top, left, bottom and right, pixels."""
        return *self.before, max(0, self.after[0]), max(0, self.after[1])

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the padded image."""
        top, left, bottom, right = self.frame
        return self.sides[0] + top + bottom, self.sides[1] + left + right


def sides_of(graph: onnx.GraphProto) -> tuple[int, int]:
    """Height and width of the images (image, height, width, channel) that a graph takes, pixels; 0 for a free one."""
    axes = [axis.dim_value for axis in graph.input[0].type.tensor_type.shape.dim]
    return axes[1], axes[2]


def without_padding(
    graph: onnx.GraphProto, colour: Colour, conv: onnx.NodeProto, weight: Weight
) -> tuple[list[onnx.NodeProto], Weight, tuple[int, int]]:
    """Nodes that pad the images before the first convolution, and replace its strides by blocks where they fit the image.

    Each stride block (usually 2×2) becomes one 12-channel pixel (space-to-depth), which zero-padded filters read without strides. ONNX
    Runtime's INT8 convolutions read multiples of four channels in place, but gather three channels at a time, which takes a sixth of a
    ResNet-18's time at 224 px and a tenth of a MobileNetV2's.

    Args:
        graph: takes images uint8 (image, height, width, 3) of known size; the constants of the nodes are added to it.
        colour: of the padding.
        conv: has explicit padding and no dilation.
        weight: its filters.

    Returns:
        The nodes, the last of which produces the images, and the filters and strides that read them.
    """
    reading = _Reading.of(conv, weight.shape[2:], sides_of(graph))
    whole = reading.in_whole_strides()
    if min(whole.strides) == 1 or min(whole.after) < 0:  # trailing blocks would have to be cropped
        return _framed(graph, colour, reading), weight, reading.strides
    nodes = _framed(graph, colour, whole)
    nodes += _in_blocks(graph, nodes[-1].output[0] if nodes else graph.input[0].name, whole)
    return nodes, _of_blocks(weight, whole), (1, 1)


def _framed(graph: onnx.GraphProto, colour: Colour, reading: _Reading) -> list[onnx.NodeProto]:
    """Nodes that pad the images; none without padding."""
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
    """Nodes that turn each stride block into one pixel: (image, row, column, channel of all its pixels).

    They split and join rows, because ONNX Runtime takes four times as long to transpose so few bytes.
    """
    (high, wide), (height, width) = reading.strides, reading.shape
    rows, columns = height // high, width // wide
    apart = _constant(graph, "blocks_rows_shape", np.array([0, rows, high, width * 3], np.int64))
    whole = _constant(graph, "blocks_row_shape", np.array([0, rows, columns, wide * 3], np.int64))
    # an input from opset 13 on; without it, opset 18 requires an attribute
    singly = _constant(graph, "blocks_split_lengths", np.ones(high, np.int64))
    parts = [f"blocks_row{row}" for row in range(high)]
    return [
        helper.make_node("Reshape", [image, apart], ["blocks_rows"], name="blocks_rows"),
        helper.make_node("Split", ["blocks_rows", singly], [f"{name}_flat" for name in parts], name="blocks_split", axis=2),
        *(helper.make_node("Reshape", [f"{name}_flat", whole], [name], name=name) for name in parts),
        helper.make_node("Concat", parts, [BLOCKS], name=BLOCKS, axis=3),
    ]


def _of_blocks(weight: Weight, reading: _Reading) -> Weight:
    """Filters (filter, 3, row, column) for the blocks of :func:`_in_blocks`: (filter, channel of a block, row, column of blocks)."""
    (high, wide), (height, width) = reading.strides, reading.kernel
    more = [(0, 0), (0, 0), (0, height - weight.shape[2]), (0, width - weight.shape[3])]
    filled = np.pad(weight, more).reshape(len(weight), 3, height // high, high, width // wide, wide)
    return filled.transpose(0, 3, 5, 1, 2, 4).reshape(len(weight), -1, height // high, width // wide)


def _constant(graph: onnx.GraphProto, name: str, value: npt.NDArray[np.generic]) -> str:
    graph.initializer.append(numpy_helper.from_array(value, name))
    return name

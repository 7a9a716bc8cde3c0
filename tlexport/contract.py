"""The image contract: the preprocessing before the graph, and the tensors of the graph. See docs/image-contract.md."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from tlexport.record import Record

Channel = float


class Preprocess(Record):
    """The preprocessing from a file to the graph's input, the same in training, evaluation and on the device.

    Decode (first frame, EXIF orientation, RGB, transparency over ``background``), resize so that the shorter side is
    ``resize`` pixels with Pillow's antialiased filter, cut the central ``size`` x ``size`` pixels. The normalisation
    ``(pixel / 255 - mean) / std`` is inside the exported graph.
    """

    size: int = Field(ge=8, le=2048, description="side of the square that enters the graph, pixels")
    resize: int = Field(ge=8, le=4096, description="shorter side after resizing, pixels; not less than size")
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    background: tuple[int, int, int] = Field((255, 255, 255), description="RGB 0..255 behind transparent pixels")
    mean: tuple[Channel, Channel, Channel] = Field((0.485, 0.456, 0.406), description="per channel RGB, of pixels scaled to 0..1")
    std: tuple[Channel, Channel, Channel] = (0.229, 0.224, 0.225)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.resize < self.size:
            raise ValueError(f"resize ({self.resize}) is less than size ({self.size}), so the crop would exceed the image")
        if min(self.background) < 0 or max(self.background) > 255:
            raise ValueError("background takes three values from 0 to 255")
        if min(self.std) <= 0:
            raise ValueError("std must be greater than 0")
        return self


class TensorSpec(Record):
    """One input or output tensor of a graph."""

    name: str
    dtype: Literal["uint8", "float32", "float16", "int64", "int32", "int8", "bool", "float64"]
    shape: tuple[int | str, ...] = Field(description="axis lengths; a name for a free axis, such as 'batch'")


def image_input(size: int, dtype: Literal["uint8", "float32"]) -> TensorSpec:
    """The graph's input: RGB pixels 0..255, (batch, height, width, channel)."""
    return TensorSpec(name="image", dtype=dtype, shape=("batch", size, size, 3))


def probabilities_output(num_classes: int) -> TensorSpec:
    """The graph's output: softmax probabilities 0..1, (batch, class), in the order of ``classes``."""
    return TensorSpec(name="probabilities", dtype="float32", shape=("batch", num_classes))

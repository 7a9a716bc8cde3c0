"""Artifact: one immutable model file, and how it came about."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tlexport.class_names import ClassNames
from tlexport.contract import Preprocess, TensorSpec
from tlexport.record import Record

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


class Tried(Record):
    """A method of calibration, and how good the model was that it gave: on training images that set no ranges."""

    method: str
    top1: float = Field(ge=0, le=1)
    divergence: float = Field(description="of its probabilities from those of FP32: Kullback-Leibler, mean over the images, nats")


class Calibration(Record):
    """Which images set the ranges of a quantized model. Always real training images, never random data."""

    method: str
    tried: tuple[Tried, ...] = Field((), description="what it was chosen from; nothing where there were too few images for a choice")
    images: int = Field(ge=1)
    part: Literal["train"] = "train"
    sha256: str = Field(description="of the sorted sha256 of the images used")


class Sensitivity(Record):
    """What INT8 does to one block: a weighted node and what follows it up to the next."""

    block: str = Field(description="name of its weighted node")
    divergence: float = Field(description="with this block alone in INT8: of the probabilities from those of FP32, as in Tried")


class Mixed(Record):
    """Which blocks of an INT8 model stayed in float for the sake of accuracy."""

    ranking: tuple[Sensitivity, ...] = Field(description="all blocks, the most harmed first")
    kept: tuple[str, ...] = Field(description="those in float, by the names of their weighted nodes")
    top1: float = Field(ge=0, le=1, description="on the training images kept for the choice")


class Shrunk(Record):
    """How a network was made smaller for the sake of the file's size, and trained to win back what that lost."""

    parameters: int = Field(ge=1)
    parameters_before: int = Field(ge=1)
    images: int = Field(ge=1, description="training images that it was trained with, taught by the whole network")
    epochs: int = Field(ge=1)


RungName = Literal[
    "calibration",
    "equalization",
    "bias correction",
    "equalization and bias correction",
    "blocks in float",
    "quantization-aware training",
    "blocks in float after quantization-aware training",
    "weights alone",
]


class Rung(Record):
    """One thing that was done so that INT8 loses less, and what it did."""

    rung: RungName
    top1: float = Field(ge=0, le=1, description="on the training images kept for the choice")
    divergence: float = Field(description="as in Tried")
    size_bytes: int = Field(ge=1)
    latency_ms: float | None = Field(description="the shortest of some runs; None where the target is not the machine of the export")
    kept: bool = Field(description="whether the model was made so")


class Artifact(Record):
    """The record of a model file. The file's name is given by whoever holds the record (the bundle's manifest)."""

    format: Literal["onnx"] = "onnx"
    precision: Precision
    opset: int = Field(ge=7)
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: Preprocess
    classes: ClassNames
    sha256: str
    size_bytes: int = Field(ge=1)
    parent_sha256: str = Field(description="of the file this one was made from")
    made_by: str = Field(description="the step and its settings")
    calibration: Calibration | None = None
    mixed: Mixed | None = None
    shrunk: Shrunk | None = Field(None, description="None: of the whole network")
    ladder: tuple[Rung, ...] = Field((), description="what was done for the accuracy of INT8, in order, as far as was needed")

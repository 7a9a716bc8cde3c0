"""Artifact: one immutable model file, and how it was made."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tlexport.class_names import ClassNames
from tlexport.contract import Preprocess, TensorSpec
from tlexport.record import Record

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


class Tried(Record):
    """A calibration method and the accuracy of its model, on training images that were not used for the ranges."""

    method: str
    top1: float = Field(ge=0, le=1)
    divergence: float = Field(description="of its probabilities from those of FP32: Kullback-Leibler, mean over the images, nats")


class Calibration(Record):
    """Which images set the ranges of a quantized model. Always real training images, never random data."""

    method: str
    tried: tuple[Tried, ...] = Field((), description="the methods compared; empty if there were too few images to compare")
    images: int = Field(ge=1)
    part: Literal["train"] = "train"
    sha256: str = Field(description="of the sorted sha256 of the images used")


class Sensitivity(Record):
    """The effect of INT8 on one block: a weighted node and the nodes up to the next one."""

    block: str = Field(description="name of its weighted node")
    divergence: float = Field(description="of the probabilities from FP32 with only this block in INT8, as in Tried")


class Mixed(Record):
    """The blocks of an INT8 model that stay in float for accuracy."""

    ranking: tuple[Sensitivity, ...] = Field(description="all blocks, the most sensitive first")
    kept: tuple[str, ...] = Field(description="blocks in float, by the names of their weighted nodes")
    top1: float = Field(ge=0, le=1, description="on the held-out training images")


class Shrunk(Record):
    """How a network was pruned to reduce the file size, and trained to recover its accuracy."""

    parameters: int = Field(ge=1)
    parameters_before: int = Field(ge=1)
    images: int = Field(ge=1, description="training images of the distillation from the whole network")
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
    """One step of the accuracy recovery of INT8, and its result."""

    rung: RungName
    top1: float = Field(ge=0, le=1, description="on the held-out training images")
    divergence: float = Field(description="as in Tried")
    size_bytes: int = Field(ge=1)
    latency_ms: float | None = Field(description="shortest of several runs; None if the export did not run on the target")
    kept: bool = Field(description="whether the step is part of the final model")


class Artifact(Record):
    """The record of a model file. The manifest of the bundle gives the name of the file."""

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
    shrunk: Shrunk | None = Field(None, description="None: the network was not pruned")
    ladder: tuple[Rung, ...] = Field((), description="the steps of the accuracy recovery of INT8 that were needed, in order")

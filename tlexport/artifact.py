"""Artifact: one immutable model file, and how it came about."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tlexport.contract import Preprocess, TensorSpec
from tlexport.record import Record

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


class Calibration(Record):
    """Which images set the ranges of a quantized model. Always real training images, never random data."""

    method: str
    images: int = Field(ge=1)
    part: Literal["train"] = "train"
    sha256: str = Field(description="of the sorted sha256 of the images used")


class Artifact(Record):
    """The record of a model file. The file's name is given by whoever holds the record (the bundle's manifest)."""

    format: Literal["onnx"] = "onnx"
    precision: Precision
    opset: int = Field(ge=7)
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: Preprocess
    classes: tuple[str, ...]
    sha256: str
    size_bytes: int = Field(ge=1)
    parent_sha256: str = Field(description="of the file this one was made from")
    made_by: str = Field(description="the step and its settings")
    calibration: Calibration | None = None

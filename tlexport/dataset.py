"""Dataset: the images with their classes and parts. It lists files and holds no pixels."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from tlexport.class_names import ClassNames
from tlexport.record import Record

Part = Literal["train", "val", "test"]


class Sample(Record):
    """One image file."""

    path: str = Field(description="relative to the dataset's root, with forward slashes")
    label: int = Field(ge=0, description="index into classes")
    part: Part
    sha256: str = Field(description="of the file's bytes")


class Dataset(Record):
    """A labelled and split set of images. The checkpoint stores it, so that export calibrates only on the training part."""

    LARGEST: ClassVar[int] = 10**9  # bytes; a sample takes about 200

    format: Literal[1] = 1
    source: str = Field(description="DATA as the user gave it")
    root: str = Field(description="absolute path of the folder of the samples' paths")
    classes: ClassNames
    samples: tuple[Sample, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for sample in self.samples:
            if sample.label >= len(self.classes):
                raise ValueError(f"{sample.path!r:.200} has label {sample.label}, but there are {len(self.classes)} classes")
        return self

    def part(self, part: Part) -> tuple[Sample, ...]:
        """The samples of one part, in listing order."""
        return tuple(sample for sample in self.samples if sample.part == part)

    def file(self, sample: Sample) -> Path:
        """The path of a sample's file."""
        return Path(self.root) / sample.path

"""The result of a health check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LEFT_OUT = "left out"  # the part of an image that finetune uses in no part


@dataclass(frozen=True)
class Picture:
    """One image of the data."""

    path: str  # relative to the root of DATA
    class_name: str
    part: str  # train, val, test or LEFT_OUT
    row: int  # in the array of decoded pixels

    def to_json(self) -> dict[str, str]:
        """Path, class and part."""
        return {"path": self.path, "class": self.class_name, "part": self.part}


@dataclass(frozen=True)
class Group:
    """Images that look alike."""

    images: tuple[Picture, ...]

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts with an image of the group."""
        found = {image.part for image in self.images}
        return tuple(part for part in ("train", "val", "test") if part in found)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes with an image of the group, sorted."""
        return tuple(sorted({image.class_name for image in self.images}))

    @property
    def leak(self) -> bool:
        """Whether the group is in several parts."""
        return len(self.parts) > 1

    @property
    def conflict(self) -> bool:
        """Whether the group has several labels."""
        return len(self.classes) > 1

    def to_json(self) -> dict[str, Any]:
        """The images, and whether they are in several parts or classes."""
        return {"images": [image.to_json() for image in self.images], "across_parts": self.leak, "classes_differ": self.conflict}


@dataclass(frozen=True)
class DoubtfulLabel:
    """An image whose label is likely wrong."""

    image: Picture
    suggested: str
    probability: float  # of the suggested class
    own_probability: float  # of the labelled class

    def to_json(self) -> dict[str, Any]:
        """The image, the suggested class and both probabilities."""
        found = {"suggested": self.suggested, "probability": round(self.probability, 4)}
        return {**self.image.to_json(), **found, "probability_of_class": round(self.own_probability, 4)}


@dataclass(frozen=True)
class LabelCheck:
    """The check of the labels."""

    checked: int  # images
    accuracy: float | None  # share of labels that the held-out predictions agree with; None: nothing was checked
    doubtful: tuple[DoubtfulLabel, ...] = ()  # the most likely wrong label first
    skipped: str = ""  # the images that were not checked, with the reason

    def to_json(self) -> dict[str, Any]:
        """Everything."""
        accuracy = None if self.accuracy is None else round(self.accuracy, 4)
        suspects = [one.to_json() for one in self.doubtful]
        return {"checked": self.checked, "accuracy": accuracy, "suspects": suspects, "skipped": self.skipped}


@dataclass(frozen=True)
class FarImage:
    """An image far from all others."""

    image: Picture
    ratio: float  # distance to its neighbours, in multiples of the median

    def to_json(self) -> dict[str, Any]:
        """The image and its distance."""
        return {**self.image.to_json(), "distance": round(self.ratio, 3)}


@dataclass(frozen=True)
class Sizes:
    """Sizes of the image files, pixels."""

    width: tuple[int, int, int]  # smallest, median, largest
    height: tuple[int, int, int]
    small: tuple[Picture, ...]  # shorter side below the network's input
    narrow: tuple[Picture, ...]  # the centre crop removes more than half
    unknown: int  # images whose header was not read

    def to_json(self) -> dict[str, Any]:
        """Everything; the lists as numbers of images."""
        names = ("min", "median", "max")
        found = {key: dict(zip(names, getattr(self, key), strict=True)) for key in ("width", "height")}
        return {**found, "small": len(self.small), "narrow": [image.to_json() for image in self.narrow], "unknown": self.unknown}


@dataclass(frozen=True)
class DataHealth:
    """The result of a health check. ``findings.py`` states it in words."""

    source: str
    images: int
    input_size: int  # side of the network's input, pixels
    classes: Mapping[str, Mapping[str, int]]  # class -> part -> images
    unreadable: tuple[tuple[str, str], ...]  # path and reason
    groups: tuple[Group, ...]  # leaks first, then conflicts
    sizes: Sizes
    labels: LabelCheck
    far: tuple[FarImage, ...]  # the farthest first
    far_skipped: str  # why outliers were not searched; empty: they were
    notes: tuple[str, ...]  # of reading and splitting DATA
    unsplit: str = ""  # why DATA cannot be split; empty: it can
    features: str = ""  # backbone and weights whose features were compared; empty: none

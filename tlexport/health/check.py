"""Checks decoded images: which look alike, which have a doubtful label, which are far from all others."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tlexport.data.confident_learning import suspicious_labels
from tlexport.data.decode import Decoded
from tlexport.data.near_duplicates import near_duplicates
from tlexport.data.outliers import FEWEST, outliers
from tlexport.data.perceptual_hash import SIDE, appearance, colours
from tlexport.data.sizes import image_sizes
from tlexport.dataset import Dataset
from tlexport.health.record import LEFT_OUT, DataHealth, DoubtfulLabel, FarImage, Group, LabelCheck, Picture, Sizes
from tlexport.ports import Array, Progress
from tlexport.train.cross_validation import FOLDS, components, cross_validated

MOST_IMAGES = 50_000  # compared with each other; of more, the time grows with the square
NARROW = 2.0  # ratio of the sides from which the central square is at most half of the image


def examine(decoded: Decoded, parts: Mapping[str, str], input_size: int, notes: Sequence[str], progress: Progress) -> DataHealth:
    """Check what needs no network: near-duplicates, sizes, balance, unreadable files.

    Args:
        decoded: the images.
        parts: path of an image -> its part; an image without one is left out.
        input_size: side of the network's input, pixels.
        notes: of reading and splitting DATA.
        progress: receives the progress.
    """
    listing, pictures = decoded.listing, pictures_of(decoded, parts)
    counted = Counter((picture.class_name, picture.part) for picture in pictures)
    classes = {
        name: {part: counted[name, part] for part in ("train", "val", "test", LEFT_OUT) if counted[name, part]} for name in listing.classes
    }
    sizes = image_sizes([listing.file(entry) for entry in listing.entries])
    groups: list[Group] = []
    if len(pictures) <= MOST_IMAGES:
        with progress.task("near-duplicates", 2 * len(pictures)) as advance:
            alike = near_duplicates(appearance(decoded.pixels, advance), sizes.min(axis=1) < SIDE, advance)
        groups = [Group(tuple(pictures[row] for row in rows)) for rows in alike]
        groups.sort(key=lambda group: (not group.leak, not group.conflict))
    return DataHealth(
        source=listing.source,
        images=len(pictures),
        input_size=input_size,
        classes=classes,
        unreadable=decoded.bad,
        groups=tuple(groups),
        sizes=_sizes(sizes, pictures, input_size),
        labels=LabelCheck(0, None, skipped="not checked"),
        far=(),
        far_skipped="not checked",
        notes=(*notes, *([] if len(pictures) <= MOST_IMAGES else [f"near-duplicates are searched among at most {MOST_IMAGES:,} images"])),
    )


def pictures_of(decoded: Decoded, parts: Mapping[str, str]) -> list[Picture]:
    """Every image, in the order of the decoded pixels; ``parts`` as for :func:`examine`."""
    classes, entries = decoded.listing.classes, decoded.listing.entries
    return [Picture(entry.path, classes[entry.label], parts.get(entry.path, LEFT_OUT), row) for row, entry in enumerate(entries)]


def parts_of(dataset: Dataset) -> dict[str, str]:
    """Path -> part, as the training uses the images."""
    return {sample.path: sample.part for sample in dataset.samples}


def _sizes(sizes: npt.NDArray[np.int64], pictures: Sequence[Picture], input_size: int) -> Sizes:
    known = sizes.min(axis=1) > 0
    short, long = sizes.min(axis=1), sizes.max(axis=1)

    def spread(values: npt.NDArray[np.int64]) -> tuple[int, int, int]:
        return (int(values.min()), int(np.median(values)), int(values.max())) if len(values) else (0, 0, 0)

    def chosen(mask: npt.NDArray[np.bool_]) -> tuple[Picture, ...]:
        return tuple(pictures[row] for row in np.flatnonzero(known & mask).tolist())

    small, narrow = chosen(short < input_size), chosen(long > NARROW * short)
    return Sizes(spread(sizes[known, 0]), spread(sizes[known, 1]), small, narrow, int((~known).sum()))


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Probabilities of a classifier for images that it was not trained on."""

    pictures: Sequence[Picture]
    probabilities: Array  # float (image, class)
    labels: npt.NDArray[np.int64]  # by position in ``classes``
    classes: Sequence[str]


def held_out(features: npt.NDArray[np.float32], pictures: Sequence[Picture], seed: int) -> Labelled | None:
    """Cross-validated predictions on features of a frozen network; None if fewer than two classes have enough images.

    Args:
        features: float32 (image, component), of :func:`tlexport.train.cross_validation.components`.
        pictures: the images.
        seed: of the folds.
    """
    names = sorted({picture.class_name for picture in pictures})
    label = {name: index for index, name in enumerate(names)}
    found = cross_validated(features, np.array([label[picture.class_name] for picture in pictures], dtype=np.int64), seed)
    if found is None:
        return None
    known = [names[index] for index in found.classes]
    position = {name: index for index, name in enumerate(known)}
    checked = [pictures[index] for index in found.images]
    return Labelled(checked, found.probabilities, np.array([position[one.class_name] for one in checked], dtype=np.int64), known)


def check_labels(sources: Sequence[Labelled], total: int, reason: str) -> LabelCheck:
    """Confident learning on each set of predictions.

    Args:
        sources: predictions on different images.
        total: number of all images.
        reason: why the others have no prediction.
    """
    doubtful, agreed, checked = list[DoubtfulLabel](), 0, 0
    for source in sources:
        checked += len(source.pictures)
        agreed += int((source.probabilities.argmax(axis=1) == source.labels).sum())
        for suspect in suspicious_labels(source.probabilities, source.labels):
            doubtful.append(
                DoubtfulLabel(
                    source.pictures[suspect.index], source.classes[suspect.suggested], suspect.probability, suspect.own_probability
                )
            )
    doubtful.sort(key=lambda one: (one.own_probability - one.probability, one.image.path))
    left = total - checked
    skipped = f"{left} of {total} images were not checked: {reason}" if left else ""
    return LabelCheck(checked, agreed / checked if checked else None, tuple(doubtful), skipped)


def with_features(
    health: DataHealth, decoded: Decoded, parts: Mapping[str, str], features: npt.NDArray[np.float32], seed: int
) -> DataHealth:
    """Add what needs features of all images: doubtful labels and outliers.

    Outliers are searched among the features and among coarse thumbnails: a network that was trained on one kind of images may give
    ordinary features to all others.

    Args:
        health: of :func:`examine`.
        decoded: the images.
        parts: as for :func:`examine`.
        features: float32 (image, ...).
        seed: of the cross-validation.
    """
    pictures = pictures_of(decoded, parts)
    if len(pictures) > MOST_IMAGES:
        reason = f"more than {MOST_IMAGES:,} images"
        return dataclasses.replace(health, far_skipped=reason, labels=LabelCheck(0, None, skipped=reason))
    reduced = components(features)
    predicted = held_out(reduced, pictures, seed)
    reason = f"a class needs {2 * FOLDS} images, and two classes that have them"
    found = {one.index: one for one in sorted((*outliers(reduced), *outliers(colours(decoded.pixels))), key=lambda one: one.ratio)}
    far = tuple(FarImage(pictures[one.index], one.ratio) for one in sorted(found.values(), key=lambda one: (-one.ratio, one.index)))
    skipped = "" if len(pictures) >= FEWEST else f"{FEWEST} images are needed"
    labels = check_labels([predicted] if predicted else [], len(pictures), reason)
    return dataclasses.replace(health, labels=labels, far=far, far_skipped=skipped)

"""A health check as the section of a report, with thumbnails."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tlexport.health.findings import findings
from tlexport.health.record import LEFT_OUT, DataHealth, Group, Picture
from tlexport.ports import Pixels
from tlexport.report.health import FindingRow, Gallery, HealthSection, Tile
from tlexport.report.thumbnail import thumbnail
from tlexport.units import format_percent

MOST_LABELS = 24
MOST_FAR = 12
MOST_GROUPS = 12
MOST_OF_GROUP = 4
MOST_FILES = 100  # unreadable files in the table


def health_section(health: DataHealth, pixels: Callable[[int], Pixels]) -> HealthSection:
    """The section.

    Args:
        health: the check.
        pixels: row of an image -> uint8 (height, width, channel).
    """
    parts = tuple(part for part in ("train", "val", "test", LEFT_OUT) if any(part in counts for counts in health.classes.values()))
    rows = [(name, tuple(counts.get(part, 0) for part in parts), sum(counts.values())) for name, counts in health.classes.items()]
    return HealthSection(
        findings=[FindingRow(one.severity, one.message, one.advice) for one in findings(health)],
        galleries=[_groups(health.groups, pixels), _labels(health, pixels), _far(health, pixels)],
        parts=parts,
        classes=sorted(rows, key=lambda row: row[2]),
        sizes=[("width", *health.sizes.width), ("height", *health.sizes.height)],
        unreadable=health.unreadable[:MOST_FILES],
        notes=health.notes,
        images=health.images,
    )


def _tile(image: Picture, lines: Sequence[tuple[str, str]], pixels: Callable[[int], Pixels]) -> Tile:
    alt = f"Image {image.path}, of class {image.class_name}"
    return Tile(thumbnail(pixels(image.row)), image.path, alt, tuple(lines))


def _groups(groups: Sequence[Group], pixels: Callable[[int], Pixels]) -> Gallery:
    shown = []
    for group in groups[:MOST_GROUPS]:
        lines = [[("part", image.part), ("class", image.class_name)] for image in _varied(group)]
        shown.append(tuple(_tile(image, line, pixels) for image, line in zip(_varied(group), lines, strict=True)))
    note = (
        f"{len(shown)} of {len(groups)} groups, those in several parts first, up to {MOST_OF_GROUP} images of each. Simple drawings "
        "can be alike by chance."
    )
    return Gallery("health-alike", "Near-identical images", note, tuple(shown), True, "None.")


def _varied(group: Group) -> list[Picture]:
    """A few images of a group, with each part and each class among them as far as there is room."""
    seen: set[tuple[str, str]] = set()
    first, others = list[Picture](), list[Picture]()
    for image in group.images:
        (others if (image.part, image.class_name) in seen else first).append(image)
        seen.add((image.part, image.class_name))
    return [*first, *others][:MOST_OF_GROUP]


def _labels(health: DataHealth, pixels: Callable[[int], Pixels]) -> Gallery:
    check = health.labels
    shown = []
    for one in check.doubtful[:MOST_LABELS]:
        lines = [
            ("label", f"{one.image.class_name} ({format_percent(one.own_probability, 1)})"),
            ("perhaps", f"{one.suggested} ({format_percent(one.probability, 1)})"),
            ("part", one.image.part),
        ]
        shown.append((_tile(one.image, lines, pixels),))
    note = f"{len(shown)} of {len(check.doubtful)} images, the most likely wrong label first, with held-out probabilities. {check.skipped}"
    empty = f"None among {check.checked} images. {check.skipped}"
    return Gallery("health-labels", "Labels that may be wrong", note.strip(), tuple(shown), False, empty.strip())


def _far(health: DataHealth, pixels: Callable[[int], Pixels]) -> Gallery:
    shown = [(_tile(one.image, [("distance", f"{one.ratio:.1f} × median")], pixels),) for one in health.far[:MOST_FAR]]
    note = f"{len(shown)} of {len(health.far)} images, by the mean distance to their nearest neighbours in feature space."
    empty = f"Not searched: {health.far_skipped}." if health.far_skipped else "None."
    return Gallery("health-far", "Images far from all others", note, tuple(shown), False, empty)

"""The findings of a health check in words, each with advice, and the check as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tlexport.data.table import few
from tlexport.health.record import DataHealth, Group, Picture

IMBALANCE = 10  # ratio of the largest class to the smallest
FEW_IMAGES = 10  # of a class
RELIABLE = 0.9  # accuracy from which a doubtful label is a warning
SHOWN = 3  # images or groups named in a message


@dataclass(frozen=True)
class Finding:
    """One finding."""

    kind: str
    severity: Literal["warning", "hint"]
    count: int
    message: str
    advice: str

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return {"kind": self.kind, "severity": self.severity, "count": self.count, "message": self.message, "advice": self.advice}


def findings(health: DataHealth) -> list[Finding]:
    """All findings: warnings first, and leaks before all others."""
    found = [*_duplicates(health.groups), *_unusable(health), *_labels(health), *_images(health), *_balance(health)]
    return sorted(found, key=lambda finding: finding.severity != "warning")


def leak_note(groups: Sequence[Group]) -> list[str]:
    """One line on near-duplicates across parts, for a training; empty if there are none."""
    leaks = [group for group in groups if group.leak]
    named = f"such as {_names(leaks[0].images)}" if leaks else ""
    return [f"{_count(leaks, 'group')} of near-identical images in several parts, {named}: accuracy is overestimated"] if leaks else []


def health_json(health: DataHealth) -> dict[str, Any]:
    """The value that ``tlx data --json`` prints, except for the time."""
    return {
        "data": health.source,
        "images": health.images,
        "classes": {name: {"images": sum(parts.values()), **parts} for name, parts in health.classes.items()},
        "findings": [finding.to_json() for finding in findings(health)],
        "duplicates": [group.to_json() for group in health.groups],
        "labels": health.labels.to_json(),
        "outliers": [one.to_json() for one in health.far],
        "outliers_skipped": health.far_skipped,
        "sizes": health.sizes.to_json(),
        "unreadable": [{"path": path, "reason": reason} for path, reason in health.unreadable],
        "features": health.features,
        "notes": list(health.notes),
    }


def _duplicates(groups: Sequence[Group]) -> Iterator[Finding]:
    leaks = [group for group in groups if group.leak]
    torn = [group for group in groups if group.conflict]
    rest = [group for group in groups if not group.leak and not group.conflict]
    if leaks:
        where = " and ".join(sorted({part for group in leaks for part in group.parts}))
        message = (
            f"{_count(leaks, 'group')} of near-identical images in several parts ({where}): accuracy is overestimated; {_listed(leaks)}"
        )
        advice = "remove all but one image of each group, or put each group into one part: list the images in a table with path,label,split"
        yield Finding("leak", "warning", len(leaks), message, advice)
    if torn:
        message = f"{_count(torn, 'group')} of near-identical images with different labels; {_listed(torn)}"
        yield Finding("conflict", "warning", len(torn), message, "look at the labels, and keep one image of each group with the right one")
    if rest:
        message = f"{_count(rest, 'group')} of near-identical images in one part and class; {_listed(rest)}"
        yield Finding("duplicate", "hint", len(rest), message, "remove all but one image of each group: copies add no information")


def _unusable(health: DataHealth) -> Iterator[Finding]:
    if health.unreadable:
        named = few((f"{path}: {reason}" for path, reason in health.unreadable), "; ")
        count = _count(health.unreadable, "file")
        yield Finding("unreadable", "warning", len(health.unreadable), f"{count} cannot be read: {named}", "repair or remove them")
    if health.unsplit:
        yield Finding("split", "warning", 1, f"training is not possible: {health.unsplit}", "add images, then check again")


def _labels(health: DataHealth) -> Iterator[Finding]:
    check = health.labels
    if check.doubtful:
        sure = (check.accuracy or 0) >= RELIABLE
        agree = f"held-out predictions agree with {100 * (check.accuracy or 0):.0f} % of the labels"
        count, named = _count(check.doubtful, "label"), _pictures([one.image for one in check.doubtful])
        message = f"{count} of {check.checked} may be wrong ({agree}); {named}"
        advice = "look at the label of each image, the first ones first"
        if not sure:
            advice += "; the features separate the classes poorly, so most of these labels are right: try other --weights"
        yield Finding("label", "warning" if sure else "hint", len(check.doubtful), message, advice)


def _images(health: DataHealth) -> Iterator[Finding]:
    if health.far:
        message = f"{_count(health.far, 'image')} far from all others; {_pictures([one.image for one in health.far])}"
        yield Finding("outlier", "hint", len(health.far), message, "look at each one, and remove it if it does not belong to the data")
    if health.sizes.narrow:
        message = f"{_count(health.sizes.narrow, 'image')} lose more than half to the central square; {_pictures(health.sizes.narrow)}"
        yield Finding("narrow", "hint", len(health.sizes.narrow), message, "crop them to the object, or pad them to a square")
    if health.sizes.small:
        message = f"{_count(health.sizes.small, 'image')} smaller than the input of {health.input_size} pixels, and enlarged for it"
        yield Finding("small", "hint", len(health.sizes.small), message, "use larger originals if there are any, or a smaller --image-size")


def _balance(health: DataHealth) -> Iterator[Finding]:
    totals = {name: sum(parts.values()) for name, parts in health.classes.items()}
    if len(totals) == 1:
        yield Finding("one_class", "warning", 1, f"there is one class, {next(iter(totals))}", "add a second class: training needs two")
    scarce = [name for name, total in totals.items() if total < FEW_IMAGES]
    if scarce:
        count = f"{len(scarce)} {'class has' if len(scarce) == 1 else 'classes have'} fewer than {FEW_IMAGES} images"
        named = few(f"{name} ({totals[name]})" for name in scarce)
        yield Finding("few", "hint", len(scarce), f"{count}: {named}", "add images, or merge classes")
    if len(totals) > 1:
        most, least = max(totals, key=lambda name: totals[name]), min(totals, key=lambda name: totals[name])
        if totals[most] >= IMBALANCE * max(1, totals[least]):
            message = f"{most} has {totals[most]} images, {least} has {totals[least]}"
            yield Finding("imbalance", "hint", 1, message, "add images of the small classes, or train with --balance sampler")


def _count(things: Sequence[object], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def _names(images: Sequence[Picture]) -> str:
    more = f" and {len(images) - SHOWN} more" if len(images) > SHOWN else ""
    return " = ".join(image.path for image in images[:SHOWN]) + more


def _listed(groups: Sequence[Group]) -> str:
    """The first groups."""
    more = f"; and {len(groups) - SHOWN} more groups" if len(groups) > SHOWN else ""
    return "; ".join(_names(group.images) for group in groups[:SHOWN]) + more


def _pictures(images: Sequence[Picture]) -> str:
    """The first images."""
    more = f" and {len(images) - SHOWN} more" if len(images) > SHOWN else ""
    return ", ".join(image.path for image in images[:SHOWN]) + more

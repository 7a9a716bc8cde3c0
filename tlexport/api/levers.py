"""What is done where no precision fits the budget: a smaller network for the size, a smaller image for the latency."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from tlexport.api.candidates import Candidates, Made
from tlexport.artifact import Precision
from tlexport.bundle import Rejected
from tlexport.contract import Preprocess
from tlexport.errors import OverBudget
from tlexport.export.calibration import MOST_TRAINED
from tlexport.network import Network
from tlexport.plan import Limits, violations
from tlexport.ports import Progress
from tlexport.train.shrink import parameters, to_fit
from tlexport.units import format_bytes

EPOCHS, FEWEST = 30, 5  # most and fewest epochs of the training that wins back what a smaller network lost
SEEN = 8000  # images in all of them: with 1,400 digits five epochs gave what ten did
ROOM = 0.985  # of the limit, which is aimed at: channels come and go in eights
OVERHEAD = 0.1  # of the whole model's file: what does not shrink with the weights, to begin with
TRIES = 4
SMALLER = (0.875, 0.75, 0.625, 0.5)  # of the image's side: torchvision's networks lose a few points at the first ones
MULTIPLE = 16  # pixels: what the strides of most of these networks multiply to is 32


@dataclass(frozen=True)
class Found:
    """Models, one of each precision, and what was rejected on the way."""

    candidates: Candidates
    made: tuple[Made, ...]
    rejected: tuple[Rejected, ...] = ()


@dataclass(frozen=True)
class Levers:
    """What pulling one needs to know."""

    limits: Limits
    wanted: Precision | Literal["auto"]
    checkpoint_top1: float
    at_size: Callable[[Preprocess], Candidates]  # the same checkpoint with smaller images
    progress: Progress

    def pull(self, found: Found) -> Found:
        """Models of which one may fit; the same where one fits already, or where there is nothing to be done about what binds."""
        if any(self._fits(m) for m in self._eligible(found)):
            return found
        smallest = min(self._eligible(found), key=lambda m: m.artifact.size_bytes)
        limit = self.limits.size_bytes
        if limit is not None and smallest.artifact.size_bytes > limit > 0:
            found = self._smaller_network(found, smallest, limit)
        slow = [self._excess(m) for m in self._eligible(found)]
        return self._smaller_images(found, min(slow)) if min(slow) > 1 else found

    def drop(self, made: Made) -> float:
        """Points of top-1 that a model loses against the checkpoint."""
        return round(100 * (self.checkpoint_top1 - made.top1), 4)

    def _eligible(self, found: Found) -> list[Made]:
        return [m for m in found.made if self.wanted in ("auto", m.artifact.precision)]

    def _violations(self, made: Made) -> list[str]:
        return violations(made.expected.candidate(made.artifact, self.drop(made)), self.limits)

    def _fits(self, made: Made) -> bool:
        return not self._violations(made)

    def _excess(self, made: Made) -> float:
        """Latency over its limit; 0 where there is none, or where neither is known."""
        limit, expected = self.limits.latency_p95_ms, made.expected
        if not limit:
            return 0.0
        if expected.latency is not None:
            return expected.latency.p95 / limit
        return expected.estimate.p50_ms / limit if expected.estimate else 0.0

    def _smaller_network(self, found: Found, smallest: Made, limit: int) -> Found:
        """The smallest model, made of a network that was pruned to the size and trained again."""
        precision, size = smallest.artifact.precision, smallest.artifact.size_bytes
        self.progress.note(f"{precision} is {format_bytes(size)}, more than {format_bytes(limit)}: the network is made smaller")
        try:
            network = self._of_size(found.candidates, precision, limit)
        except OverBudget as error:
            self.progress.note(f"the network cannot be made so small: {error.message}")
            return found
        images = min(MOST_TRAINED, len(found.candidates.source.dataset.part("train")))
        made = found.candidates.shrunk(network, precision, min(EPOCHS, max(FEWEST, SEEN // images)))
        others = [m for m in found.made if m.artifact.precision != precision]
        rejected = self._rejected(smallest, "of the whole network")
        return replace(found, made=(*others, made), rejected=(*found.rejected, rejected))

    def _of_size(self, candidates: Candidates, precision: Precision, limit: int) -> Network:
        """What is left of the network when its model file has at most ``limit`` bytes, not trained yet.

        A file's bytes are nearly a line over the number of parameters, whose two constants the whole network and each try tell better.

        Raises:
            OverBudget: it does not become so small, or no try comes to the size.
        """
        whole, size = parameters(candidates.network), candidates.size_bytes(candidates.network, precision)
        points = [(0.0, OVERHEAD * size), (float(whole), float(size))]
        for _ in range(TRIES):
            (low, at_low), (high, at_high) = points[-2:]
            slope = (at_high - at_low) / (high - low)
            most = int(high + (ROOM * limit - at_high) / slope)
            network = to_fit(candidates.network, candidates.preprocess.size, max(1, most))
            reached = candidates.size_bytes(network, precision)
            if reached <= limit:
                return network
            points = [points[1], (float(parameters(network)), float(reached))]
        raise OverBudget(f"after {TRIES} tries its file has {format_bytes(reached)}")

    def _smaller_images(self, found: Found, excess: float) -> Found:
        """The first smaller image size with which a model fits; where none does, the models as they were.

        A model that takes ``excess`` times what it may cannot win more than the pixels that it is spared.
        """
        before = found.candidates.preprocess
        rejected = list(found.rejected)
        rejected += [self._rejected(m, f"at {before.size} px") for m in found.made if m.artifact.shrunk is None]
        sizes = {max(MULTIPLE, int(before.size * share) // MULTIPLE * MULTIPLE) for share in SMALLER}
        for size in sorted(sizes, reverse=True):
            if size >= before.size or excess * (size / before.size) ** 2 > 1:
                continue
            self.progress.note(f"every model is too slow: the images are made smaller, {size} instead of {before.size} px a side")
            resize = max(size, round(before.resize * size / before.size))
            candidates = self.at_size(before.model_copy(update={"size": size, "resize": resize}))
            smaller = Found(candidates, tuple(candidates.all()), tuple(rejected))
            if any(self._fits(m) for m in self._eligible(smaller)):
                return smaller
            rejected += [self._rejected(m, f"at {size} px") for m in smaller.made]
        return found

    def _rejected(self, made: Made, what: str) -> Rejected:
        return Rejected(
            precision=made.artifact.precision,
            what=what,
            size_bytes=made.artifact.size_bytes,
            top1=made.top1,
            drop_points=self.drop(made),
            latency=made.expected.latency,
            estimate=made.expected.estimate,
            reason="; ".join(self._violations(made)) or "another fits better",
        )

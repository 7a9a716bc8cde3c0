"""What is done where no precision keeps a limit: a smaller network for the size, a smaller image for the latency.

Limits that the user gave may change the network, and with ``--shrink`` the profile's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tlexport.artifact import Precision
from tlexport.bundle.manifest import Rejected
from tlexport.contract import Preprocess
from tlexport.errors import OverBudget
from tlexport.export.calibration import MAX_TRAINING_IMAGES
from tlexport.network import Network
from tlexport.optimize.candidates import Candidates, Made
from tlexport.optimize.job import Job, Training
from tlexport.plan import Candidate, Limits, more_than, violations
from tlexport.train.shrink import parameters, to_fit
from tlexport.train.training_time import seconds_for
from tlexport.units import format_bytes

MAX_EPOCHS, MIN_EPOCHS = 30, 5  # most and fewest epochs of the training that wins back what a smaller network lost
TRAINING_IMAGES = 8000  # images in all of them: with 1,400 digits five epochs gave what ten did
SIZE_MARGIN = 0.985  # of the limit, which is aimed at: channels come and go in eights
FIXED_SHARE = 0.1  # of the whole model's file: what does not shrink with the weights, to begin with
MAX_TRIES = 4
SIDE_SHARES = (0.875, 0.75, 0.625, 0.5)  # of the image's side: torchvision's networks lose a few points at the first ones
FULL_NETWORK = "of the whole network"
SIDE_MULTIPLE = 16  # pixels: what the strides of most of these networks multiply to is 32


@dataclass(frozen=True)
class Found:
    """Models, one of each precision, and what was rejected on the way."""

    candidates: Candidates
    made: tuple[Made, ...]
    rejected: tuple[Rejected, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether a network is smaller, or its images are, than the checkpoint has them."""
        whole = self.candidates.preprocess == self.candidates.source.checkpoint.preprocess
        return not whole or any(m.artifact.shrunk for m in self.made)


@dataclass(frozen=True)
class BudgetFallbacks:
    """What pulling one needs to know."""

    job: Job
    checkpoint_top1: float
    at_size: Callable[[Preprocess], Candidates]  # the same checkpoint with smaller images

    @property
    def limits(self) -> Limits:
        """For which the network may be changed, and which a changed one keeps."""
        return self.job.constraints.may_change(self.job.target.profile.budget)

    def apply(self, found: Found) -> Found:
        """Models of which one may fit; the same where one fits already, or where there is nothing to be done about what binds.

        For a limit of the profile alone a changed network is taken only where it keeps all of them.
        """
        binding = self.job.constraints.binding()
        if any(self._fits(m, self.limits if self.job.constraints.shrink else binding) for m in self._eligible(found)):
            return found
        changed, limit = found, self.limits.size_bytes
        smallest = min(self._eligible(found), key=lambda m: m.artifact.size_bytes)
        if limit is not None and smallest.artifact.size_bytes > limit > 0:
            changed = self._smaller_network(found, smallest, limit)
        fastest = min(self._eligible(changed), key=self._excess)
        if self._excess(fastest) > 1:
            changed = self._smaller_images(changed, fastest)
        if any(self._fits(m, binding) for m in self._eligible(found)) and not any(
            self._fits(m, self.limits) for m in self._eligible(changed)
        ):
            tried = [self._rejected(m, "of a smaller network") for m in changed.made if m.artifact.shrunk]
            return replace(found, rejected=(*(r for r in changed.rejected if r.what != FULL_NETWORK), *tried))
        return changed

    def drop(self, made: Made) -> float:
        """Points of top-1 that a model loses against the checkpoint."""
        return round(100 * (self.checkpoint_top1 - made.top1), 4)

    def _eligible(self, found: Found) -> list[Made]:
        return [m for m in found.made if self.job.constraints.precision in ("auto", m.artifact.precision)]

    def _candidate(self, made: Made) -> Candidate:
        return made.expected.candidate(made.artifact, self.drop(made))

    def _fits(self, made: Made, limits: Limits) -> bool:
        return not violations(self._candidate(made), limits)

    def _excess(self, made: Made) -> float:
        """Latency over its limit; 0 where there is none, or where neither is known. On a noisy machine, what it is at least."""
        limit, candidate = self.limits.latency_p95_ms, self._candidate(made)
        if not limit:
            return 0.0
        if candidate.bound_ms is not None:
            return candidate.bound_ms / limit
        return candidate.estimate.p50_ms / limit if candidate.estimate else 0.0

    def _smaller_network(self, found: Found, smallest: Made, limit: int) -> Found:
        """The smallest model, made of a network that was pruned to the size and trained again."""
        precision, candidates = smallest.artifact.precision, found.candidates
        over = f"{precision} is {more_than(smallest.artifact.size_bytes, limit)}"
        try:
            network = self._of_size(candidates, precision, limit)
        except OverBudget as error:
            self.job.progress.note(f"{over}, and the network cannot be made so small: {error.message}")
            return found
        images = min(MAX_TRAINING_IMAGES, len(candidates.source.dataset.part("train")))
        epochs = min(MAX_EPOCHS, max(MIN_EPOCHS, TRAINING_IMAGES // images))
        training = Training(
            "making the network smaller and training it again",
            f"{epochs} epochs on {images:,} images",
            over,
            seconds_for(network, candidates.preprocess, images, epochs),
        )
        if not self.job.may_begin(training):
            return found
        made = candidates.shrunk(network, precision, epochs)
        others = [m for m in found.made if m.artifact.precision != precision]
        rejected = self._rejected(smallest, FULL_NETWORK)
        return replace(found, made=tuple(candidates.timed([*others, made])), rejected=(*found.rejected, rejected))

    def _of_size(self, candidates: Candidates, precision: Precision, limit: int) -> Network:
        """What is left of the network when its model file has at most ``limit`` bytes, not trained yet.

        A file's bytes are nearly a line over the number of parameters, whose two constants the whole network and each try tell better.

        Raises:
            OverBudget: it does not become so small, or no try comes to the size.
        """
        whole, size = parameters(candidates.network), candidates.size_bytes(candidates.network, precision)
        points = [(0.0, FIXED_SHARE * size), (float(whole), float(size))]
        for _ in range(MAX_TRIES):
            (low, at_low), (high, at_high) = points[-2:]
            slope = (at_high - at_low) / (high - low)
            most = int(high + (SIZE_MARGIN * limit - at_high) / slope)
            network = to_fit(candidates.network, candidates.preprocess.size, max(1, most))
            reached = candidates.size_bytes(network, precision)
            if reached <= limit:
                return network
            points = [points[1], (float(parameters(network)), float(reached))]
        raise OverBudget(f"after {MAX_TRIES} tries its file has {format_bytes(reached)}")

    def _smaller_images(self, found: Found, fastest: Made) -> Found:
        """The first smaller image size with which a model fits; where none does, the models as they were.

        A model that takes so many times what it may cannot win more than the pixels that it is spared.
        """
        before, excess = found.candidates.preprocess, self._excess(fastest)
        slow = f"every model is too slow, the fastest is {fastest.artifact.precision} ({'; '.join(self._violations(fastest))})"
        rejected = list(found.rejected)
        rejected += [self._rejected(m, f"at {before.size} px") for m in found.made if m.artifact.shrunk is None]
        sizes = {max(SIDE_MULTIPLE, int(before.size * share) // SIDE_MULTIPLE * SIDE_MULTIPLE) for share in SIDE_SHARES}
        for size in sorted(sizes, reverse=True):
            if size >= before.size or excess * (size / before.size) ** 2 > 1:
                continue
            self.job.progress.note(f"{slow}: the images are made smaller, {size} instead of {before.size} px a side")
            resize = max(size, round(before.resize * size / before.size))
            candidates = self.at_size(before.model_copy(update={"size": size, "resize": resize}))
            smaller = Found(candidates, tuple(candidates.all()), tuple(rejected))
            if any(self._fits(m, self.limits) for m in self._eligible(smaller)):
                return smaller
            rejected += [self._rejected(m, f"at {size} px") for m in smaller.made]
        return found

    def _violations(self, made: Made) -> list[str]:
        return violations(self._candidate(made), self.limits)

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

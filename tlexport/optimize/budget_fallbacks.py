"""Fallbacks if no precision keeps a limit: a smaller network for the size limit, smaller images for the latency limit.

Limits that the user gave may change the network; the profile's own limits only with ``--shrink``.
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

MAX_EPOCHS, MIN_EPOCHS = 30, 5  # bounds of the training that recovers the accuracy of a smaller network
TRAINING_IMAGES = 8000  # images over all epochs: with 1,400 digits, five epochs gave the accuracy of ten
SIZE_MARGIN = 0.985  # share of the limit to aim at: channels are removed in groups of eight
FIXED_SHARE = 0.1  # first guess of the share of the file that does not shrink with the weights
MAX_TRIES = 4
SIDE_SHARES = (0.875, 0.75, 0.625, 0.5)  # of the image's side; at the first ones, torchvision's networks lose a few points
FULL_NETWORK = "of the whole network"
SIDE_MULTIPLE = 16  # pixels; the total stride of most of these networks is 32


@dataclass(frozen=True)
class Found:
    """The models, one of each precision, and the rejected ones."""

    candidates: Candidates
    made: tuple[Made, ...]
    rejected: tuple[Rejected, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether a network or its images are smaller than the checkpoint's."""
        whole = self.candidates.preprocess == self.candidates.source.checkpoint.preprocess
        return not whole or any(m.artifact.shrunk for m in self.made)


@dataclass(frozen=True)
class BudgetFallbacks:
    """Applies the fallbacks that the limits require."""

    job: Job
    checkpoint_top1: float
    at_size: Callable[[Preprocess], Candidates]  # candidates of the same checkpoint with other preprocessing

    @property
    def limits(self) -> Limits:
        """The limits for which the network may be changed. A changed network must keep them all."""
        return self.job.constraints.may_change(self.job.target.profile.budget)

    def apply(self, found: Found) -> Found:
        """Return models of which one may keep the limits; the same models if one does already or no fallback applies.

        For a limit of the profile alone, a changed network is used only if it keeps all limits.
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
        """Latency divided by its limit; 0 without a limit or a latency. On a noisy machine, the lower bound of the latency counts."""
        limit, candidate = self.limits.latency_p95_ms, self._candidate(made)
        if not limit:
            return 0.0
        if candidate.bound_ms is not None:
            return candidate.bound_ms / limit
        return candidate.estimate.p50_ms / limit if candidate.estimate else 0.0

    def _smaller_network(self, found: Found, smallest: Made, limit: int) -> Found:
        """The smallest model, made from a network that was pruned to the size limit and retrained."""
        precision, candidates = smallest.artifact.precision, found.candidates
        over = f"{precision} is {more_than(smallest.artifact.size_bytes, limit)}"
        try:
            network = self._of_size(candidates, precision, limit)
        except OverBudget as error:
            self.job.progress.note(f"{over}, and the network cannot be pruned to that size: {error.message}")
            return found
        images = min(MAX_TRAINING_IMAGES, len(candidates.source.dataset.part("train")))
        epochs = min(MAX_EPOCHS, max(MIN_EPOCHS, TRAINING_IMAGES // images))
        training = Training(
            "pruning and retraining the network",
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
        """Prune the network until its model file has at most ``limit`` bytes. It is not trained yet.

        The file size is nearly linear in the number of parameters. The full network and each try refine the two constants.

        Raises:
            OverBudget: the network cannot be pruned that far, or no try reaches the size.
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
        """Use the largest smaller image size with which a model keeps the limits; the original models if there is none.

        Latency falls at most in proportion to the pixel count.
        """
        before, excess = found.candidates.preprocess, self._excess(fastest)
        slow = f"every model is too slow, the fastest is {fastest.artifact.precision} ({'; '.join(self._violations(fastest))})"
        rejected = list(found.rejected)
        rejected += [self._rejected(m, f"at {before.size} px") for m in found.made if m.artifact.shrunk is None]
        sizes = {max(SIDE_MULTIPLE, int(before.size * share) // SIDE_MULTIPLE * SIDE_MULTIPLE) for share in SIDE_SHARES}
        for size in sorted(sizes, reverse=True):
            if size >= before.size or excess * (size / before.size) ** 2 > 1:
                continue
            self.job.progress.note(f"{slow}: reducing the images from {before.size} to {size} px a side")
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
            reason="; ".join(self._violations(made)) or "another model fits better",
        )

"""What every step of one export shares: what was asked for, and how it tells, times and asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tlexport.bench.in_turn import Measure, measure_in_turn
from tlexport.hardware.target import Target
from tlexport.optimize.steps import Step
from tlexport.plan import Constraints
from tlexport.ports import Progress

MINUTE = 60


@dataclass(frozen=True)
class Training:
    """A training that an export is about to begin."""

    what: str
    extent: str  # epochs and images
    why: str
    seconds: float  # expected

    def in_words(self) -> str:
        """The announcement."""
        rounded = f"{self.seconds / MINUTE:.0f} min" if self.seconds > 2 * MINUTE else f"{max(1, self.seconds):.0f} s"
        return f"{self.what} ({self.extent}) will take about {rounded}; {self.why}"


Consent = Callable[[Training], bool]


def consent_to_all(training: Training) -> bool:
    """Every training that the limits allow is begun."""
    return True


@dataclass(frozen=True)
class Job:
    """One export."""

    target: Target
    constraints: Constraints
    steps: Sequence[Step]
    progress: Progress
    consent: Consent = consent_to_all  # whether an announced training is begun
    measure: Measure = measure_in_turn  # how models are timed

    def may_begin(self, training: Training) -> bool:
        """Announce a training. Returns whether it is begun; where it is declined, that is told."""
        self.progress.note(training.in_words())
        if self.consent(training):
            return True
        self.progress.note(f"declined: {training.what}; the network stays as it is")
        return False

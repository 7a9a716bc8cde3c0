"""What all steps of one export share: the request, the target, progress, timing and the user's consent."""

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
    """A training that an export proposes."""

    what: str
    extent: str  # epochs and images
    why: str
    seconds: float  # expected

    def in_words(self) -> str:
        """The announcement to the user."""
        rounded = f"{self.seconds / MINUTE:.0f} min" if self.seconds > 2 * MINUTE else f"{max(1, self.seconds):.0f} s"
        return f"{self.what} ({self.extent}) will take about {rounded}; {self.why}"


Consent = Callable[[Training], bool]


def consent_to_all(training: Training) -> bool:
    """Agree to every training that the limits allow."""
    return True


@dataclass(frozen=True)
class Job:
    """One export."""

    target: Target
    constraints: Constraints
    steps: Sequence[Step]
    progress: Progress
    consent: Consent = consent_to_all  # whether to start an announced training
    measure: Measure = measure_in_turn  # measures models in turn

    def may_begin(self, training: Training) -> bool:
        """Announce a training and ask for consent. Returns whether it may start; a refusal is reported."""
        self.progress.note(training.in_words())
        if self.consent(training):
            return True
        self.progress.note(f"declined: {training.what}; the network stays as it is")
        return False

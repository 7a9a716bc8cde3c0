"""The duration of each step of a run, summed over the sessions of a resumed run."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tlexport.ports import Progress, Task
from tlexport.train.saved_state import number, whole


class Stopwatch:
    """A Progress that forwards to another one and times each step."""

    def __init__(self, inner: Progress) -> None:
        self.inner = inner
        self.sessions = 1
        self._steps: dict[str, float] = {}  # seconds by title, in the order of their starts
        self._running: dict[str, float] = {}  # start times of the running steps
        self._earlier = 0.0  # seconds of the earlier sessions
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds of all sessions until now. A killed session counts up to its last saved state."""
        return self._earlier + time.perf_counter() - self._started

    @property
    def steps(self) -> list[tuple[str, float]]:
        """Title and seconds of each step until now."""
        now = time.perf_counter()
        return [(title, taken + (now - self._running[title] if title in self._running else 0)) for title, taken in self._steps.items()]

    def state(self) -> dict[str, Any]:
        """The times until now, as :meth:`add` takes them in a later session."""
        return {"seconds": self.seconds, "steps": [list(step) for step in self.steps], "sessions": self.sessions}

    def add(self, earlier: dict[str, Any]) -> None:
        """Add the times of earlier sessions. Raises ValueError, KeyError or TypeError if ``earlier`` is not a :meth:`state`."""
        seconds, sessions = number(earlier["seconds"], "the time of the run", 0), whole(earlier["sessions"], 1, math.inf, "sessions")
        steps = {str(title): number(taken, "the time of a step", 0) for title, taken in earlier["steps"]}
        self._steps = {title: steps.get(title, 0) + self._steps.get(title, 0) for title in (*steps, *self._steps)}
        self._earlier, self.sessions = seconds, sessions + 1

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Task]:
        """See Progress."""
        self._steps.setdefault(title, 0)
        started = self._running[title] = time.perf_counter()
        try:
            with self.inner.task(title, total) as advance:
                yield advance
        finally:
            del self._running[title]
            self._steps[title] += time.perf_counter() - started

    def note(self, text: str) -> None:
        """See Progress."""
        self.inner.note(text)

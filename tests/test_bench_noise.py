"""When a measurement is called noisy, and why: on made-up samples of known shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_measurement import ENVIRONMENT, MS, of

from tlexport.bench import noise as limits
from tlexport.bench.noise import noise
from tlexport.measurement import Measurement

QUIET = [10 * MS + (number * 7919 % 100) * 1000 for number in range(400)]  # within 1 %
SCATTERED = [ns * (2 if number % 5 == 0 else 1) for number, ns in enumerate(QUIET)]  # every fifth run takes twice as long
SLOWING = [round(ns * (1 + number / len(QUIET) / 5)) for number, ns in enumerate(QUIET)]  # by 20 % from the first to the last


def measured(samples: list[int], watch: dict[str, Any] | None = None, **environment: Any) -> Measurement:
    return of(samples).model_copy(update={"watch": watch, "environment": ENVIRONMENT.model_copy(update=environment)})


@pytest.mark.parametrize("governor", ["performance", "powersave", None])
def test_a_quiet_machine_has_nothing_to_be_told_whatever_its_settings(governor: str | None) -> None:
    assert noise(measured(QUIET, {"throttled": False, "other_cores": 3.0}, governor=governor, load_1min=9.0)) == ""


def test_few_runs_say_nothing() -> None:
    assert noise(measured(SCATTERED[: limits.FEWEST - 1])) == ""


def test_scatter_and_drift_are_told_with_their_size() -> None:
    assert "p90 is 2.0" in noise(measured(SCATTERED))
    assert "they got 15% slower" in noise(measured(SLOWING))  # from 2.5 % to 17.5 % above the first run, in the middle of the quarters
    assert "faster" in noise(measured(SLOWING[::-1]))


@given(st.integers(0, 2**31))
def test_normal_scatter_of_three_percent_is_no_noise(seed: int) -> None:
    samples = np.random.default_rng(seed).normal(10 * MS, 0.03 * 10 * MS, 500).round().astype(int).tolist()
    assert noise(measured(samples)) == ""


@pytest.mark.parametrize(
    ("watch", "environment", "words"),
    [
        ({"other_cores": 1.4}, {}, ["other programs took 1.4 of 4 cores"]),
        ({"other_cores": 0.1}, {"load_1min": 5.0}, ["nothing that was watched explains it"]),  # the load was our own
        (None, {"load_1min": 5.0}, ["a load of 5.0 at the start"]),
        ({"other_cores": None}, {"load_1min": 0.3}, ["nothing that was watched explains it"]),
        ({}, {"governor": "schedutil"}, ["the frequency governor is schedutil, not performance"]),
        ({"gpu_mhz": {"lowest": 300.0, "highest": 918.0}}, {}, ["between 300.0 and 918.0 MHz"]),
        ({"gpu_mhz": {"lowest": 900.0, "highest": 918.0}}, {}, ["nothing that was watched"]),
        ({"throttled": True, "throttling": ["cpu: 12 times"]}, {"governor": "powersave"}, ["throttled (cpu: 12 times)", "powersave"]),
    ],
)
def test_likely_causes(watch: dict[str, Any] | None, environment: dict[str, Any], words: list[str]) -> None:
    text = noise(measured(SCATTERED, watch, **environment))
    assert all(word in text for word in words)
    assert ("nothing that was watched" in text) == ("nothing that was watched" in " ".join(words))


def test_throttling_is_told_even_when_the_runs_are_even() -> None:
    text = noise(measured(QUIET, {"throttled": True, "throttling": []}, governor="powersave"))
    assert "the machine throttled" in text
    assert "powersave" not in text  # the runs do not scatter, so there is nothing for it to explain

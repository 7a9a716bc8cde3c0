"""Detection and causes of noise, on synthetic samples."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from measurements import ENVIRONMENT, MS, of

from tlexport.bench import noise as limits
from tlexport.bench import watching
from tlexport.bench.noise import disturbance, noise
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
    assert "they became 15% slower" in noise(measured(SLOWING))  # from 2.5 % to 17.5 % above the first run, in the middle of the quarters
    assert "faster" in noise(measured(SLOWING[::-1]))


@given(st.integers(0, 2**31))
def test_normal_scatter_of_three_percent_is_no_noise(seed: int) -> None:
    samples = np.random.default_rng(seed).normal(10 * MS, 0.03 * 10 * MS, 500).round().astype(int).tolist()
    assert noise(measured(samples)) == ""


@pytest.mark.parametrize(
    ("watch", "environment", "words"),
    [
        ({"other_cores": 1.4}, {}, ["other programs took 1.4 of 4 cores"]),
        ({"other_cores": 0.1}, {"load_1min": 5.0}, ["no cause was detected"]),  # the load was our own
        (None, {"load_1min": 5.0}, ["a load of 5.0 at the start"]),
        ({"other_cores": None}, {"load_1min": 0.3}, ["no cause was detected"]),
        ({}, {"governor": "schedutil"}, ["the frequency governor is schedutil, not performance"]),
        ({"other_cores": 0.1}, {"load_1min": 11.0}, ["a load of 11.0 at the start"]),  # more than the model and its start can be
        ({"stolen_cores": 0.6}, {}, ["the hypervisor gave 0.6 cores"]),
        ({"limited_seconds": 0.4}, {}, ["limit on CPU time held the process for 0.40 s"]),
        ({"swapped_bytes": 5 * 10**6}, {}, ["swapped 5.00 MB"]),
        ({"waiting": {"io": 0.4, "memory": 0.0}}, {}, ["waited for a disk in 40% of the time"]),
        ({"cpu_mhz": {"before": 3000.0, "after": 1200.0}}, {}, ["the CPU clock fell from 3000 to 1200 MHz"]),
        ({"gpu_mhz": {"lowest": 300.0, "highest": 918.0}}, {}, ["between 300.0 and 918.0 MHz"]),
        ({"gpu_mhz": {"lowest": 900.0, "highest": 918.0}}, {}, ["no cause was detected"]),
        ({"throttled": True, "throttling": ["cpu: 12 times"]}, {"governor": "powersave"}, ["throttled (cpu: 12 times)", "powersave"]),
    ],
)
def test_likely_causes(watch: dict[str, Any] | None, environment: dict[str, Any], words: list[str]) -> None:
    text = noise(measured(SCATTERED, watch, **environment))
    assert all(word in text for word in words)
    assert ("no cause was detected" in text) == ("no cause was detected" in " ".join(words))


@pytest.mark.parametrize(
    ("watch", "environment", "named"),
    [
        ({"limited_seconds": limits.LIMITED}, {}, True),
        ({"limited_seconds": 0.9 * limits.LIMITED}, {}, False),
        ({"limited_seconds": 0.015}, {}, True),
        ({"stolen_cores": limits.OTHER_CORES}, {}, True),
        ({"stolen_cores": 0.9 * limits.OTHER_CORES}, {}, False),
        ({"waiting": {"io": 0.0, "memory": 0.15}}, {}, True),
        ({"waiting": {"io": 0.05, "memory": 0.05}}, {}, False),
        ({"gpu_mhz": {"lowest": 900.0, "highest": 1000.0}}, {}, False),
        ({"other_cores": 0.1}, {"load_1min": 6.0}, True),  # of 4 cores, and the model has 2 threads
        ({}, {"load_1min": 1.5}, True),
        ({}, {"load_1min": 0.5}, False),
    ],
)
def test_a_cause_is_named_from_its_threshold_on(watch: dict[str, Any], environment: dict[str, Any], named: bool) -> None:
    assert ("no cause was detected" not in noise(measured(SCATTERED, watch, **environment))) == named


def test_programs_that_leave_the_model_half_a_core_less_disturb_nothing() -> None:
    free = ENVIRONMENT.cores - 2 + limits.CROWDED  # the model has 2 threads
    assert disturbance(measured(QUIET, {"other_cores": free})) == ""
    assert disturbance(measured(QUIET, {"other_cores": free + 0.1})).startswith("the runs are even, but may all be slow; likely because")


def test_throttling_is_told_even_when_the_runs_are_even() -> None:
    text = noise(measured(QUIET, {"throttled": True, "throttling": []}, governor="powersave"))
    assert "the machine throttled" in text
    assert "powersave" not in text  # the runs do not scatter, so there is nothing for it to explain


@pytest.mark.parametrize(("others", "told"), [(3.0, True), (1.0, False)])
def test_even_runs_beside_programs_on_all_cores_decide_nothing(others: float, told: bool) -> None:
    measurement = measured(QUIET, {"other_cores": others})  # of 4, and the model has 2 threads
    assert noise(measurement) == ""
    assert ("other programs took 3.0 of 4 cores" in disturbance(measurement)) == told


def test_a_latency_whose_slowest_runs_are_disturbed_decides_nothing() -> None:
    few = [ns * (3 if number % 15 == 0 else 1) for number, ns in enumerate(QUIET)]  # p90 is even
    assert noise(measured(few)) == ""
    assert "p95 is 2.9" in disturbance(measured(few))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="niceness and /proc/stat are Linux's")
def test_programs_of_low_priority_count() -> None:
    begin, before = psutil.cpu_times().nice, watching._counters("/")["busy"]
    with subprocess.Popen([sys.executable, "-S", "-c", "import os; os.nice(19)\nwhile True: pass"]) as burner:
        while psutil.cpu_times().nice < begin + 0.3:
            time.sleep(0.05)
        nice, busy = psutil.cpu_times().nice - begin, watching._counters("/")["busy"] - before
        burner.kill()
    assert busy >= nice
    assert "nice" in watching.BUSY


def test_a_container_s_limit_and_waiting_are_read(tmp_path: Path) -> None:
    for path, text in {
        "proc/self/cgroup": "0::/box/inner\n",
        "sys/fs/cgroup/box/cpu.stat": "usage_usec 9\nnr_throttled 4\nthrottled_usec 1500000\n",
        "proc/pressure/io": "some avg10=1.00 avg60=0.00 avg300=0.00 total=2500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1\n",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1800000\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    found = watching._counters(str(tmp_path))
    assert (found["limited"], found["io"], found["mhz"]) == (1.5, 2.5, 1800.0)
    assert "memory" not in found

"""Statistics of raw samples: compared with hand-computed values, and properties that hold for any samples."""

import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measurements import MS, of

from tlexport.errors import InvalidFile
from tlexport.measurement import Measurement, Stages

samples = st.lists(st.integers(1, 10**10), min_size=1, max_size=60)


@pytest.mark.parametrize(
    ("percent", "expected"),
    [(1, 15), (5, 15), (20, 15), (21, 20), (30, 20), (40, 20), (50, 35), (60, 35), (80, 40), (81, 50), (100, 50)],
)
def test_nearest_rank_of_five_samples(percent: int, expected: int) -> None:
    assert of([35 * MS, 20 * MS, 15 * MS, 50 * MS, 40 * MS]).percentile_ms(percent) == expected


@pytest.mark.parametrize("percent", range(1, 101))
def test_of_a_hundred_samples_the_percentile_is_the_rank(percent: int) -> None:
    assert of([rank * MS for rank in range(100, 0, -1)]).percentile_ms(percent) == percent


@settings(deadline=None)
@given(samples)
def test_percentiles_are_samples_and_rise(latencies: list[int]) -> None:
    found = [of(latencies).percentile_ms(percent) for percent in range(1, 101)]
    assert found == sorted(found)
    assert {round(ms * MS) for ms in found} <= set(latencies)
    assert found[-1] == max(latencies) / MS


@settings(deadline=None)
@given(samples, st.integers(1, 100))
def test_percentile_is_the_smallest_sample_that_enough_runs_reach(latencies: list[int], percent: int) -> None:
    limit = round(of(latencies).percentile_ms(percent) * MS)
    assert 100 * sum(value <= limit for value in latencies) >= percent * len(latencies)
    assert 100 * sum(value < limit for value in latencies) < percent * len(latencies)


def test_mean_and_throughput_by_hand() -> None:
    measurement = of([10 * MS, 20 * MS, 60 * MS], batch=6)
    assert measurement.mean_ms == 30
    assert measurement.throughput_per_s == pytest.approx(200)  # 6 images in 30 ms


@settings(max_examples=20, deadline=None)
@given(samples)
def test_interval_lies_between_the_extremes_and_narrows_with_confidence(latencies: list[int]) -> None:
    measurement = of(latencies)
    low, high = measurement.mean_interval_ms()
    assert min(latencies) / MS * (1 - 1e-12) <= low <= high <= max(latencies) / MS * (1 + 1e-12)
    narrow_low, narrow_high = measurement.mean_interval_ms(confidence=0.5)
    assert low <= narrow_low <= narrow_high <= high
    assert measurement.mean_interval_ms() == (low, high)


def test_interval_of_equal_samples_is_a_point() -> None:
    assert of([7 * MS] * 50).mean_interval_ms() == (7, 7)


def test_interval_agrees_with_the_normal_one_for_many_samples() -> None:
    """By the central limit theorem the two meet: mean ± 1.96 standard errors."""
    latencies = [10 * MS + (i * 7919 % 10007) * 1000 for i in range(10_000)]
    low, high = of(latencies).mean_interval_ms()
    half = 1.96 * statistics.stdev(latencies) / math.sqrt(len(latencies)) / MS
    mean = statistics.fmean(latencies) / MS
    assert mean - low == pytest.approx(half, rel=0.1)
    assert high - mean == pytest.approx(half, rel=0.1)


@settings(deadline=None)
@given(samples)
def test_json_round_trip_keeps_every_sample(latencies: list[int]) -> None:
    measurement = of(latencies)
    assert Measurement.parse(measurement.model_dump(mode="json"), "memory") == measurement
    assert Measurement.model_validate_json(measurement.model_dump_json()).latencies_ns == tuple(latencies)


def test_json_for_users_has_the_promised_keys() -> None:
    figures = of([MS, 2 * MS, 3 * MS]).to_json()
    promised = {
        "what",
        "runtime",
        "provider",
        "threads",
        "batch",
        "latency_ms",
        "throughput_per_s",
        "size_bytes",
        "peak_memory_bytes",
        "load_ms",
        "environment",
    }
    assert promised <= figures.keys()
    latency = figures["latency_ms"]
    assert isinstance(latency, dict)
    assert {"mean", "p50", "p90", "p95", "p99", "n"} <= latency.keys()
    assert (latency["p50"], latency["p99"], latency["n"]) == (2, 3, 3)
    assert figures["load_ms"] == 5
    assert figures["latencies_ns"] == [MS, 2 * MS, 3 * MS]


@pytest.mark.parametrize(
    ("key", "value"),
    [("latencies_ns", []), ("latencies_ns", [5, 0]), ("batch", 0), ("threads", 0), ("warmup_runs", -1), ("provider", None)],
)
def test_impossible_values_are_refused_by_name(key: str, value: object) -> None:
    data = of([MS]).model_dump(mode="json") | {key: value}
    with pytest.raises(InvalidFile, match=key):
        Measurement.parse(data, "measurement.json")


# --- what was added later ---------------------------------------------------------------------------------------------------


def test_a_measurement_of_before_is_read() -> None:
    """JSON without the keys of later versions."""
    later = {"mode", "first_inference_ns", "gpu_memory_bytes", "inputs", "stages", "placement", "layers", "watch"}
    data = of([MS, 2 * MS]).model_dump(mode="json")
    assert later < data.keys()
    old = Measurement.parse({key: value for key, value in data.items() if key not in later}, "old.json")
    assert old == of([MS, 2 * MS])
    assert all(getattr(old, key) is None for key in later)


@settings(deadline=None)
@given(samples)
def test_what_json_shows_is_read_back(latencies: list[int]) -> None:
    shown = of(latencies).to_json()
    assert Measurement.parse({key: value for key, value in shown.items() if key in Measurement.model_fields}, "shown") == of(latencies)


def test_variation_by_hand() -> None:
    assert of([10 * MS, 20 * MS, 30 * MS]).variation == pytest.approx(math.sqrt(200 / 3) / 20)
    assert of([5 * MS]).variation == 0


def test_energy_by_hand() -> None:
    assert of([MS]).energy_mj_per_image is None
    assert of([MS]).model_copy(update={"watch": {"watts": None}}).energy_mj_per_image is None
    watched = of([10 * MS, 30 * MS], batch=4).model_copy(update={"watch": {"watts": 5.0}})
    assert watched.energy_mj_per_image == pytest.approx(25)  # 5 W for 20 ms are 100 mJ, for four images


def test_stages_sum_up_image_by_image() -> None:
    stages = Stages(decode_ns=(MS, 9 * MS, 2 * MS), resize_ns=(9 * MS, MS, 2 * MS), infer_ns=(3 * MS, 3 * MS, 3 * MS), images=3)
    assert stages.medians_ms() == {"decode": 2, "resize": 2, "infer": 3, "total": 13}  # of 13, 13 and 7, not the sum of medians

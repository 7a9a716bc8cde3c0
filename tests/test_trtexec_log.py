"""trtexec's logs and files of each version, complete, truncated and failed, written by tests/trtexec_files.py."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import trtexec_files as fake
from hypothesis import given
from hypothesis import strategies as st
from trtexec_files import VERSIONS, Version

from tlexport.device.errors import DeviceError
from tlexport.device.runtimes.trtexec_json import read_output_file, read_profile, read_times
from tlexport.device.runtimes.trtexec_log import (
    BUILT,
    LAST_LINES,
    MEASURED,
    Statistics,
    TrtexecLog,
    last_lines,
    percentile,
    read_log,
    require,
    version_of,
)

COMMAND = "trtexec --loadEngine=model.engine"
WARMUP = 20
TRACE = fake.queries(200, transfers=True, first_ms=200.0)
versions = pytest.mark.parametrize("version", VERSIONS, ids=str)


def text(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


def measured(version: Version, *odd: str, graph: bool = True) -> str:
    return text(fake.bench_log(version, COMMAND, TRACE, WARMUP, graph=graph, spin=True, transfers=True, odd=odd))


def built(version: Version) -> str:
    return text(fake.build_log(version, COMMAND))


@versions
def test_a_build(version: Version) -> None:
    log = require(built(version), BUILT)
    assert log.verdict == "PASSED"
    assert log.tensorrt == ".".join(map(str, version))
    assert (log.device, log.compute_capability, log.build_seconds) == (fake.DEVICE, fake.CAPABILITY, 61.25)
    assert log.engine_bytes == (2.5 * 2**20 if version >= (10,) else None)
    assert (log.throughput_qps, log.latency, log.load_seconds, log.errors) == (None, None, None, ())


@versions
def test_a_measurement(version: Version) -> None:
    log = require(measured(version), MEASURED)
    assert (log.load_seconds, log.queries, log.warmup_queries) == (0.75, len(TRACE), WARMUP)
    seconds = (TRACE[-1].start + TRACE[-1].latency - TRACE[0].start) / 1e3
    assert log.throughput_qps == pytest.approx(len(TRACE) / seconds, rel=1e-5)
    assert (log.cuda_graph, log.spin_wait, log.data_transfers) == (True, True, True)
    assert log.warnings == ()
    for name, field in {"latency": "latency", "enqueue": "enqueue", "h2d": "h2d", "gpu_compute": "compute", "d2h": "d2h"}.items():
        values = [getattr(query, field) for query in TRACE]
        found = getattr(log, name)
        assert isinstance(found, Statistics)
        expected = (min(values), max(values), sum(values) / len(values), np.median(values))
        assert found[:4] == pytest.approx(expected, rel=1e-5)
        assert set(found.percentiles) == set(fake.percents(version))


@versions
def test_percentiles_of_the_raw_times_are_those_of_the_log(version: Version) -> None:
    log = require(measured(version), MEASURED)
    times = read_times(fake.times_file(version, fake.queries(WARMUP, True), TRACE), len(TRACE), WARMUP)
    assert log.latency is not None
    for percent, ms in log.latency.percentiles.items():
        assert percentile(times, percent) / 1e6 == pytest.approx(ms, rel=1e-5)


@given(st.lists(st.integers(1, 10**8), min_size=1, max_size=300), st.integers(0, 100) | st.floats(0, 100))
def test_percentiles_are_taken_by_trtexec_s_rule(samples: list[int], percent: float) -> None:
    found = percentile(samples, percent)
    assert found == fake.percentile(sorted(samples), percent)
    assert found in samples
    rank = math.ceil(percent / 100 * len(samples) - 1e-4)  # the nearest one, and the next where single precision falls short
    ordered = sorted(samples)
    assert found in (ordered[max(rank - 1, 0)], ordered[min(rank, len(samples) - 1)])


@pytest.mark.parametrize(("samples", "percent"), [([], 50), ([1, 2], -1), ([1, 2], 100.5)])
def test_percentiles_that_are_not(samples: list[int], percent: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        percentile(samples, percent)


@versions
def test_warnings_on_the_figures(version: Version) -> None:
    bound = "* Throughput may be bound by Enqueue Time rather than GPU Compute and the GPU may be under-utilized."
    unstable = "* GPU compute time is unstable, with coefficient of variance = 4.52%."
    advice = "  If not already in use, locking GPU clock frequency or adding --useSpinWait may improve the stability."
    log = require(measured(version, bound, unstable, advice), MEASURED)
    assert log.warnings == (bound[2:], unstable[2:])


@versions
def test_a_graph_that_could_not_be_captured_is_not_claimed(version: Version) -> None:
    refused = "The built TensorRT engine contains operations that are not permitted under CUDA graph capture mode."
    assert require(measured(version, refused), MEASURED).cuda_graph is False
    assert require(measured(version, graph=False), MEASURED).cuda_graph is False


@versions
@pytest.mark.parametrize("whole", ["built", "measured"])
def test_a_log_cut_short_anywhere_is_refused_with_its_last_lines(version: Version, whole: str) -> None:
    lines = {"built": built, "measured": measured}[whole](version).splitlines()
    for count in range(len(lines)):
        cut = text(lines[:count])
        with pytest.raises(DeviceError, match="cut short") as error:
            require(cut, ())
        assert all(line in error.value.message for line in last_lines(cut))
        assert len(last_lines(cut)) <= LAST_LINES
        read_log(cut[: -len(lines[count - 1]) // 2])  # cut within a line: read all the same


@versions
def test_a_figure_that_is_missing_is_named(version: Version) -> None:
    whole = measured(version).splitlines()
    marks = {
        "throughput_qps": "Throughput: ",
        "latency": "] Latency: ",
        "gpu_compute": "GPU Compute Time: min",
        "device": "Selected Device: ",
    }
    for name, mark in marks.items():
        assert sum(mark in line for line in whole) == 1
        with pytest.raises(DeviceError, match=f"lacks: {name}"):
            require(text([line for line in whole if mark not in line]), MEASURED)
    with pytest.raises(DeviceError, match="lacks: build_seconds"):
        require(text(whole), BUILT)


@versions
def test_a_failure_tells_trtexec_s_reason_and_the_last_lines(version: Version) -> None:
    reasons = ["ModelImporter.cpp:769: While parsing node number 7 [HardSwish]:", "Engine set up failed"]
    with pytest.raises(DeviceError, match="trtexec failed: ModelImporter") as error:
        require(text(fake.failed_log(version, COMMAND, reasons)), BUILT, 1)
    assert "Engine set up failed" in error.value.message
    assert "[11/21/2026" not in error.value.message


@pytest.mark.parametrize(
    ("reason", "status", "hint"),
    [
        ("[TRT] 2: OutOfMemory (no further information)", 1, "out of memory"),
        ("TimingCache creation failed", 1, "timing.cache"),
        ("1: Serialization assertion failed.Version tag does not match.", 1, "run.py build"),
        ("Killed", -9, "out of memory"),
    ],
)
def test_a_failure_that_is_known_has_a_remedy(reason: str, status: int, hint: str) -> None:
    with pytest.raises(DeviceError) as error:
        require(text(fake.failed_log((8, 2, 1), COMMAND, [reason])), BUILT, status)
    assert hint in error.value.hint


@pytest.mark.parametrize(("status", "words"), [(127, "exit status 127"), (-11, "signal 11"), (1, "exit status 1")])
def test_an_end_without_a_word_is_refused(status: int, words: str) -> None:
    with pytest.raises(DeviceError, match=words):
        require("", (), status)
    with pytest.raises(DeviceError, match="trtexec failed"):
        require(built((10, 3, 0)), BUILT, status)  # for any log


@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(measured((8, 2, 1)).splitlines() + built((11, 1, 0)).splitlines()), max_size=8).map(text)
)
def test_reading_never_fails(log: str) -> None:
    assert isinstance(read_log(log), TrtexecLog)


@pytest.mark.parametrize(
    ("code", "version"), [(8201, "8.2.1"), (8502, "8.5.2"), (100300, "10.3.0"), (101602, "10.16.2"), (110100, "11.1.0")]
)
def test_the_banner_s_number(code: int, version: str) -> None:
    assert version_of(code) == version


def test_a_banner_without_a_version_leaves_it_to_the_line() -> None:
    lines = built((8, 2, 1)).replace(" [TensorRT v8201]", "")
    assert require(lines, BUILT).tensorrt == "8.2.1"


def test_figures_that_are_infinite_are_read() -> None:
    line = "[I] Latency: min = inf ms, max = 1e+02 ms, mean = -nan ms, median = 1.5e-05 ms, percentile(99.5%) = inf ms"
    found = read_log(f"[11/21/2026-18:47:34] {line}").latency
    assert found is not None
    assert (found.min, found.max, found.median, found.percentiles) == (math.inf, 100.0, 1.5e-5, {99.5: math.inf})
    assert math.isnan(found.mean)


# --- the files --------------------------------------------------------------------------------------------------------


@versions
def test_times_are_those_after_the_warm_up(version: Version) -> None:
    found = read_times(fake.times_file(version, fake.queries(WARMUP, True), TRACE), len(TRACE), WARMUP)
    assert found == tuple(pytest.approx(query.latency * 1e6, abs=5) for query in TRACE)  # six digits were printed


@versions
def test_times_cut_short_or_of_another_run_are_refused(version: Version) -> None:
    whole = fake.times_file(version, fake.queries(WARMUP, True), TRACE)
    for cut in (whole[:-3], whole[: len(whole) // 2], "", "[", "{}", "[1]", '[{"latencyMs": "2"}]', '[{"latencyMs": NaN}]'):
        with pytest.raises(DeviceError, match=r"cannot be read|holds"):
            read_times(cut, len(TRACE), WARMUP)
    for queries in (len(TRACE) - 1, len(TRACE) + 1):
        with pytest.raises(DeviceError, match=str(queries)):
            read_times(whole, queries, WARMUP)
    with pytest.raises(DeviceError, match="no time"):
        read_times("[]", 0, 0)


@versions
def test_layer_times_with_names_that_are_not_escaped(version: Version) -> None:
    found = read_profile(fake.profile_file(version))
    assert [(layer.name, layer.average_ms) for layer in found] == list(fake.LAYERS)
    assert all((layer.median_ms is None) == (version < (8, 5)) for layer in found)
    assert sum(layer.percent for layer in found) == pytest.approx(100, abs=0.01)
    with pytest.raises(json.JSONDecodeError):
        json.loads(fake.profile_file(version))  # therefore it is not read as JSON


names = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=40)


@given(st.lists(st.tuples(names, st.integers(0, 1000).map(lambda n: n / 8)), min_size=1, max_size=4), st.sampled_from(VERSIONS))
def test_layer_names_come_back_as_they_are(layers: list[tuple[str, float]], version: Version) -> None:
    found = read_profile(fake.profile_file(version, layers))
    assert [(layer.name, layer.average_ms) for layer in found] == layers
    assert all(math.isnan(layer.percent) for layer in found) == (sum(ms for _, ms in layers) == 0)


@versions
def test_layer_times_cut_short_are_refused(version: Version) -> None:
    whole = fake.profile_file(version)
    for count in range(len(whole) - 2):
        with pytest.raises(DeviceError, match=r"cut short|no layer"):
            read_profile(whole[:count])


def test_outputs() -> None:
    values = [0.25, 1e-9, 0.75]
    found = read_output_file(fake.output_file(values))
    assert (found.shape, found.dtype) == ((1, 3), np.dtype("float32"))
    assert found[0].tolist() == pytest.approx(values)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_outputs_that_are_no_numbers_are_named_as_such(value: float) -> None:
    with pytest.raises(DeviceError, match="not finite"):
        read_output_file(fake.output_file([0.5, value, 0.5]))


def test_outputs_that_are_cut_short_or_odd_are_refused() -> None:
    whole = fake.output_file([0.25, 0.75])
    two = "[" + whole.strip()[1:-1] + "," + whole.strip()[1:-1] + "]"
    for text in (
        *(whole[:count] for count in range(len(whole) - 2)),
        two,
        whole.replace("1x2", "1x3"),
        whole.replace("1x2", ""),
        "{}",
        "[]",
    ):
        with pytest.raises(DeviceError, match="cannot be read"):
            read_output_file(text)

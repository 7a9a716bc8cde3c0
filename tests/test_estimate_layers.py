"""Calibration: valid probe networks, layers timed one by one, and a fit that recovers known parameters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tlexport.api.calibrate_profile import calibrate
from tlexport.bench.environment import describe_machine
from tlexport.errors import InvalidFile, StepFailed, Unsupported
from tlexport.estimate.blocks import FAMILIES
from tlexport.estimate.cost import cost_of
from tlexport.estimate.fit import TimedLayer, fit_kind
from tlexport.estimate.layer_times import Probe, fit_device, predict_from_layers, probe_of
from tlexport.estimate.probes import probe
from tlexport.estimate.timing import runnable, time_nodes
from tlexport.hardware.device_model import DeviceModel
from tlexport.hardware.target import load_profile

SEEDS = range(2 * len(FAMILIES))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_probe_is_a_valid_network_and_its_seed_says_which(seed: int) -> None:
    model = probe(seed)
    onnx.checker.check_model(model, full_check=True)
    assert cost_of(model).macs > 1e6
    assert probe(seed).SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)


def test_every_layer_that_costs_something_is_timed() -> None:
    graph = runnable(probe(4))
    node_us, whole_us = time_nodes(graph, 1)
    layers = {layer.name for layer in cost_of(graph).layers}
    assert layers <= set(node_us)
    assert all(time >= 0 for time in node_us.values())
    assert 0.3 < sum(node_us.values()) / whole_us < 3


def synthetic(count: int) -> list[TimedLayer]:
    """Layers of a made-up device: 2 µs to start, 10 GMAC/s, 5 GB/s, and half that speed for few channels."""
    draw = np.random.default_rng(0)
    rows = []
    for _ in range(count):
        macs, size, channels = np.exp(draw.uniform(np.log([0.1, 0.01, 8]), np.log([100, 10, 512])))
        slower = 1 + 8 / channels
        rows.append(
            TimedLayer("conv/Conv", (1.0, macs, size, 0.0), (np.log2(macs), np.log2(channels)), slower * (2 + 100 * macs + 200 * size))
        )
    return rows


def test_a_fit_foretells_layers_that_it_has_not_seen() -> None:
    rows = synthetic(300)
    model = fit_kind(rows[:200])
    costs, features = (np.array([getattr(row, name) for row in rows[200:]]) for name in ("costs", "features"))
    ratios = np.exp(model.log_us(costs, features)) / [row.us for row in rows[200:]]
    assert np.quantile(np.abs(ratios - 1), 0.9) < 0.1


def test_layers_that_are_too_short_for_the_clock_say_nothing_of_long_ones() -> None:
    """100 µs for each MB, and what takes less than the profiler's microseconds is read as anything."""
    draw = np.random.default_rng(0)
    rows = []
    for size in np.exp(draw.uniform(np.log(1e-5), np.log(5), 140)):
        us = np.exp(draw.normal(0, 1.2)) if size < 0.02 else 100 * size * np.exp(draw.normal(0, 0.03))
        around = draw.uniform(18, 24), draw.uniform(15, 24)
        rows.append(TimedLayer("move/Copy", (1.0, 0.0, size, 0.0), (*around, np.log2(1e6 * size), draw.integers(3, 10)), max(us, 0.3)))
    model = fit_kind(rows)
    assert model.noise < 0.1
    long = np.array([[1.0, 0.0, 8.0, 0.0]]), np.array([[21.0, 24.0, np.log2(8e6), 6.0]])
    assert np.exp(model.log_us(*long)) == pytest.approx(800, rel=0.03)


def device(probes: int = 24, profiler_us: float = 0.0, busy: int = 0) -> tuple[list[Probe], DeviceModel]:
    """A made-up device whose layers take exactly 3 µs and 1 ns for each 100 MACs, and a run 20 µs more.

    Args:
        probes: how many were timed.
        profiler_us: what its profiler adds to each layer.
        busy: during how many of them the machine was busy, and took three times as long.
    """
    timed = []
    for seed in range(probes):
        cost = cost_of(probe(seed))
        slower = 3 if seed < busy else 1
        node_us = {layer.name: slower * (3 + layer.macs / 1e5) for layer in cost.layers}
        whole_us = sum(node_us.values()) + 20
        timed.append(probe_of(cost, len(cost.layers), {name: time + profiler_us for name, time in node_us.items()}, whole_us))
    return timed, fit_device(timed, "fp32", 1, describe_machine("cpu"))


def test_a_device_is_foretold_from_its_layers_and_its_file_says_the_same(tmp_path: Path) -> None:
    _, model = device()
    assert model.error < 0.05 and model.low <= 1 <= model.high
    cost = cost_of(probe(100))
    told = predict_from_layers(cost, len(cost.layers), model)
    exact = (sum(3 + layer.macs / 1e5 for layer in cost.layers) + 20) / 1e3
    assert told.p50_ms == pytest.approx(exact, rel=0.1)
    assert told.low_ms <= told.p50_ms <= told.high_ms
    assert told.unknown == ()
    model.write(tmp_path / "model.json")
    assert predict_from_layers(cost, len(cost.layers), DeviceModel.read(tmp_path / "model.json")) == told


@pytest.mark.parametrize(("profiler_us", "busy"), [(2.0, 0), (0.0, 2)])
def test_what_the_profiler_adds_and_busy_moments_are_no_part_of_it(profiler_us: float, busy: int) -> None:
    _, model = device(30, profiler_us, busy)
    cost = cost_of(probe(107))  # many small layers
    exact = (sum(3 + layer.macs / 1e5 for layer in cost.layers) + 20) / 1e3
    assert predict_from_layers(cost, len(cost.layers), model).p50_ms == pytest.approx(exact, rel=0.15)


def test_an_operator_that_was_never_timed_is_named_and_widens_the_interval() -> None:
    _, model = device()
    cost = cost_of(probe(100))
    known = predict_from_layers(cost, len(cost.layers), model)
    fewer = {name: kind for name, kind in model.kinds.items() if name.partition("/")[0] != "pool"}
    told = predict_from_layers(cost, len(cost.layers), model.model_copy(update={"kinds": fewer}))
    assert "GlobalAveragePool" in told.unknown
    assert told.high_ms / told.p50_ms > known.high_ms / known.p50_ms


def test_too_few_probes_are_not_made_into_a_model() -> None:
    timed, _ = device()
    with pytest.raises(StepFailed, match="5 probe networks") as caught:
        fit_device(timed[:5], "fp32", 1, describe_machine("cpu"))
    assert "--seconds" in caught.value.hint


@pytest.mark.parametrize(("name", "precision"), [("jetson-nano", "fp32"), ("cpu-x86", "fp16")])
def test_what_cannot_be_calibrated_is_said(name: str, precision: str) -> None:
    with pytest.raises(Unsupported, match=precision):
        calibrate(load_profile(name), precision, [1])  # type: ignore[arg-type]  # a precision


def test_a_model_of_another_version_is_refused() -> None:
    _, model = device()
    older = {
        name: kind.model_copy(update={"scales": kind.scales[1:], "points": tuple(point[1:] for point in kind.points)})
        for name, kind in model.kinds.items()
    }
    cost = cost_of(probe(100))
    with pytest.raises(InvalidFile, match="another version") as caught:
        predict_from_layers(cost, len(cost.layers), model.model_copy(update={"kinds": older}))
    assert "tlx profiles calibrate" in caught.value.hint


def test_a_file_whose_parts_do_not_fit_together_is_refused(tmp_path: Path) -> None:
    _, model = device()
    data = model.model_dump(mode="json")
    next(iter(data["kinds"].values()))["weights"].pop()
    with pytest.raises(InvalidFile, match="weights"):
        DeviceModel.parse(data, "model.json")

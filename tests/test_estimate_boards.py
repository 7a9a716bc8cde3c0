"""Estimates for boards: properties of the model, the profiles' figures, and the fit."""

from __future__ import annotations

import importlib
import json
import math
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from commands import ROOT
from hypothesis import given
from hypothesis import strategies as st

from tlexport.artifact import Precision
from tlexport.bundle.manifest import read_manifest
from tlexport.errors import Unsupported
from tlexport.estimate import boards
from tlexport.estimate.boards import predict_from_rates, work
from tlexport.estimate.cost import GraphCost, LayerCost, cost_of
from tlexport.estimate.graph import fused, read
from tlexport.hardware.board_rates import BoardRates, Conditions, Rates
from tlexport.hardware.target import load_file, load_profile, profile_names

PROFILES = ROOT / "profiles"
TARGETS = [f"{name}{mode}" for name in profile_names() for mode in ("", *(f":{mode}" for mode in load_file(name).modes()))]
WITH_FIGURES = [target for target in TARGETS if load_profile(target).latency]
WITHOUT = [target for target in TARGETS if not load_profile(target).latency]
KINDS = ("conv", "pointwise", "depthwise", "grouped", "se", "gemm", "pool", "elementwise", "move")
RESULT = json.loads((ROOT / "benchmarks/results/boards.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def real(bundle: Path) -> dict[str, GraphCost]:
    """Costs of an exported network, MobileNetV3-Small, in each precision of its bundle."""
    models = {entry.artifact.precision: bundle / entry.file for entry in read_manifest(bundle).models}
    return {precision: cost_of(fused(read(path), layout=False)) for precision, path in models.items()}


def script(name: str) -> ModuleType:
    """A file of benchmarks/, which is no package."""
    folder = str(ROOT / "benchmarks")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)


def layer(kind: str, macs: int = 0, kernel: int = 1, bits: int = 32, op: str = "Conv", elements: int = 1000) -> LayerCost:
    size = bits // 8
    return LayerCost("l", op, kind, bits, macs, 100 * size if macs else 0, elements * size, elements * size, kernel=kernel, stride=1)  # type: ignore[arg-type]


def cost(*layers: LayerCost) -> GraphCost:
    return GraphCost(layers, sum(one.macs for one in layers), 0, 0, 0, ())


def figures(**changes: object) -> BoardRates:
    rates = dict.fromkeys(Rates.model_fields, 2.0)
    data = {
        "board": "b",
        "runtime": "tensorrt",
        "precision": "fp16",
        "per_ns": rates,
        "launch_us": 3.0,
        "interval": 1.5,
        "at": {"mhz": 900.0},
    }
    return BoardRates.parse(data | {"rows": 7, "date": "2026-11-21", "source": "a document"} | changes, "figures")


# The model


@given(
    st.lists(st.tuples(st.sampled_from(KINDS[:6]), st.integers(1, 10**9), st.sampled_from([1, 9, 25])), min_size=1), st.integers(1, 10**9)
)
def test_more_macs_are_never_faster(layers: list[tuple[str, int, int]], more: int) -> None:
    before = [layer(kind, macs, kernel) for kind, macs, kernel in layers]
    kind, macs, kernel = layers[0]
    after = [layer(kind, macs + more, kernel), *before[1:]]
    assert boards.milliseconds_at(work(cost(*after)), figures()) > boards.milliseconds_at(work(cost(*before)), figures())


@given(st.dictionaries(st.sampled_from([*Rates.model_fields, boards.LAUNCHES]), st.floats(1, 1e9), min_size=1))
def test_a_machine_twice_as_fast_takes_half_the_time(amounts: dict[str, float]) -> None:
    once = figures(at={"mhz": 500.0, "tops": 1.0, "bandwidth_gb_s": 20.0})
    twice = boards.scaled(once, Conditions(mhz=1000.0, tops=2.0, bandwidth_gb_s=40.0))
    assert math.isclose(boards.milliseconds_at(amounts, once), 2 * boards.milliseconds_at(amounts, twice), rel_tol=1e-9)


@given(st.lists(st.floats(1.001, 10), min_size=1, max_size=5), st.floats(1.001, 10))
def test_an_interval_gets_wider_with_every_cause_but_less_than_by_their_product(factors: list[float], more: float) -> None:
    assert max(factors) * (1 - 1e-9) <= boards.wider(*factors) < boards.wider(*factors, more) <= math.prod([*factors, more]) * (1 + 1e-9)


def test_each_kind_of_layer_is_done_at_its_own_rate() -> None:
    layers = [layer("conv", 10, kernel=9), layer("conv", 20, kernel=25), layer("pointwise", 40), layer("se", 80), layer("gemm", 160)]
    layers += [layer("depthwise", 320, kernel=9), layer("grouped", 640, kernel=9), layer("pool", op="MaxPool"), layer("move", op="Concat")]
    found = work(cost(*layers))
    assert {kind: found[kind] for kind in ("conv3x3", "conv", "pointwise", "depthwise", "grouped")} == {
        "conv3x3": 10,
        "conv": 20,
        "pointwise": 40 + 80 + 160,
        "depthwise": 320,
        "grouped": 640,
    }
    assert (found["weights"], found["activations"], found[boards.LAUNCHES]) == (700, 9 * 2000, 9)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_precision_changes_no_work_and_its_conversions_are_none(bits: int) -> None:
    wide = cost(layer("conv", 10, kernel=9), layer("elementwise", op="Add"))
    casts = [layer("elementwise", op=op) for op in boards.FOLDED]
    assert work(cost(layer("conv", 10, kernel=9, bits=bits), layer("elementwise", op="Add", bits=bits), *casts)) == work(wide)


def test_the_precisions_of_a_bundle_hold_the_same_work(real: dict[str, GraphCost]) -> None:
    whole = work(real["fp32"])
    for precision, found in real.items():
        amounts = work(found)
        for kind in ("conv3x3", "conv", "pointwise", "depthwise"):
            # INT8 for ONNX Runtime pads depthwise convolutions with zero channels to multiples of 16, and the filters of the first
            # convolution, 3 x 3 with a stride of 2, to 4 x 4 unless it stays in float
            most = (1.04 * (16 / 9 if kind == "conv" else 1)) if precision == "int8" else 1
            assert whole.get(kind, 0) <= amounts.get(kind, 0) <= most * whole.get(kind, 0), (precision, kind)
        assert 0.9 < amounts["weights"] / whole["weights"] < 1.1
        assert 0.7 < amounts[boards.LAUNCHES] / whole[boards.LAUNCHES] < 1.3


# The profiles


def test_there_are_figures_for_boards_and_none_for_kinds_of_machines() -> None:
    names = {target.partition(":")[0] for target in WITH_FIGURES}
    assert {name for name in profile_names() if name.startswith(("jetson", "raspberry", "rk"))} <= names
    assert {"cpu-x86", "cpu-arm64", "cuda-gpu"} <= set(WITHOUT)


@pytest.mark.parametrize("target", sorted({target.partition(":")[0] for target in WITH_FIGURES}))
def test_no_board_passes_anothers_figures_for_its_own(target: str) -> None:
    profile = load_profile(target)
    written = tomllib.loads((PROFILES / f"{target}.toml").read_text(encoding="utf-8"))["latency"]
    assert [one.model_dump(exclude_none=True) for one in profile.latency] == written  # nothing inherited
    assert {one.board for one in profile.latency} == {target}
    own = {one.interval for one in profile.latency if one.borrowed_from is None}
    assert {"fp32"} <= {one.precision for one in profile.latency} <= set(profile.precisions.value)
    for one in profile.latency:
        assert one.borrowed_from is None or one.interval > min([*own, boards.SCALED_CPU]), one


@pytest.mark.parametrize("target", WITH_FIGURES)
def test_a_real_network_takes_a_plausible_time_everywhere(target: str, real: dict[str, GraphCost]) -> None:
    """MobileNetV3-Small at 64 pixels: from some microseconds a layer on the fastest to a tenth of a second on the slowest."""
    profile = load_profile(target)
    for precision in profile.precisions.value:
        found = predict_from_rates(real["fp32"], profile, precision)
        assert 0.05 < found.p50_ms < 200, (precision, found)
        assert found.low_ms < found.p50_ms < found.high_ms
        assert math.isclose(found.p50_ms / found.low_ms, found.high_ms / found.p50_ms)
        assert found.high_ms / found.p50_ms < 20, (precision, found)
        assert ("a proxy" in found.basis) == (profile.runtime == "onnxruntime"), found.basis


@pytest.mark.parametrize("target", [target for target in WITH_FIGURES if target.startswith("jetson")])
def test_no_gpu_computes_beyond_its_peak_or_reads_weights_beyond_its_memory(target: str) -> None:
    profile = load_profile(target)
    for one in profile.latency:
        here = boards.conditions(profile.hardware, one.precision, on_gpu=True)
        found = boards.scaled(one, here)
        assert here.tops and here.bandwidth_gb_s
        macs = 1.01 * here.tops * 1e3 / 2  # in a nanosecond; a MAC is two operations
        assert max(found.per_ns.conv, found.per_ns.pointwise, found.per_ns.depthwise, found.per_ns.grouped) <= macs
        assert found.per_ns.conv3x3 <= 2.25 * macs  # Winograd's algorithm needs so many fewer
        assert found.per_ns.weights <= 1.01 * here.bandwidth_gb_s / {"fp32": 4, "fp16": 2, "int8": 1}[one.precision]


def test_faster_boards_are_predicted_to_be_faster(real: dict[str, GraphCost]) -> None:
    def ms(*targets: str, precision: Precision) -> list[float]:
        return [predict_from_rates(real["fp32"], load_profile(target), precision).p50_ms for target in targets]

    pis = ms("raspberry-pi-zero-2w", "raspberry-pi-3b-plus", "raspberry-pi-4", "raspberry-pi-5", precision="int8")
    assert pis == sorted(pis, reverse=True)
    jetsons = ms("jetson-nano", "jetson-agx-xavier", "jetson-agx-orin", precision="fp16")
    assert jetsons == sorted(jetsons, reverse=True)


def test_a_slower_power_mode_is_slower_and_less_certain(real: dict[str, GraphCost]) -> None:
    fast, slow = (predict_from_rates(real["fp32"], load_profile(f"jetson-nano{mode}"), "fp16") for mode in ("", ":5w"))
    assert slow.p50_ms > fast.p50_ms
    assert slow.high_ms / slow.p50_ms > fast.high_ms / fast.p50_ms
    assert "scaled" in slow.basis and "scaled" not in fast.basis


def test_an_heir_borrows_unless_it_is_the_same_hardware(tmp_path: Path, real: dict[str, GraphCost]) -> None:
    budget = tmp_path / "mine.toml"
    budget.write_text('extends = "raspberry-pi-5"\nname = "mine"\n[budget]\nlatency_p95 = "5 ms"\n', encoding="utf-8")
    clocked = tmp_path / "clocked.toml"
    fact = '{ value = 1200.0, source = "set in config.txt", status = "read" }'
    clocked.write_text(f'extends = "raspberry-pi-5"\nname = "clocked"\n[hardware]\ncpu_mhz = {fact}\n', encoding="utf-8")
    parent, same, other = (
        predict_from_rates(real["fp32"], load_profile(name), "int8") for name in ("raspberry-pi-5", str(budget), str(clocked))
    )
    assert (same.p50_ms, same.high_ms) == (parent.p50_ms, parent.high_ms)
    assert other.p50_ms > parent.p50_ms
    assert other.high_ms / other.p50_ms > parent.high_ms / parent.p50_ms
    assert "scaled from the hardware of raspberry-pi-5 to that of clocked" in other.basis


@pytest.mark.parametrize("target", WITHOUT)
def test_where_there_is_nothing_to_stand_on_no_number_is_made_up(target: str, real: dict[str, GraphCost]) -> None:
    with pytest.raises(Unsupported, match="cannot be estimated") as caught:
        predict_from_rates(real["fp32"], load_profile(target), "fp32")
    assert "tlx profiles calibrate" in caught.value.hint and "tlx bench" in caught.value.hint


def test_the_nearest_figures_are_taken_and_what_differs_is_said() -> None:
    base = load_profile("raspberry-pi-5")
    at = boards.conditions(base.hardware, "fp32", on_gpu=False).model_dump(exclude_none=True)
    four, one, eighth = (
        figures(board=base.name, runtime="ncnn", precision=precision, threads=threads, launch_us=launch, at=at)
        for precision, threads, launch in (("fp32", 4, 4.0), ("fp32", 1, 1.0), ("int8", 4, 8.0))
    )
    vulkan = figures(board=base.name, runtime="ncnn-vulkan", at=at)
    profile = base.model_copy(update={"latency": (vulkan, eighth, one, four)})
    assert boards.choose_rates(profile, "fp32", None) is four
    assert boards.choose_rates(profile, "fp32", 1) is one
    assert boards.choose_rates(profile, "int8", 1) is eighth
    assert "with 4 threads, not 1: a proxy" in predict_from_rates(cost(layer("conv", 10)), profile, "int8", 1).basis
    native = figures(board=base.name, runtime="onnxruntime", precision="fp32", threads=1, at=at)
    assert boards.choose_rates(profile.model_copy(update={"latency": (four, native)}), "int8", 4) is native
    basis = predict_from_rates(cost(layer("conv", 10)), profile, "fp16", 4).basis
    assert "measured with ncnn, not with ONNX Runtime: a proxy" in basis and "not for FP16" in basis


# The fit


def invented(seed: int, units: int = 4, networks: int = 12) -> tuple[list[object], dict[str, dict[str, float]], np.ndarray]:
    """Rows without noise, of units whose figures are known."""
    model = script("board_model")
    rng = np.random.default_rng(seed)
    amounts = {}
    for number in range(networks):
        values = rng.lognormal(0, 1.0, len(model.KINDS)) * 1e6 * np.array([300, 100, 300, 20, 20, 5, 10, 50e-6])
        amounts[f"net{number}"] = dict(zip(model.KINDS, values.tolist(), strict=True))
    ns = np.array(model.GUESS) * rng.lognormal(0, 0.5, len(model.KINDS)) * rng.lognormal(0, 1, (units, 1))
    ns = ns * rng.lognormal(0, 0.1, ns.shape)
    rows = []
    for unit in range(units):
        for network, found in amounts.items():
            ms = float(np.array([found[kind] for kind in model.KINDS]) @ ns[unit]) / 1e6
            rows.append(model.Row(model.Unit(f"board{unit}", "ncnn", "fp32", 4), network, ms, "a source"))
    return rows, amounts, ns


@pytest.mark.parametrize("seed", range(3))
def test_the_fit_finds_known_figures_again(seed: int) -> None:
    model = script("board_model")
    rows, amounts, ns = invented(seed)
    units = sorted({row.unit for row in rows}, key=repr)
    fitted = model.Model(units, {}).fit(rows, amounts)
    errors = np.log(fitted.predict(rows, amounts)) - np.log([row.ms for row in rows])
    assert np.abs(errors).max() < 0.05
    found = np.log([fitted.of(unit) for unit in units]) - np.log(ns)
    share = model.table(rows, amounts)[:, None, :] * ns[None] / 1e6
    matters = (share / share.sum(-1, keepdims=True)).mean((0, 1)) > 0.1  # layers with a tenth of the time are distinguishable
    assert np.abs(found[:, matters]).mean() < 0.15


def test_a_network_left_out_is_seen_on_no_board() -> None:
    model = script("board_model")
    rows, amounts, _ = invented(0)
    units = sorted({row.unit for row in rows}, key=repr)
    changed = [row if row.network != "net3" else model.Row(row.unit, row.network, 7 * row.ms, row.source) for row in rows]
    before, after = (model.fit_without(some, units, amounts, {}, lambda row: row.network) for some in (rows, changed))
    assert (before["net3"].ns == after["net3"].ns).all()
    assert (before["net4"].ns != after["net4"].ns).any()


def test_variants_of_a_network_are_left_out_with_it() -> None:
    rows = script("board_rows")
    files = {rows.file_of(name, side, runtime) for name, side, runtime in (
        *(("resnet50", 224, "ncnn"), ("resnet50", 256, "tensorrt"), ("resnet_v1_50", 224, "tensorrt")),
    )}  # fmt: skip
    assert len(files) == 3
    assert {rows.origin_of(file) for file in files} == {"resnet50"}
    assert rows.file_of("vgg16_bn", 224, "tensorrt") == rows.file_of("vgg16", 224, "tensorrt")
    assert rows.relatives_of("mnasnet1_0") == rows.relatives_of("mobilenet_v1_050") != rows.relatives_of("resnet50-256")


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=60))
def test_an_interval_holds_four_fifths_of_the_errors_that_set_it(errors: list[float]) -> None:
    reach = script("board_scores").reach(errors)
    assert sum(abs(error) <= reach for error in errors) >= 0.8 * len(errors)


def test_only_networks_others_than_its_own_set_an_interval() -> None:
    model, scores = script("board_model"), script("board_scores")
    rows = [model.Row(model.Unit("b", "ncnn", "fp32", 4), f"net{number}", 1.0, "a source") for number in range(10)]
    scored = scores.Scored(rows, np.array([0.3] * 9 + [0.6]))
    assert scores.covered(scored) == [True] * 9 + [False]


def test_figures_are_written_below_the_mark_and_replaced_there() -> None:
    module = script("board_figures")
    path = PROFILES / "raspberry-pi-5.toml"
    text = path.read_text(encoding="utf-8")
    profile = load_profile(str(path))
    assert module.written(text, profile.latency) == text
    fewer = module.written(text, profile.latency[:1])
    assert tomllib.loads(fewer)["latency"] == [profile.latency[0].model_dump(exclude_none=True)]
    assert fewer.partition(module.MARK)[0] == text.partition(module.MARK)[0]


def test_the_widths_in_the_code_are_those_of_the_benchmark() -> None:
    used = {"scaled_cpu": boards.SCALED_CPU, "scaled_gpu": boards.SCALED_GPU, "proxy": boards.PROXY}
    assert {name: round(width, 1) for name, width in RESULT["wider"].items()} == used
    document = (ROOT / "docs/estimates.md").read_text(encoding="utf-8")
    assert f"| {boards.PROXY} |" in document
    assert f"| {boards.SCALED_CPU} on a CPU, {boards.SCALED_GPU} on a GPU |" in document


def test_the_figures_of_the_profiles_are_those_that_were_scored() -> None:
    for target in WITH_FIGURES:
        assert {one.date for one in load_profile(target).latency} == {RESULT["date"]}


def test_left_out_networks_are_predicted_as_well_as_promised() -> None:
    """At most 25 % off in the median, and 80 % intervals that hold three quarters."""
    assert RESULT["left_out"]["rows"] == RESULT["rows"]
    assert RESULT["left_out"]["median_error"] <= 0.25
    assert RESULT["left_out"]["coverage"] >= 0.75
    assert sum(row["rows"] for row in RESULT["boards"]) == RESULT["rows"]


def test_figures_are_lent_only_where_both_compute_in_the_precision(real: dict[str, GraphCost]) -> None:
    """The N5105 has no fast 8-bit arithmetic: its published INT8 latencies do not transfer to an N100."""
    lent = script("board_figures").RELATIVES
    profile = load_profile("intel-n100")
    assert lent[profile.name] == "intel-n5105" and "int8" in profile.precisions.value
    assert {one.precision for one in profile.latency} == {"fp32"}
    assert "for FP32, not for INT8: a proxy" in predict_from_rates(real["fp32"], profile, "int8").basis

"""The plan of an export and the choice of a model: pure functions, tested with tables and properties."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlexport.artifact import PRECISIONS, Precision
from tlexport.errors import OverBudget, Unsupported, UsageError
from tlexport.hardware.profile import Budget, Profile
from tlexport.hardware.target import load_profile
from tlexport.optimize.steps import Step, plan_export
from tlexport.plan import MAX_DROP_POINTS, SHARED, Candidate, Constraints, Limits, choose, doubts, not_as_budgeted, violations
from tlexport.prediction import Estimate

PROFILES = sorted(path.stem for path in (Path(__file__).parent.parent / "profiles").glob("*.toml"))
NONE = Limits(None, None, None, drop_points=100.0)

FP32 = Candidate("fp32", 6_000_000, 0.0, 3.0, 4.0, 100_000_000)
FP16 = Candidate("fp16", 3_000_000, 0.1, 2.0, 3.0, 90_000_000)
INT8 = Candidate("int8", 1_500_000, 0.8, 5.0, 6.0, 80_000_000)
ALL = (FP32, FP16, INT8)


def untimed(*candidates: Candidate) -> list[Candidate]:
    return [replace(c, p50_ms=None, p95_ms=None, memory_bytes=None) for c in candidates]


def expected(candidate: Candidate, p50: float, *, width: float = 1.25, memory: int = 10_000_000) -> Candidate:
    """A candidate that was estimated: between ``p50 / width`` and ``p50 * width``."""
    estimate = Estimate(
        what="m",
        target="board",
        precision=candidate.precision,
        threads=1,
        p50_ms=p50,
        low_ms=p50 / width,
        high_ms=p50 * width,
        memory_bytes=memory,
        size_bytes=candidate.size_bytes,
        macs=1,
        basis="made up",
    )
    return replace(untimed(candidate)[0], estimate=estimate)


def chosen(candidates: list[Candidate] | tuple[Candidate, ...], limits: Limits, wanted: Any = "auto") -> str:
    [winner] = [v.precision for v in choose(candidates, limits, wanted) if v.chosen]
    return winner


# --- the plan ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=PROFILES)
def profile(request: pytest.FixtureRequest) -> Profile:
    return load_profile(request.param)


def of(steps: tuple[Step, ...], action: str) -> list[Precision | None]:
    return [step.precision for step in steps if step.action == action]


@pytest.mark.parametrize("here", [True, False])
def test_the_plan_is_everything_the_profile_takes(profile: Profile, here: bool) -> None:
    able = profile.precisions.value
    steps = plan_export(profile, Constraints(), here)
    assert of(steps, "convert") == ["fp32"]
    assert set(of(steps, "quantize")) == set(able) - {"fp32"}
    assert sorted(map(str, of(steps, "check"))) == sorted(able)
    assert of(steps, "measure") == (of(steps, "check") if here else [])
    assert not of(steps, "estimate")
    assert [step.action for step in steps[-2:]] == ["choose", "write"]
    assert all(len(step.reason) > 5 for step in steps)


def test_what_can_be_estimated_is_estimated_where_it_is_not_measured(profile: Profile) -> None:
    steps = plan_export(profile, Constraints(), here=False, estimated=["fp32"])
    assert of(steps, "estimate") == ["fp32"]
    assert not of(plan_export(profile, Constraints(), here=True, estimated=["fp32"]), "estimate")


def test_nothing_is_checked_before_it_is_made_nor_chosen_before_it_is_checked(profile: Profile) -> None:
    steps = plan_export(profile, Constraints(), here=True)
    place = {(step.action, step.precision): index for index, step in enumerate(steps)}
    for precision in profile.precisions.value:
        made = place[("convert", "fp32")] if precision == "fp32" else place[("quantize", precision)]
        assert made < place[("check", precision)] < place[("measure", precision)] < place[("choose", None)] < place[("write", None)]


def test_a_single_precision_brings_its_parent_and_no_other(profile: Profile) -> None:
    for precision in profile.precisions.value:
        steps = plan_export(profile, Constraints(precision=precision), here=False)
        assert set(of(steps, "check")) == {"fp32", precision}
        assert of(steps, "choose") == [precision]


def test_the_plan_names_opset_and_input_type_of_the_profile(profile: Profile) -> None:
    [convert] = [step for step in plan_export(profile, Constraints(), here=False) if step.action == "convert"]
    assert f"opset {profile.opset.value}" in convert.reason
    assert profile.input_dtype.value in convert.reason


def test_a_precision_that_the_target_lacks_is_refused_with_those_it_has(profile: Profile) -> None:
    lacking = [p for p in PRECISIONS if p not in profile.precisions.value]
    for precision in lacking:
        with pytest.raises(Unsupported) as error:
            plan_export(profile, Constraints(precision=precision), here=False)
        assert profile.title in error.value.message
        assert precision in error.value.message
        assert profile.precisions.source in error.value.message
        for able in profile.precisions.value:
            assert able in error.value.hint


# --- the choice -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("candidates", "limits", "wanted", "winner"),
    [
        pytest.param(ALL, NONE, "auto", "fp16", id="measured: the lowest median"),
        pytest.param((FP32, FP16, replace(INT8, p50_ms=1.0)), NONE, "auto", "int8", id="measured: INT8 where it is faster"),
        pytest.param(ALL, replace(NONE, size_bytes=2_000_000), "auto", "int8", id="slower INT8 only because the size demands it"),
        pytest.param(ALL, replace(NONE, drop_points=0.05), "auto", "fp32", id="accuracy excludes the rest"),
        pytest.param(ALL, replace(NONE, latency_p95_ms=3.5), "auto", "fp16", id="latency excludes the rest"),
        pytest.param(ALL, replace(NONE, memory_bytes=85_000_000), "auto", "int8", id="memory excludes the rest"),
        pytest.param(ALL, NONE, "int8", "int8", id="asked for, though slower"),
        pytest.param(untimed(*ALL), NONE, "auto", "fp16", id="not timed: FP16"),
        pytest.param(untimed(FP32, INT8), NONE, "auto", "fp32", id="not timed: INT8 is not assumed to be faster"),
        pytest.param(untimed(*ALL), replace(NONE, size_bytes=2_000_000), "auto", "int8", id="not timed: the size demands INT8"),
        pytest.param(untimed(*ALL), replace(NONE, latency_p95_ms=0.1), "auto", "fp16", id="a limit on what is not known does not bind"),
        pytest.param((expected(FP16, 5), expected(INT8, 1)), NONE, "auto", "int8", id="estimated: the intervals are apart"),
        pytest.param((expected(FP16, 5), expected(INT8, 4)), NONE, "auto", "fp16", id="estimated: they overlap, so FP16"),
        pytest.param((expected(FP32, 5), FP16, expected(INT8, 1)), NONE, "fp32", "fp32", id="estimated, asked for"),
        pytest.param((expected(FP16, 5), *untimed(INT8)), NONE, "auto", "fp16", id="estimated, and nothing is known of the other"),
        pytest.param((expected(FP32, 9), *untimed(FP16)), replace(NONE, memory_bytes=10**9, asked=True), "auto", "fp32", id="asked: known"),
        pytest.param((expected(FP16, 5), expected(INT8, 4)), replace(NONE, latency_p95_ms=4.5), "auto", "int8", id="an estimate is held"),
        pytest.param(
            (expected(FP16, 5), expected(INT8, 9, memory=1)), replace(NONE, memory_bytes=9), "auto", "int8", id="estimated memory is held"
        ),
        pytest.param((FP32, FP16), Limits(3_000_000, 3.0, 90_000_000, 0.1), "auto", "fp16", id="a limit is met at its very value"),
    ],
)
def test_what_is_chosen(candidates: tuple[Candidate, ...], limits: Limits, wanted: Any, winner: str) -> None:
    assert chosen(candidates, limits, wanted) == winner


def test_reasons_compare() -> None:
    reason = {v.precision: v.reason for v in choose(ALL, replace(NONE, size_bytes=4_000_000), "auto")}
    assert reason["fp32"] == "size 6.00 MB > 4.00 MB"
    assert "fastest" in reason["fp16"]
    assert "slower than fp16" in reason["int8"]
    assert "5.00" in reason["int8"]
    assert "2.00" in reason["int8"]
    asked = {v.precision: v.reason for v in choose(ALL, NONE, "fp32")}
    assert "requested" in asked["fp32"]
    assert asked["fp16"] == asked["int8"] == "fp32 was requested"


def test_without_timing_no_reason_claims_a_speed() -> None:
    for verdict in choose(untimed(*ALL), NONE, "auto"):
        assert "slower" not in verdict.reason
        assert "fastest" not in verdict.reason
        assert " ms" not in verdict.reason


def test_an_estimate_is_called_one_in_every_reason() -> None:
    made = [expected(FP32, 6), expected(FP16, 4), expected(INT8, 3.5)]
    reason = {v.precision: v.reason for v in choose(made, replace(NONE, latency_p95_ms=5), "auto")}
    assert reason["fp32"] == "estimated latency 6 ms (4.8 to 7.5) > 5 ms"
    assert reason["fp16"] == "within the budget by estimated latency; not timed here"
    assert reason["int8"] == "also fits; estimated at 3.5 ms (2.8 to 4.38), fp16 at 4 ms (3.2 to 5)"


def test_over_budget_names_every_limit_and_the_nearest() -> None:
    with pytest.raises(OverBudget) as error:
        choose(ALL, Limits(1_000_000, 3.5, None, 0.5), "auto")
    lines = dict(line.strip().split(": ", 1) for line in error.value.message.splitlines()[1:])
    assert set(lines) == {"fp32", "fp16", "int8"}
    assert lines["fp32"] == "size 6.00 MB > 1.00 MB; p95 latency 4 ms > 3.5 ms"
    assert lines["fp16"] == "size 3.00 MB > 1.00 MB"
    assert lines["int8"] == "size 1.50 MB > 1.00 MB; p95 latency 6 ms > 3.5 ms; accuracy drop 0.8 points > 0.5"
    assert error.value.hint.startswith("the nearest is fp16 (size 3.00 MB > 1.00 MB)")


def test_what_was_not_asked_for_is_not_the_nearest() -> None:
    with pytest.raises(OverBudget) as error:
        choose(ALL, replace(NONE, size_bytes=2_000_000), "fp32")
    assert "int8" not in error.value.message + error.value.hint
    assert "nearest is fp32" in error.value.hint


def test_no_candidates() -> None:
    with pytest.raises(UsageError, match="no auto candidate"):
        choose([], NONE, "auto")
    with pytest.raises(UsageError, match="no int8 candidate"):
        choose([FP32], NONE, "int8")


@pytest.mark.parametrize("excess", [1, 4_000])
def test_figures_that_round_alike_are_told_apart(excess: int) -> None:
    [text] = violations(replace(FP32, size_bytes=2_000_000 + excess), replace(NONE, size_bytes=2_000_000))
    found, limit = text.removeprefix("size ").split(" > ")
    assert found != limit


# --- limits of the user and of the profile -----------------------------------------------------------------------------

BUDGET = Budget.model_validate({"size": "2 MB", "latency_p95": "10 ms", "memory": "50 MB"})


def test_a_limit_of_the_user_replaces_the_profiles_and_no_other() -> None:
    own = Limits(2_000_000, 10.0, 50_000_000, MAX_DROP_POINTS)
    assert Constraints().limits(BUDGET) == own
    assert Constraints(max_size_bytes=1).limits(BUDGET) == replace(own, size_bytes=1)
    assert Constraints(max_latency_ms=3.0).limits(BUDGET) == replace(own, latency_p95_ms=3.0, asked=True)
    assert Constraints(max_memory_bytes=4).limits(BUDGET) == replace(own, memory_bytes=4, asked=True)
    assert Constraints(max_drop_points=0.0).limits(BUDGET) == replace(own, drop_points=0.0)


def test_only_limits_of_the_user_bind_and_only_shrink_lets_a_budget_change_the_network() -> None:
    assert Constraints().binding() == Limits(None, None, None, math.inf)
    assert Constraints(max_size_bytes=1, max_drop_points=0.5).binding() == Limits(1, None, None, 0.5)
    assert Constraints().may_change(BUDGET) == Limits(None, None, None, MAX_DROP_POINTS)
    assert Constraints(shrink=True).may_change(BUDGET) == Constraints().limits(BUDGET)
    assert [given.may_train for given in (Constraints(), Constraints(shrink=True), Constraints(max_drop_points=0.0))] == [False, True, True]


def test_a_noisy_latency_is_held_against_the_shortest_run_on_a_core_of_its_own() -> None:
    noisy = replace(FP32, p95_ms=90.0, shortest_ms=8.0, noisy=True)
    assert noisy.bound_ms == 8.0 / SHARED
    for limit, broken, doubted in ((3.9, True, False), (4.0, False, True), (89.0, False, True), (90.0, False, False)):
        limits = replace(NONE, latency_p95_ms=limit)
        assert [bool(violations(noisy, limits)), bool(doubts(noisy, limits))] == [broken, doubted], limit
    assert violations(noisy, replace(NONE, latency_p95_ms=3.0)) == [
        "p95 latency 90 ms (noisy machine; the shortest run took 8 ms) > 3 ms",
    ]
    assert replace(noisy, p95_ms=3.0).bound_ms == 3.0
    assert replace(noisy, noisy=False).bound_ms == 90.0
    assert not doubts(replace(noisy, noisy=False), replace(NONE, latency_p95_ms=5.0))


def test_an_estimate_at_the_limit_keeps_it() -> None:
    assert violations(expected(FP16, 5), replace(NONE, latency_p95_ms=5.0)) == []


def test_where_none_keeps_the_yardstick_accuracy_counts_before_its_other_limits() -> None:
    verdicts = {v.precision: v for v in choose(ALL, NONE, "auto", Limits(1_000_000, 3.5, None, 0.5))}
    assert [precision for precision, verdict in verdicts.items() if verdict.chosen] == ["fp16"]  # fp32 breaks two limits, int8 the accuracy
    assert verdicts["fp16"].reason == "nearest to the budget; over the profile's budget: size 3.00 MB > 1.00 MB"
    assert verdicts["fp16"].over == ("size 3.00 MB > 1.00 MB",)
    equal = [replace(FP32, p95_ms=3.0), FP16]
    assert [v.precision for v in choose(equal, NONE, "auto", replace(NONE, size_bytes=1_000_000)) if v.chosen] == ["fp16"]  # the smaller


def test_a_budget_says_nothing_of_another_runtime_or_of_another_processor() -> None:
    cpu, board = load_profile("cpu-x86"), load_profile("jetson-orin-nano")
    assert not_as_budgeted(cpu, "onnxruntime", "CPUExecutionProvider") == ""
    assert not_as_budgeted(cpu, "torch", "CPU") == "torch was measured, and the budget is for onnxruntime"
    assert (
        not_as_budgeted(cpu, "onnxruntime", "CUDAExecutionProvider") == "CUDAExecutionProvider was measured, and the budget is for the CPU"
    )
    assert "is for tensorrt" in not_as_budgeted(board, "onnxruntime", "CUDAExecutionProvider")
    gpu = cpu.model_copy(update={"device": board.precisions.model_copy(update={"value": "cuda"})})
    assert not_as_budgeted(gpu, "onnxruntime", "CPUExecutionProvider").endswith("the budget is for a GPU")


# --- laws -------------------------------------------------------------------------------------------------------------

MS = st.floats(0.001, 1e4, allow_nan=False)
BYTES = st.integers(1, 10**9)
POINTS = st.floats(-100, 100, allow_nan=False)


@st.composite
def candidates(draw: st.DrawFn) -> list[Candidate]:
    timed = draw(st.booleans())  # all of an export's models are timed, or none
    made = []
    for precision in draw(st.permutations(PRECISIONS))[: draw(st.integers(1, 3))]:
        p50 = draw(MS) if timed else None
        p95 = p50 + draw(st.floats(0, 100)) if p50 is not None else None
        made.append(Candidate(precision, draw(BYTES), draw(POINTS), p50, p95, draw(BYTES) if timed else None))
    return made


def limits() -> st.SearchStrategy[Limits]:
    return st.builds(Limits, st.none() | BYTES, st.none() | MS, st.none() | BYTES, st.floats(0, 100))


def fits(c: Candidate, limits: Limits) -> bool:
    """The budget in one line, written independently of :func:`violations`."""
    bounds = [
        (c.size_bytes, limits.size_bytes),
        (c.p95_ms, limits.latency_p95_ms),
        (c.memory_bytes, limits.memory_bytes),
        (c.drop_points, limits.drop_points),
    ]
    return all(found is None or most is None or found <= most for found, most in bounds)


@given(candidates(), limits(), st.sampled_from(["auto", *PRECISIONS]))
def test_one_is_chosen_it_fits_and_it_is_over_budget_only_if_none_does(made: list[Candidate], budget: Limits, wanted: Any) -> None:
    eligible = [c for c in made if wanted in ("auto", c.precision)]
    try:
        verdicts = choose(made, budget, wanted)
    except UsageError:
        assert not eligible
        return
    except OverBudget as error:
        assert not any(fits(c, budget) for c in eligible)
        assert all(f"  {c.precision}: " in error.message for c in eligible)
        return
    assert [v.precision for v in verdicts] == [c.precision for c in made]
    [winner] = [c for c, v in zip(made, verdicts, strict=True) if v.chosen]
    assert winner in eligible
    assert fits(winner, budget)
    assert all(v.reason for v in verdicts)
    if winner.p50_ms is not None:
        assert all(winner.p50_ms <= (c.p50_ms or 0.0) for c in eligible if fits(c, budget))


@given(candidates(), limits())
def test_violations_are_what_does_not_fit(made: list[Candidate], budget: Limits) -> None:
    for candidate in made:
        broken = violations(candidate, budget)
        assert bool(broken) == (not fits(candidate, budget))
        assert all(" > " in text for text in broken)


@given(candidates(), limits(), st.integers(1, 10**9))
def test_loosening_a_limit_keeps_what_fits(made: list[Candidate], budget: Limits, smaller: int) -> None:
    tight = replace(budget, size_bytes=min(smaller, budget.size_bytes or smaller))
    for candidate in made:
        if not violations(candidate, tight):
            assert not violations(candidate, budget)

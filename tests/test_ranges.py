"""Calibration: activation ranges by every method."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlexport.errors import StepFailed, UsageError
from tlexport.export.ranges import BINS, INT8_STEPS, METHODS, Method, Ranges, narrowed
from tlexport.ports import Range

Values = npt.NDArray[np.float64]


def graph() -> onnx.ModelProto:
    """``d``: the pixels around 128; ``y``: their squares."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (uint8[batch,4,4,3] image) => (float[batch,4,4,3] y)'
        " <float middle = {128.0}> { c = Cast <to=1> (image) d = Sub (c, middle) y = Mul (d, d) }"
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def kept(values: Values, method: Method) -> Range:
    whole = min(0.0, float(values.min())), max(0.0, float(values.max()))
    return narrowed(np.histogram(values, BINS, whole)[0].astype(float), whole, method)


def squared_error(values: Values, ends: Range) -> float:
    """Of quantizing to 8 bits between the ends, computed by doing so."""
    step = (ends[1] - ends[0]) / INT8_STEPS
    zero = round(-ends[0] / step)
    told = (np.clip(np.round(values / step) + zero, 0, INT8_STEPS) - zero) * step
    return float(((values - told) ** 2).mean())


@pytest.mark.parametrize("method", METHODS)
def test_ranges_are_of_what_the_images_make(method: Method) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 3)).astype(np.uint8)
    before = graph()
    found = Ranges(before, pixels).by(method)
    assert before == graph()
    centred = pixels.astype(float) - 128
    whole = {"c": (0.0, pixels.max()), "d": (centred.min(), centred.max()), "y": (0.0, (centred**2).max())}
    assert set(found) == set(whole)
    for name, (low, high) in found.items():
        assert whole[name][0] <= low <= 0 <= high <= whole[name][1]
        assert high - low > 0.15 * (whole[name][1] - whole[name][0])
        if method == "minmax":
            assert (low, high) == whole[name]


def test_no_images_are_refused() -> None:
    with pytest.raises(UsageError) as error:
        Ranges(graph(), np.zeros((0, 4, 4, 3), np.uint8))
    assert "--data" in error.value.hint


def test_what_is_never_anything_but_0_has_an_empty_range() -> None:
    pixels = np.full((2, 4, 4, 3), 128, np.uint8)
    ranges = Ranges(graph(), pixels)
    assert {ranges.by(method)["d"] for method in METHODS} == {(0.0, 0.0)}


def test_values_that_are_not_finite_are_named() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (uint8[batch,4,4,3] image) => (float[batch,4,4,3] y)'
        " { c = Cast <to=1> (image) y = Log (c) }"
    )
    with pytest.raises(StepFailed, match=r"^y "):
        Ranges(model, np.zeros((1, 4, 4, 3), np.uint8))


@given(st.integers(0, 10**6), st.floats(0, 3), st.floats(-3, 3), st.sampled_from(METHODS))
def test_a_part_of_the_whole_is_kept(seed: int, skew: float, shift: float, method: Method) -> None:
    draw = np.random.default_rng(seed)
    values = np.exp(skew * draw.normal(size=2000)) * draw.normal(size=2000) + shift
    low, high = kept(values, method)
    assert min(0.0, values.min()) <= low <= 0 <= high <= max(0.0, values.max())
    assert low < high


@given(st.integers(0, 10**6), st.floats(0, 1))
def test_mse_loses_no_more_than_minmax(seed: int, skew: float) -> None:
    draw = np.random.default_rng(seed)
    values = np.exp(skew * draw.normal(size=5000)) * draw.normal(size=5000)
    assert squared_error(values, kept(values, "mse")) <= 1.1 * squared_error(values, kept(values, "minmax"))  # it works on a histogram


@pytest.mark.parametrize("method", [method for method in METHODS if method != "minmax"])
def test_a_lone_extreme_is_clipped(method: Method) -> None:
    values = np.append(np.random.default_rng(0).normal(size=2_000_000), 40.0)
    assert kept(values, "minmax")[1] == 40
    low, high = kept(values, method)
    assert 2 < high < 20
    assert low <= -2


@pytest.mark.parametrize("method", ["mse", "entropy"])
def test_of_values_that_are_all_alike_often_nothing_is_clipped(method: Method) -> None:
    values = np.random.default_rng(0).uniform(-1, 1, 200_000)
    low, high = kept(values, method)
    assert low < -0.95
    assert high > 0.95

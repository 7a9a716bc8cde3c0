"""Quantities with units: accepted and refused texts, and round trips."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlexport.errors import UsageError
from tlexport.units import format_bytes, format_mj, format_ms, format_percent, parse_bytes, parse_mj, parse_ms

SPACES = st.sampled_from(["", " ", "  ", "\t"])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1B", 1),
        ("1kB", 1_000),
        ("1.5MB", 1_500_000),
        (" 2 mb ", 2_000_000),
        (".5GB", 500_000_000),
        ("1KiB", 1_024),
        ("1MiB", 1_048_576),
        ("2GiB", 2 * 1_073_741_824),
        ("1e3kB", 1_000_000),
        ("5e-1MB", 500_000),
        ("0MB", 0),
    ],
)
def test_sizes_are_decimal_unless_they_say_binary(text: str, value: int) -> None:
    assert parse_bytes(text) == value
    assert isinstance(parse_bytes(text), int)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8ms", 8.0),
        ("8 MS", 8.0),
        ("1s", 1000.0),
        ("250us", 0.25),
        ("250\N{MICRO SIGN}s", 0.25),
        ("250\N{GREEK SMALL LETTER MU}s", 0.25),
        ("5ns", 5e-6),
    ],
)
def test_durations(text: str, value: float) -> None:
    assert parse_ms(text) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(("text", "value"), [("20mJ", 20.0), ("1J", 1000.0), ("5 uJ", 0.005)])
def test_energies(text: str, value: float) -> None:
    assert parse_mj(text) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    "text",
    ["", "1", "MB", "1 M B", "-1MB", "+1MB", "1,5MB", "1.MB", "1..5MB", "nanMB", "infMB", "1_000MB", "1XB", "1MB1", "1ms", "1e999MB"],
)
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_bytes(text)
    assert repr(text) in error.value.message
    example = error.value.hint.rpartition("such as ")[2]
    assert parse_bytes(example) > 0


@pytest.mark.parametrize("text", ["8", "8MB", "ms", "1e400s", "8 m s", "8\N{MICRO SIGN}"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_ms(text)
    example = error.value.hint.rpartition("such as ")[2]
    assert parse_ms(example) > 0
    for unit in ("ns", "us", "ms", "s"):
        assert f" {unit}," in error.value.hint


@given(st.integers(0, 10**15), SPACES, SPACES, SPACES)
def test_whole_bytes_are_kept(count: int, before: str, between: str, after: str) -> None:
    assert parse_bytes(f"{before}{count}{between}B{after}") == count


@given(st.integers(0, 10**9), st.sampled_from([("B", 1), ("kB", 10**3), ("MB", 10**6), ("GB", 10**9)]), st.booleans())
def test_a_unit_is_a_factor_whatever_its_case(count: int, unit: tuple[str, int], upper: bool) -> None:
    name, scale = unit
    assert parse_bytes(f"{count}{name.upper() if upper else name.lower()}") == count * scale


@given(st.integers(0, 10**15))
def test_a_written_size_reads_back_as_nearly_the_same(count: int) -> None:
    """Two decimals of a number that is at least 1: half a percent at most."""
    assert parse_bytes(format_bytes(count)) == pytest.approx(count, rel=0.005)


@given(st.integers(0, 10**15), st.integers(0, 10**15))
def test_a_larger_size_never_reads_as_smaller(a: int, b: int) -> None:
    small, large = sorted((a, b))
    assert parse_bytes(format_bytes(small)) <= parse_bytes(format_bytes(large))


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1_500_000, "1.50 MB"), (2_000, "2.00 kB"), (3_250_000_000, "3.25 GB")]
)
def test_sizes_as_they_are_shown(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(("millijoules", "text"), [(0, "0.00 uJ"), (0.005, "5.00 uJ"), (50, "50.00 mJ"), (1_500, "1.50 J")])
def test_energies_as_they_are_shown(millijoules: float, text: str) -> None:
    assert format_mj(millijoules) == text


@given(st.floats(1e-3, 1e6))
def test_a_written_energy_reads_back_as_nearly_the_same(millijoules: float) -> None:
    """Two decimals of a number that is at least 1: half a percent at most."""
    assert parse_mj(format_mj(millijoules)) == pytest.approx(millijoules, rel=0.005)


def test_shares_and_latencies_are_formatted_with_the_digits_that_matter() -> None:
    assert [format_percent(0.9512), format_percent(0.9512, 1), format_percent(1.0, 0), format_percent(None)] == [
        "95.12 %",
        "95.1 %",
        "100 %",
        "-",
    ]
    assert format_percent(None, missing="unknown") == "unknown"
    assert [format_ms(value) for value in (0.8311, 9.9994, 10.0, 99.994, 100.0, 152.4)] == [
        "0.831",
        "9.999",
        "10.00",
        "99.99",
        "100",
        "152",
    ]
    assert format_ms(None) == "-"

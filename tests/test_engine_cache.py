"""Stale engines are never loaded, and the reason is printed. The header of an engine is read without TensorRT."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any

import pytest
import trtexec_files as fake
from hypothesis import given
from hypothesis import strategies as st

from tlexport.device.errors import DeviceError, InvalidFile, Unsupported
from tlexport.device.runtimes.engine_cache import Key, key_path, why_stale, write_key
from tlexport.device.runtimes.plan_header import read_plan_version

RECIPE = {"input": "image", "shape": [1, 64, 64, 3], "workspace_mb": 1024, "precision": "int8", "opset": 20}
KEY = Key(hashlib.sha256(b"model").hexdigest(), RECIPE, "10.3.0.30", "Orin", "8.7", "12.6")

# every component, another value of it, and words that the reason must hold
CHANGES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "model_sha256": (hashlib.sha256(b"another").hexdigest(), ("the model has changed",)),
    "options": (RECIPE | {"workspace_mb": 2048}, ("workspace_mb was 1024, now 2048",)),
    "tensorrt": ("10.7.0.23", ("10.3.0.30", "10.7.0.23")),
    "gpu": ("Xavier", ("Orin", "Xavier")),
    "compute_capability": ("7.2", ("8.7", "7.2")),
    "driver": ("13.0", ("12.6", "13.0")),
}


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "model.int8.engine"
    path.write_bytes(fake.plan((10, 3, 0, 30), b"model"))
    write_key(path, KEY)
    return path


def test_an_engine_is_loaded_where_nothing_differs(engine: Path) -> None:
    assert why_stale(engine, KEY) == ""
    assert why_stale(str(engine), KEY._replace(options=RECIPE | {"shape": (1, 64, 64, 3)})) == ""  # JSON has no tuples
    assert [path.name for path in engine.parent.iterdir() if path.suffix == ".tmp"] == []


def test_every_component_has_a_case() -> None:
    assert set(CHANGES) == set(Key._fields)


@pytest.mark.parametrize("field", CHANGES)
def test_whatever_differs_is_said(engine: Path, field: str) -> None:
    value, words = CHANGES[field]
    reason = why_stale(engine, KEY._replace(**{field: value}))
    assert all(word in reason for word in words), reason
    for other, (_, said) in CHANGES.items():  # and nothing else is
        assert other == field or not all(word in reason for word in said)


def test_all_that_differs_is_said(engine: Path) -> None:
    reason = why_stale(engine, Key(**{field: value for field, (value, _) in CHANGES.items()}))
    assert all(word in reason for _, words in CHANGES.values() for word in words), reason


@pytest.mark.parametrize(("was", "now"), [("12.6", None), (None, "12.6")])
def test_what_became_known_or_unknown_differs(engine: Path, was: str | None, now: str | None) -> None:
    write_key(engine, KEY._replace(driver=was))
    assert "(unknown)" in why_stale(engine, KEY._replace(driver=now))


@pytest.mark.parametrize("options", [RECIPE | {"timing": True}, {k: v for k, v in RECIPE.items() if k != "opset"}, {}])
def test_an_option_more_or_less_differs(engine: Path, options: dict[str, Any]) -> None:
    assert "not there" in why_stale(engine, KEY._replace(options=options))


@pytest.mark.parametrize(
    ("version", "same"), [("10.3.0", True), ("10.3.0.30", True), ("10.3.0.26", False), ("10.3", False), ("10.3.1", False)]
)
def test_versions_agree_as_far_as_both_tell(engine: Path, version: str, same: bool) -> None:
    """trtexec 10.3 has a version of three numbers, the Python module of four; two are not enough to compare."""
    assert (why_stale(engine, KEY._replace(tensorrt=version)) == "") == same


@pytest.mark.parametrize("record", ["", "{", "[]", "null", '{"format": 1}', '{"format": 99, "engine_sha256": ""}', "[" * 100_000])
def test_a_record_that_says_nothing_makes_it_stale(engine: Path, record: str) -> None:
    key_path(engine).write_text(record, encoding="utf-8")
    assert engine.name in why_stale(engine, KEY)


def test_a_record_that_is_not_there_makes_it_stale(engine: Path) -> None:
    key_path(engine).unlink()
    assert "no record" in why_stale(engine, KEY)
    engine.unlink()
    assert "no engine" in why_stale(engine, KEY)


def test_another_file_under_the_name_is_stale(engine: Path) -> None:
    """As after a build that was killed between the two files: the record is the earlier engine's."""
    engine.write_bytes(fake.plan((10, 3, 0, 30), b"another"))
    assert "not the file" in why_stale(engine, KEY)


def test_an_engine_whose_header_names_another_tensorrt_is_stale(engine: Path) -> None:
    engine.write_bytes(fake.plan((10, 7, 0, 23), b"model"))
    write_key(engine, KEY)
    assert "10.7.0.23" in why_stale(engine, KEY)
    engine.write_bytes(b"not an engine at all, not at all")
    write_key(engine, KEY)
    assert "not a TensorRT engine" in why_stale(engine, KEY)


def test_tensorrt_before_8_6_writes_no_version_and_is_gone_by_the_record_alone(engine: Path) -> None:
    key = KEY._replace(tensorrt="8.2.1")
    engine.write_bytes(b"ptrt" + bytes(100))
    write_key(engine, key)
    assert why_stale(engine, key) == ""
    assert "8.2.1" in why_stale(engine, KEY)


# --- the header -------------------------------------------------------------------------------------------------------


@given(st.tuples(st.integers(10, 255), *[st.integers(0, 255)] * 3) | st.tuples(st.just(8), st.integers(6, 255), *[st.integers(0, 255)] * 2))
def test_the_version_is_read_from_the_header(tmp_path_factory: pytest.TempPathFactory, version: tuple[int, int, int, int]) -> None:
    path = tmp_path_factory.getbasetemp() / "header.engine"
    path.write_bytes(fake.plan(version, b""))
    assert read_plan_version(path) == version


@pytest.mark.parametrize("length", range(28))
def test_a_header_cut_short_is_told_from_no_header(tmp_path: Path, length: int) -> None:
    path = tmp_path / "cut.engine"
    path.write_bytes(fake.plan((10, 3, 0, 30), b"")[:length])
    with pytest.raises(InvalidFile, match="truncated" if length else "not a TensorRT engine") as error:
        read_plan_version(path)
    assert str(path) in error.value.message
    assert "run.py build" in error.value.hint


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (b"\x08\x0aPK" + bytes(60), InvalidFile, "not a TensorRT engine"),
        (b"ptrt" + bytes(60), Unsupported, "before 8.6"),
        (b"ftrt" + struct.pack("<I", 213) + bytes(60), Unsupported, "213"),
        (fake.plan((8, 5, 2, 2), b""), Unsupported, "before 8.6"),
    ],
)
def test_what_does_not_tell_its_version_is_refused(tmp_path: Path, data: bytes, kind: type[DeviceError], words: str) -> None:
    path = tmp_path / "odd.engine"
    path.write_bytes(data)
    with pytest.raises(kind, match=words):
        read_plan_version(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="cannot be read"):
        read_plan_version(tmp_path / "none.engine")

"""How torch's threads wait for each other in a process of ``tlx``: libgomp itself says what it was told."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from commands import process

from tlexport.cli.main import SPINS

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only torch for Linux comes with libgomp")


def libgomp_says(checkpoint: Path, digits: Path, **environment: str) -> dict[str, str]:
    """Its settings once torch is imported, by name."""
    ended = process("evaluate", checkpoint, digits, cwd=checkpoint.parent, env={"OMP_DISPLAY_ENV": "VERBOSE", **environment})
    assert ended.code == 0, ended.err
    return dict(re.findall(r"^\s*(\w+) = '(.*)'$", ended.err, re.MULTILINE))


@LINUX
def test_they_let_go_of_their_cores_soon(checkpoint: Path, digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    assert libgomp_says(checkpoint, digits)["GOMP_SPINCOUNT"] == SPINS


@LINUX
@pytest.mark.parametrize(("name", "value"), [("GOMP_SPINCOUNT", "77"), ("OMP_WAIT_POLICY", "ACTIVE")])
def test_what_the_user_says_counts(name: str, value: str, checkpoint: Path, digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} - {name}:
        monkeypatch.delenv(other, raising=False)
    found = libgomp_says(checkpoint, digits, **{name: value})
    assert found[name] == value
    assert found["GOMP_SPINCOUNT"] != SPINS

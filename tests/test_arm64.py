"""A bundle on emulated arm64: tests/device/arm64.sh and its comparison."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from device.compare_predictions import compare

from tlexport.cli.main import run

SCRIPT = Path(__file__).parent / "device/arm64.sh"
NEEDS = ("debootstrap", "qemu-aarch64-static", "chroot", "bash")
Answer = list[dict[str, Any]]
MANIFEST = {"models": [{"artifact": {"precision": "int8"}, "tolerance": 0.1}, {"artifact": {"precision": "fp32"}, "tolerance": 0.001}]}


def answers(cat: float = 0.8) -> Answer:
    images = ("here/a.png", "here/b.png")
    return [{"path": path, "class": "cat", "probability": cat, "probabilities": {"cat": cat, "dog": 1 - cat}} for path in images]


def elsewhere(change: Callable[[Answer], object]) -> Answer:
    """The same answers for the same images in another folder, but for one change."""
    there = [{**answer, "path": answer["path"].replace("here", "/there")} for answer in answers()]
    change(there)
    return there


def test_equal_answers_agree() -> None:
    assert compare(MANIFEST, "fp32", answers(), elsewhere(lambda there: None))[0]


def test_what_may_differ_depends_on_the_model() -> None:
    there = elsewhere(lambda there: there[1].update(probabilities={"cat": 0.79, "dog": 0.21}))
    assert compare(MANIFEST, "int8", answers(), there)[0]
    agreed, line = compare(MANIFEST, "fp32", answers(), there)
    assert not agreed and "0.01 (allowed 0.001)" in line


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda there: there[1].update({"class": "dog"}), "b.png"),
        (lambda there: there.pop(), "1 there"),
        (lambda there: there.reverse(), "not the same"),
        (lambda there: there[0].update(probabilities={"cat": 0.8}), "inf"),
    ],
    ids=["another class", "an image less", "another order", "a class less"],
)
def test_other_answers_do_not_agree(change: Callable[[Answer], object], named: str) -> None:
    agreed, line = compare(MANIFEST, "int8", answers(), elsewhere(change))
    assert not agreed and named in line


@pytest.mark.slow
def test_a_bundle_runs_on_arm64(checkpoint: Path, tmp_path: Path) -> None:
    missing = [program for program in NEEDS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"not here: {', '.join(missing)} (apt install debootstrap qemu-user-static)")
    if os.geteuid() != 0:
        pytest.skip("chroot needs root")
    out = tmp_path / "bundle"
    assert run(["export", str(checkpoint), "--target", "cpu-x86", "--with-c", "-q", "--out", str(out)]) == 0
    done = subprocess.run(
        ["bash", str(SCRIPT), str(out)], env=os.environ | {"PYTHON": sys.executable}, capture_output=True, encoding="utf-8", timeout=1800
    )
    if done.returncode == 3:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("PASS")
    for precision in ("fp32", "fp16", "int8"):
        assert f"ok     {precision}: 8 images, of another class: none" in done.stdout

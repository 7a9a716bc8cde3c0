"""`tlx export --build-engine` is refused, with the reason and before any export, if no engine can be built."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import pytest
from commands import here

from tlexport.errors import MissingDependency
from tlexport.export.build_engine import expect_buildable
from tlexport.hardware.target import load_profile, profile_path, resolve


@pytest.mark.parametrize(
    ("target", "code", "words"),
    [
        ("jetson-orin-nano", 4, ["Jetson Orin Nano", "python3 run.py build"]),
        ("cpu-x86", 4, ["onnxruntime, which needs no engine", "--build-engine"]),
    ],
)
def test_a_machine_that_is_not_the_target_builds_nothing(
    target: str, code: int, words: list[str], checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ended = here(capfd, "export", checkpoint, "-t", target, "--build-engine", "-o", tmp_path / "out")
    assert (ended.code, ended.out) == (code, "")
    for word in words:
        assert word in ended.err
    assert not list(tmp_path.iterdir())


def test_an_archive_holds_no_engine(checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ended = here(capfd, "export", checkpoint, "-t", "jetson-orin-nano", "--build-engine", "-o", tmp_path / "out.zip")
    assert (ended.code, ended.out) == (2, "")
    assert "out.zip" in ended.err
    assert not list(tmp_path.iterdir())


def test_a_target_without_tensorrt_on_it_lacks_a_dependency(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("TRTEXEC", raising=False)
    path = tmp_path / "mine.toml"
    board = profile_path("jetson-orin-nano").read_text(encoding="utf-8").replace('name = "jetson-orin-nano"', 'name = "mine"')
    path.write_text(re.sub(r"\[match\]\n[^[]*", f'[match]\nmachine = "{platform.machine()}"\n\n', board), encoding="utf-8")
    target = resolve(str(path))
    assert load_profile(str(path)).runtime == "tensorrt"
    assert target.here
    with pytest.raises(MissingDependency, match=r"no engine can be built here: .*tensorrt.*trtexec") as caught:
        expect_buildable(target, tmp_path / "out")
    assert "apt-get install tensorrt" in caught.value.hint

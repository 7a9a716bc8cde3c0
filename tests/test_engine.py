"""The command that builds an engine on the device: flags that its TensorRT has, and a script that a plain shell runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tlexport.artifact import PRECISIONS, Precision
from tlexport.errors import Unsupported
from tlexport.export.engine import TRTEXEC, build_script, trtexec_command
from tlexport.profile import Profile
from tlexport.target import load_profile

PROFILES = [load_profile(path.stem) for path in sorted((Path(__file__).parent.parent / "profiles").glob("*.toml"))]
JETSON = next(profile for profile in PROFILES if profile.runtime == "tensorrt")

ALWAYS = {"--onnx", "--saveEngine", "--minShapes", "--optShapes", "--maxShapes"}
# Those of trtexec's options that a build could want, as sampleOptions.cpp of NVIDIA/TensorRT reads them at the release tags.
FLAGS = {
    (8, 2): {"--workspace", "--fp16", "--int8", "--best", "--calib", "--buildOnly"},
    (8, 5): {"--workspace", "--memPoolSize", "--fp16", "--int8", "--best", "--calib", "--buildOnly"},
    (8, 6): {"--workspace", "--memPoolSize", "--fp16", "--int8", "--best", "--calib", "--buildOnly", "--skipInference"},
    (10, 0): {"--memPoolSize", "--fp16", "--int8", "--bf16", "--best", "--calib", "--skipInference", "--stronglyTyped"},
    (11, 0): {"--memPoolSize", "--skipInference", "--stronglyTyped"},
}
VERSIONS = ["8.2.1", "8.4.1", "8.5.2.2", "8.6.2", "10.3.0.30", "10.7.0", "10.13.3.9", "10.16.2.10", "11.0.0", "11.4.1"]


def with_tensorrt(version: str, opset: int = 20) -> Profile:
    fact = JETSON.software.tensorrt
    assert fact is not None
    software = JETSON.software.model_copy(update={"tensorrt": fact.model_copy(update={"value": version})})
    return JETSON.model_copy(update={"software": software, "opset": JETSON.opset.model_copy(update={"value": opset})})


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def names(command: tuple[str, ...]) -> list[str]:
    return [argument.partition("=")[0] for argument in command[1:]]


def values(command: tuple[str, ...]) -> dict[str, str]:
    return dict(argument.split("=", 1) for argument in command[1:] if "=" in argument)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("version", VERSIONS)
def test_every_flag_exists_in_that_version(version: str, precision: Precision) -> None:
    known = ALWAYS | FLAGS[max(since for since in FLAGS if since <= numbers(version))]
    used = names(trtexec_command(with_tensorrt(version), "model.onnx", precision, 64))
    assert set(used) <= known
    assert len(set(used)) == len(used)


@pytest.mark.parametrize("opset", [13, 17, 18, 19, 20])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_precision_is_allowed_where_it_is_wanted_and_nowhere_else(version: str, opset: int) -> None:
    """A builder that may use lower precision than asked for does; one that may not ignores what the graph is for."""
    profile = with_tensorrt(version, opset)
    flags = {precision: set(names(trtexec_command(profile, "model.onnx", precision, 64))) for precision in PRECISIONS}
    assert not flags["fp32"] & {"--fp16", "--int8", "--best"}
    assert "--int8" not in flags["fp16"]
    typed = opset >= 19  # the graph's scales are FP16 then
    assert ("--int8" in flags["int8"]) == (numbers(version) < (10,) or (numbers(version) < (11,) and not typed))
    assert ("--stronglyTyped" in flags["int8"]) == ((10,) <= numbers(version) < (11,) and typed)
    assert ("--fp16" in flags["fp16"] or "--stronglyTyped" in flags["fp16"]) == (numbers(version) < (11,))
    for used in flags.values():
        assert not ("--stronglyTyped" in used and used & {"--fp16", "--int8"})  # trtexec drops the latter then


@pytest.mark.parametrize("version", VERSIONS)
def test_the_workspace_is_the_profile_s(version: str) -> None:
    profile = with_tensorrt(version)
    assert profile.workspace_mb is not None
    given = values(trtexec_command(profile, "model.onnx", "fp16", 64))
    mebibytes = given.get("--workspace") or given["--memPoolSize"].removeprefix("workspace:")
    assert mebibytes == str(profile.workspace_mb.value)


@pytest.mark.parametrize("size", [64, 224])
def test_one_image_of_the_model_s_size(size: int) -> None:
    command = trtexec_command(JETSON, "model.fp16.onnx", "fp16", size)
    given = values(command)
    assert command[0] == TRTEXEC
    assert (given["--onnx"], given["--saveEngine"]) == ("model.fp16.onnx", "model.fp16.engine")
    assert {given[f"--{kind}Shapes"] for kind in ("min", "opt", "max")} == {f"image:1x{size}x{size}x3"}


@pytest.mark.parametrize("profile", [p for p in PROFILES if p.runtime != "tensorrt"], ids=lambda p: p.name)
def test_a_target_without_tensorrt_has_no_engine(profile: Profile) -> None:
    with pytest.raises(Unsupported, match=profile.name):
        trtexec_command(profile, "model.onnx", "fp32", 64)


# --- the script -------------------------------------------------------------------------------------------------------

needs_sh = pytest.mark.skipif(shutil.which("sh") is None, reason="no sh on this machine to run the script with")
COMMANDS: dict[Precision, tuple[str, ...]] = {p: trtexec_command(JETSON, f"model.{p}.onnx", p, 64) for p in PRECISIONS}


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "my bundle (1)" / "build_engine.sh"
    path.parent.mkdir()
    path.write_text(build_script(COMMANDS, "int8"), encoding="utf-8")
    return path


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """Stands for trtexec: writes down where it runs and what it is told, one line each, and exits with $FAKE_EXIT."""
    path = tmp_path / "tensor rt" / "trtexec"
    path.parent.mkdir()
    path.write_text('#!/bin/sh\n{ pwd; printf "%s\\n" "$@"; } > "$0.log"\nexit "${FAKE_EXIT:-0}"\n', encoding="utf-8")
    path.chmod(0o755)
    return path


def run(script: Path, fake: Path, *arguments: str, exit_code: int = 0) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"TRTEXEC": str(fake), "FAKE_EXIT": str(exit_code)}
    return subprocess.run(["sh", str(script), *arguments], cwd=fake.parent, env=environment, capture_output=True, text=True, check=False)


@needs_sh
@pytest.mark.parametrize("precision", [None, *PRECISIONS])
def test_the_script_runs_trtexec_in_the_bundle(script: Path, fake: Path, precision: Precision | None) -> None:
    result = run(script, fake, *([precision] if precision else []))
    assert (result.returncode, result.stderr) == (0, "")
    folder, *arguments = Path(f"{fake}.log").read_text(encoding="utf-8").splitlines()
    assert Path(folder).resolve() == script.parent.resolve()
    assert tuple(arguments) == COMMANDS[precision or "int8"][1:]


@needs_sh
def test_the_script_refuses_an_unknown_precision(script: Path, fake: Path) -> None:
    result = run(script, fake, "fp8")
    assert result.returncode == 2
    assert "fp8" in result.stderr
    for precision in PRECISIONS:
        assert precision in result.stderr
    assert not Path(f"{fake}.log").exists()


@needs_sh
def test_the_script_fails_when_trtexec_fails(script: Path, fake: Path) -> None:
    assert run(script, fake, exit_code=7).returncode == 7


@needs_sh
def test_the_script_fails_where_there_is_no_trtexec(script: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    nowhere.mkdir()
    result = run(script, nowhere / "trtexec")
    assert result.returncode == 127
    assert "trtexec" in result.stderr


def test_a_script_knows_only_what_the_bundle_holds() -> None:
    text = build_script({"fp16": COMMANDS["fp16"]}, "fp16")
    assert "model.fp16.onnx" in text
    assert "int8" not in text
    assert "fp32" not in text

"""`tlx doctor` and `tlx backbones`: their output, compared with its sources."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import runpy
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import timm
from commands import ROOT, here, process
from torchvision import models

from tlexport import plugins
from tlexport.hardware.target import profile_names, resolve

# what the project promises; further families may be there too
PROMISED = {
    *("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "resnet18", "resnet34", "resnet50"),
    *(f"efficientnet_b{size}" for size in range(5)),
    "efficientnet_v2_s",
}
# one of each shape of network: inverted residuals, residuals, and scaled ones with another image size
DESCRIBED = ("mobilenet_v3_small", "resnet18", "efficientnet_b1")


def answer(capfd: pytest.CaptureFixture[str], *arguments: str) -> Any:
    ended = here(capfd, *arguments, "--json")
    assert (ended.code, ended.err) == (0, "")
    return json.loads(ended.out)


# --- doctor -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def findings(capfd: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = answer(capfd, "doctor")
    return found


def test_doctor_knows_every_dependency(findings: dict[str, dict[str, Any]]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.split(r"[^\w-]", dependency)[0].removesuffix("-gpu") for dependency in project["dependencies"]}
    assert names <= set(findings)
    for name in names - {"onnxruntime"}:
        assert findings[name]["detail"] == importlib.metadata.version(name)
        assert findings[name]["ok"]


def test_doctor_knows_this_machine(findings: dict[str, dict[str, Any]]) -> None:
    assert findings["python"]["detail"] == platform.python_version()
    assert findings["cpu"]["detail"].startswith(platform.machine())
    here_ = [name for name in profile_names() if resolve(name).here]
    assert findings["profiles of this machine"]["ok"] == bool(here_)
    assert all(name in findings["profiles of this machine"]["detail"] for name in here_)
    for runtime in plugins.names("runtimes"):
        module, finding = plugins.runtime(runtime), findings[f"runtime {runtime}"]
        assert not finding["ok"] or all(form in finding["detail"] for form in module.FORMATS)
    assert findings["runtime torch"]["ok"] and findings["runtime onnxruntime"]["ok"]
    assert not findings["runtime tensorrt"]["ok"] or (findings["tensorrt"]["ok"] and findings["cuda"]["ok"])
    assert not findings["runtime onnxruntime_tensorrt"]["ok"] or findings["cuda"]["ok"]
    assert all(finding["ok"] for finding in findings.values() if finding["needed"])


def test_doctor_as_text(findings: dict[str, dict[str, Any]], capfd: pytest.CaptureFixture[str]) -> None:
    ended = here(capfd, "doctor")
    assert ended.code == 0
    assert [line[8:].partition(": ")[::2] for line in ended.out.splitlines()] == [(name, item["detail"]) for name, item in findings.items()]


def test_doctor_tells_of_a_library_that_cannot_be_loaded(tmp_path: Path) -> None:
    """An installed torch that lacks a system library, as after an incomplete upgrade."""
    (tmp_path / "torch.py").write_text('raise ImportError("libcudnn.so.9: cannot open shared object file", name="torch")\n')
    ended = process("doctor", "--json", cwd=tmp_path, env={"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])})
    assert ended.code == 3
    findings = json.loads(ended.out)
    assert (findings["torch"]["ok"], findings["runtime onnxruntime"]["ok"]) == (True, True)
    assert (findings["runtime torch"]["ok"], findings["runtime torch"]["needed"]) == (False, True)
    assert "libcudnn.so.9" in findings["runtime torch"]["detail"]
    assert (findings["cuda"]["ok"], findings["cuda"]["needed"]) == (False, False)
    assert "error: missing or broken: runtime torch\nhint: pip install" in ended.err


STUBS = {
    "": "a module without TensorRT's libraries",
    "raise RuntimeError('libnvinfer is missing')": "cannot be loaded: libnvinfer is missing",
    "raise ImportError('libnvinfer.so.10: cannot open shared object file')": "cannot be loaded: libnvinfer.so.10",
}


@pytest.mark.parametrize("program", STUBS)
def test_doctor_sees_through_a_stub_of_tensorrt(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A module named tensorrt is not enough: the package index has a stub of that name."""
    (tmp_path / "tensorrt.py").write_text(program)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    found = answer(capfd, "doctor")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    assert (found["tensorrt"]["ok"], found["runtime tensorrt"]["ok"]) == (False, False)
    assert STUBS[program] in found["tensorrt"]["detail"] and "pip install" in found["tensorrt"]["detail"]


def test_doctor_tells_of_several_onnx_runtimes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("onnxruntime", "onnxruntime_gpu", "onnxruntime_openvino"):
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    ended = here(capfd, "doctor")
    assert ended.code == 3
    assert "onnxruntime and onnxruntime-gpu and onnxruntime-openvino are installed and overwrite each other" in ended.out


def test_doctor_tells_of_profiles_that_cannot_be_found(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TLX_PROFILES", "/nowhere/at/all")
    finding = answer(capfd, "doctor")["profiles of this machine"]
    assert not finding["ok"]
    assert "/nowhere/at/all, which is not a folder" in finding["detail"]


# --- backbones --------------------------------------------------------------------------------------------------------------


def test_all_variants_of_all_families_are_listed(capfd: pytest.CaptureFixture[str]) -> None:
    families: dict[str, str] = {}
    for path in (ROOT / "tlexport/backbones").glob("[!_]*.py"):
        families |= dict.fromkeys(runpy.run_path(str(path))["VARIANTS"], path.stem)
    listed = answer(capfd, "backbones")
    assert {entry["name"]: entry["family"] for entry in listed} == families
    assert len(listed) == len(families)
    assert set(families) >= PROMISED
    assert set(families) <= {*models.list_models(module=models), *timm.list_models()}
    weights = {path.stem for path in (ROOT / "tlexport/embedded").glob("*.safetensors")}
    assert {entry["name"] for entry in listed if entry["embedded"]} == weights
    text = here(capfd, "backbones")
    assert [line.split()[:2] for line in text.out.splitlines()[1:]] == [[entry["name"], entry["family"]] for entry in listed]


@pytest.mark.parametrize("name", DESCRIBED)
def test_a_backbone_is_as_torchvision_publishes_it(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    published = models.get_model_weights(name).DEFAULT
    detail = answer(capfd, "backbones", name)
    assert detail["name"] == name
    assert detail["parameters"] == published.meta["num_params"]
    assert detail["imagenet"] == str(published)
    assert detail["imagenet_top1"] == published.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    assert detail["image_size"] == published.transforms().crop_size[0]
    stages = detail["stages"]
    assert (stages[0]["name"], stages[-1]["name"], stages[-1]["output"]) == ("stem", "head", "1000")
    assert sum(stage["parameters"] for stage in stages) == detail["parameters"]
    text = here(capfd, "backbones", name)
    numbered = [line.split()[:3] for line in text.out.splitlines()[2 : 2 + len(stages)]]
    assert numbered == [[str(number), stage["name"], f"{stage['parameters']:,}"] for number, stage in enumerate(stages)]
    assert f"{published.meta['num_params']:,} parameters with 1000 classes" in text.out
    assert f"top-1 {published.meta['_metrics']['ImageNet-1K']['acc@1']:.2f} %" in text.out


def test_the_stages_of_a_resnet_are_those_of_the_paper(capfd: pytest.CaptureFixture[str]) -> None:
    """He et al. 2015, table 1, 18 layers; the stem ends with the first max-pooling, the last stage with the average pooling."""
    outputs = {stage["name"]: stage["output"] for stage in answer(capfd, "backbones", "resnet18")["stages"]}
    paper = {"stem": "64x56x56", "stage1": "64x56x56", "stage2": "128x28x28", "stage3": "256x14x14", "stage4": "512", "head": "1000"}
    assert outputs == paper

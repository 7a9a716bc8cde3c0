"""The runner refuses a manifest with an unusable value, and names the value."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from bundles import read, rewrite, tiny_bundle

from tlexport.bundle.manifest import MANIFEST
from tlexport.device.cli import main
from tlexport.device.errors import InvalidFile
from tlexport.device.manifest import Bundle

DEEP: Any = []
for _ in range(70):
    DEEP = [DEEP]
HUGE = 10**9
# key path -> values that are refused
BAD: dict[str, list[Any]] = {
    "format": [True, None, 3, "2", [2]],
    "name": [None, 3],
    "target": [None, []],
    "profile.device": [3, [], {}],
    "profile.runtime": [None],
    "classes": [[], [1, 2, 3], ["red", None, "blue"], ["red", "red", "blue"], {}],
    "preprocess.size": [0, -8, 9, HUGE, 8.0, True, None],
    "preprocess.resize": [0, 7, HUGE],
    "preprocess.interpolation": ["x", "", None],
    "preprocess.background": [[], [1, 2], [1, 2, None], [1, 2, 256], [1, 2, -1], [1, 2, True], [1, 2, 0.5], [1, 2, "3"]],
    "models": [[], [None], {}],
    "models.0.file": ["none.onnx", "../model.fp32.onnx", 3],
    "models.0.chosen": [False, 1],
    "models.1.chosen": [True],
    "models.0.tolerance": [-1, "1", True],
    "models.0.golden_outputs": ["golden/none.npy", "/etc/passwd"],
    "models.0.artifact.sha256": ["../../../../tmp/x", "0" * 64, ""],
    "models.0.artifact.size_bytes": [0, -1, 1.5],
    "models.0.artifact.opset": [0, "17"],
    "models.0.artifact.precision": ["fp16", None],
    "models.0.artifact.inputs": [[], [None], [{}], {}],
    "models.0.artifact.inputs.0.dtype": ["O", "int64", "float999", 3],
    "models.0.artifact.inputs.0.shape": [[], ["batch", 9, 9, 3], [None, 8, 8, 3], ["batch", 8, 8, True], [0, 8, 8, 3], 3],
    "models.0.artifact.outputs.0.dtype": ["uint8"],
    "models.0.artifact.outputs.0.shape": [["batch", 2], ["batch", 3, 1], [["batch"], 3]],
    "models.0.engine": [3, [], {"input": "image"}],
    "golden.images": [[], [None], ["golden/none.png"], [["golden/00.png"]], "golden/00.png"],
    "golden.inputs": ["../inputs.npy", None],
    "golden.decoded": [3, "x", [3], ["/dev/zero"]],
    "golden.resized": [3, "/dev/zero", []],
    "files": [[], {}],
    "files.labels.txt": [3, None, "0", "0" * 63, "G" * 64, [DEEP]],
}
ENGINE = {"input": "image", "shape": [1, 8, 8, 3], "workspace_mb": 512, "precision": "fp32", "opset": 17}
BAD_ENGINE: dict[str, list[Any]] = {
    "input": [3, None],
    "shape": [[], [1, 8, 8], [1, 8, 8, "3"], [0, 8, 8, 3], [1, 8, 8, HUGE * HUGE], 3],
    "workspace_mb": [0, -1, "512", 10**19],
    "precision": ["bf16", []],
    "opset": [0, None, 1.5],
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("tiny") / "colours")


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "bundle"))


def changed(data: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of plain data with another value in one place."""
    data = json.loads(json.dumps(data))
    *parents, last = ["files", path[6:]] if path.startswith("files.") else path.split(".")
    holder: Any = data
    for key in parents:
        holder = holder[int(key) if isinstance(holder, list) else key]
    holder[last] = value
    return data


@pytest.mark.parametrize("key", BAD)
def test_a_value_that_the_runner_cannot_use_is_named(copy: Path, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = read(copy)
    for value in BAD[key]:
        rewrite(copy, changed(manifest, key, value))
        with pytest.raises(InvalidFile, match=r"manifest\.json") as caught:
            Bundle(copy)
        assert len(caught.value.message) < 600, value
        for command in (["info"], ["verify"], ["predict", str(copy / "golden/00.png")]):
            assert main([*command, "--bundle", str(copy)]) == 2
        assert key.split(".")[0] in capsys.readouterr().err or "JSON" in caught.value.message


@pytest.mark.parametrize("key", BAD_ENGINE)
def test_a_recipe_that_the_builder_cannot_use_is_named(copy: Path, key: str) -> None:
    manifest = changed(read(copy), "models.0.engine", ENGINE)
    rewrite(copy, manifest)
    assert Bundle(copy).models[0]["engine"] == ENGINE
    for value in BAD_ENGINE[key]:
        rewrite(copy, changed(manifest, f"models.0.engine.{key}", value))
        with pytest.raises(InvalidFile, match=rf"models\.0\.engine\.{key} is "):
            Bundle(copy)


@pytest.mark.parametrize("key", ["name", "profile", "classes", "preprocess", "models", "golden", "files", "format"])
def test_a_key_that_is_missing_is_named(copy: Path, key: str) -> None:
    manifest = read(copy)
    del manifest[key]
    rewrite(copy, manifest)
    with pytest.raises(InvalidFile, match=f"{key}.* is missing|of format None"):
        Bundle(copy)


@pytest.mark.parametrize(
    "old, new, said",
    [
        ('"format": 2', '"format": ' + "9" * 5000, "5000 digits"),
        ('"format": 2', '"format": 2, "format": 2', "'format' occurs twice"),
        ('"tolerance": 0.001', '"tolerance": NaN', "NaN"),
        ('"tolerance": 0.001', '"tolerance": 1e999', "1e999"),
        ('"training": null', '"training": ' + "[" * 70 + "]" * 70, "nested"),
        ('"training": null', '"training": ' + "[" * 10**5 + "]" * 10**5, "nested too deeply"),
        ('"format": 2', '"format": 2,', "JSON"),
    ],
    ids=["digits", "twice", "nan", "infinite", "deep", "deeper", "broken"],
)
def test_json_beyond_what_a_manifest_needs_is_refused(copy: Path, old: str, new: str, said: str) -> None:
    text = json.dumps(read(copy))
    assert old in text
    (copy / MANIFEST).write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(InvalidFile, match=rf"cannot be read as JSON: .*{said}" if said != "JSON" else "JSON"):
        Bundle(copy)


def test_what_older_and_newer_bundles_hold_is_read(copy: Path) -> None:
    manifest = read(copy)
    for key in ("decoded", "resized"):
        del manifest["golden"][key]
    rewrite(copy, manifest | {"format": 1, "news": [{"a": None}]})
    assert Bundle(copy).classes == ["red", "green", "blue"]

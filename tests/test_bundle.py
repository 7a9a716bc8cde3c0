"""A bundle's manifest: required and forbidden contents."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tlexport.bundle.manifest import LABELS, MANIFEST, Manifest, read_manifest
from tlexport.errors import InvalidFile


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    """A bundle that may be changed."""
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def read(bundle: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
    return data


def write(bundle: Path, data: dict[str, Any]) -> None:
    (bundle / MANIFEST).write_text(json.dumps(data), encoding="utf-8")


def rejected(bundle: Path, **changes: Any) -> str:
    write(bundle, read(bundle) | changes)
    with pytest.raises(InvalidFile) as error:
        read_manifest(bundle)
    assert str(bundle / MANIFEST) in error.value.message
    return error.value.message


def test_reads_what_was_written(bundle: Path, tmp_path: Path) -> None:
    manifest = read_manifest(bundle)
    manifest.write(tmp_path / MANIFEST)
    assert read_manifest(tmp_path) == manifest


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="not a bundle") as error:
        read_manifest(tmp_path)
    assert "tlx export" in error.value.hint


@pytest.mark.parametrize(
    "path",
    ["../model.fp32.onnx", "/etc/passwd", "golden/../../x", "a\\b", "C:x", "", ".", "./x", "a//b", "a/", "//server/share", "~/x/../.."],
)
def test_paths_that_leave_the_bundle_are_rejected(copy: Path, path: str) -> None:
    data = read(copy)
    files = data["files"] | {path: "0" * 64}
    assert "relative path" in rejected(copy, files=files)
    write(copy, data)
    data["models"][0]["file"] = path
    assert "models.0.file" in rejected(copy, models=data["models"])
    assert "golden.inputs" in rejected(copy, models=read_models(copy), golden=data["golden"] | {"inputs": path})


def read_models(bundle: Path) -> list[dict[str, Any]]:
    """The models, whole again."""
    models: list[dict[str, Any]] = read(bundle)["models"]
    models[0]["file"] = "model.fp32.onnx"
    return models


@pytest.mark.parametrize("name", ["model.int8.onnx", "golden/outputs.fp16.npy", "golden/inputs.npy", "golden/05.png"])
def test_a_file_without_a_hash_is_rejected(copy: Path, name: str) -> None:
    files = read(copy)["files"]
    del files[name]
    assert f"{name} has no hash" in rejected(copy, files=files)


@pytest.mark.parametrize("digest", ["", "0" * 63, "A" * 64, "g" * 64])
def test_what_is_no_hash_is_rejected(copy: Path, digest: str) -> None:
    assert LABELS in rejected(copy, files=read(copy)["files"] | {LABELS: digest})


def test_two_hashes_of_one_model_are_rejected(copy: Path) -> None:
    models = read(copy)["models"]
    models[0]["artifact"]["sha256"] = "0" * 64
    assert models[0]["file"] in rejected(copy, models=models)


@pytest.mark.parametrize("count", [0, 2, 3])
def test_exactly_one_model_is_chosen(copy: Path, count: int) -> None:
    models = [model | {"chosen": index < count} for index, model in enumerate(read(copy)["models"])]
    assert "exactly one" in rejected(copy, models=models)


def test_two_models_of_one_precision_are_rejected(copy: Path) -> None:
    models = read(copy)["models"]
    assert "the same precision" in rejected(copy, models=[*models, models[-1] | {"chosen": False}])


def test_no_models_are_rejected(copy: Path) -> None:
    assert "models" in rejected(copy, models=[])


def test_unknown_keys_are_rejected_with_the_nearest(copy: Path) -> None:
    assert "did you mean 'classes'" in rejected(copy, clases=["a"])
    data = read(copy)
    del data["clases"]
    data["models"][1]["tolerence"] = 1.0
    write(copy, data)
    assert "models.1.tolerence: unknown key; did you mean 'tolerance'" in rejected(copy)


@pytest.mark.parametrize(
    ("key", "value"), [("format", 3), ("classes", "0123"), ("checkpoint_top1", "0.9"), ("profile", None), ("files", [])]
)
def test_other_types_are_rejected_with_their_key(copy: Path, key: str, value: Any) -> None:
    assert f"  {key}" in rejected(copy, **{key: value})


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_manifest_that_is_no_json_object_is_rejected(copy: Path, content: bytes) -> None:
    (copy / MANIFEST).write_bytes(content)
    with pytest.raises(InvalidFile):
        read_manifest(copy)


def test_models_are_found_by_precision(bundle: Path) -> None:
    manifest: Manifest = read_manifest(bundle)
    assert manifest.model().chosen
    assert manifest.model("int8").artifact.precision == "int8"
    only = manifest.model_copy(update={"models": manifest.models[:1]})
    with pytest.raises(InvalidFile, match="int8") as error:
        only.model("int8")
    assert "fp32" in error.value.hint


# --- engines ----------------------------------------------------------------------------------------------------------

RECIPE = {"input": "image", "shape": [1, 64, 64, 3], "workspace_mb": 1024, "precision": "int8", "opset": 20}


def test_bundles_of_the_first_format_with_a_command_line_are_read(copy: Path) -> None:
    data = read(copy)
    for model in data["models"]:
        del model["engine"]
        model["build"] = ["trtexec", f"--onnx={model['file']}"]
    write(copy, data)
    manifest = read_manifest(copy)
    assert [model.engine for model in manifest.models] == [None] * len(data["models"])
    manifest.write(copy / MANIFEST)
    assert not any("build" in model for model in read(copy)["models"])


def test_an_engine_s_recipe_is_kept(copy: Path) -> None:
    data = read(copy)
    data["models"][0]["engine"] = RECIPE
    write(copy, data)
    recipe = read_manifest(copy).models[0].engine
    assert recipe is not None
    assert recipe.model_dump(mode="json") == RECIPE


@pytest.mark.parametrize(
    "change", [{"shape": [1, 64, 64]}, {"shape": [0, 64, 64, 3]}, {"workspace_mb": 0}, {"precision": "fp8"}, {"input": ""}, {"opset": "20"}]
)
def test_an_engine_s_recipe_that_is_odd_is_rejected(copy: Path, change: dict[str, Any]) -> None:
    models = read(copy)["models"]
    models[0]["engine"] = RECIPE | change
    assert f"models.0.engine.{next(iter(change))}" in rejected(copy, models=models)

"""WHAT of a command: recognised kinds, the runtime for each, and the message for anything else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exports import exported

from tlexport import plugins
from tlexport.bundle.manifest import read_manifest
from tlexport.checkpoint import read_checkpoint
from tlexport.errors import InvalidFile, TlxError, Unsupported, UsageError, VerificationFailed
from tlexport.loading.model import LATEST, device_for, latest_checkpoint, load
from tlexport.storage.files import sha256_of


def refused(kind: type[TlxError], what: Path, *arguments: Any) -> TlxError:
    with pytest.raises(kind) as error:
        load(what).runnable(*arguments)
    assert str(what) in error.value.message
    assert error.value.hint
    return error.value


# --- what is recognised -----------------------------------------------------------------------------------------------


def test_a_checkpoint(checkpoint: Path) -> None:
    runnable, record = load(checkpoint).runnable(), read_checkpoint(checkpoint)
    assert (runnable.path, runnable.runtime, runnable.precision) == (checkpoint, "torch", "fp32")
    assert (runnable.classes, runnable.preprocess, runnable.sha256) == (record.classes, record.preprocess, record.weights_sha256)
    assert runnable.size_bytes == (checkpoint / "model.safetensors").stat().st_size
    assert load(checkpoint).runnable("torch", "fp32") == runnable


def test_a_bundle_stands_for_its_chosen_model(bundle: Path) -> None:
    chosen = read_manifest(bundle).model()
    runnable = load(bundle).runnable()
    assert (runnable.path, runnable.runtime, runnable.precision) == (bundle / chosen.file, "onnxruntime", chosen.artifact.precision)
    assert (runnable.sha256, runnable.size_bytes) == (sha256_of(runnable.path), runnable.path.stat().st_size)
    assert (runnable.classes, runnable.preprocess) == (chosen.artifact.classes, chosen.artifact.preprocess)


def test_a_bundle_s_models_by_precision_and_by_file(bundle: Path) -> None:
    for model in read_manifest(bundle).models:
        by_precision = load(bundle).runnable("auto", model.artifact.precision)
        assert by_precision.precision == model.artifact.precision
        assert load(bundle / model.file).runnable() == by_precision
        assert not by_precision.simulate_quantization


def test_only_tensorrt_s_int8_graph_is_computed_as_written(checkpoint: Path) -> None:
    made = exported(checkpoint, "jetson-orin-nano")
    found = {
        m.artifact.precision: load(made.path).runnable("auto", m.artifact.precision).simulate_quantization for m in made.manifest.models
    }
    assert found == {"fp32": False, "fp16": False, "int8": True}


@pytest.mark.parametrize("kind", ["checkpoint", "bundle"])
def test_what_is_recognised_opens_and_runs(kind: str, request: pytest.FixtureRequest) -> None:
    runnable = load(request.getfixturevalue(kind)).runnable()
    size = runnable.preprocess.size
    with runnable.open("auto", 1) as runner:
        [spec], [output] = runner.inputs, runner.outputs
        answer = runner.run({spec.name: np.zeros((2, size, size, 3), spec.dtype)})[output.name]
    assert answer.shape == (2, len(runnable.classes))


def test_latest_is_the_checkpoint_that_it_points_to(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=str(LATEST)) as error:
        latest_checkpoint()
    assert "tlx finetune" in error.value.hint
    LATEST.parent.mkdir()
    LATEST.symlink_to(checkpoint)
    assert latest_checkpoint() == checkpoint.resolve()


@pytest.mark.parametrize("name", plugins.names("runtimes"))
def test_auto_is_a_device_and_a_named_one_stays(name: str) -> None:
    assert device_for(name, "auto") in ("cpu", "cuda:0")
    assert device_for(name, "cuda:7") == "cuda:7"


# --- and what is not --------------------------------------------------------------------------------------------------


def test_a_near_name_is_proposed(bundle: Path) -> None:
    error = refused(InvalidFile, bundle.with_name(bundle.name + "s"))
    assert f"did you mean {bundle}?" in error.message


def test_no_name_is_near(tmp_path: Path) -> None:
    assert "did you mean" not in refused(InvalidFile, tmp_path / "nothing" / "of this").message


def test_a_folder_or_file_of_another_kind(digits: Path, tmp_path: Path) -> None:
    assert "tlx finetune" in refused(InvalidFile, digits).hint
    file = tmp_path / "notes.txt"
    file.write_text("notes", encoding="utf-8")
    refused(InvalidFile, file)


def test_a_model_without_its_bundle(bundle: Path, tmp_path: Path) -> None:
    shutil.copy(bundle / "model.fp32.onnx", tmp_path)
    assert "manifest.json" in refused(InvalidFile, tmp_path / "model.fp32.onnx").message


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def test_a_model_that_the_manifest_does_not_know(copy: Path) -> None:
    shutil.copy(copy / "model.fp32.onnx", copy / "better.onnx")
    assert "model.fp16.onnx" in refused(InvalidFile, copy / "better.onnx").hint


def test_a_model_that_is_gone(copy: Path) -> None:
    (copy / "model.fp16.onnx").unlink()
    with pytest.raises(InvalidFile, match=r"model\.fp16\.onnx"):
        load(copy).runnable("auto", "fp16")


def test_a_model_that_was_changed(copy: Path) -> None:
    with (copy / "model.fp16.onnx").open("ab") as stream:
        stream.write(b"\0")
    assert "tlx verify" in refused(VerificationFailed, copy / "model.fp16.onnx").hint
    assert load(copy).runnable("auto", "fp32").precision == "fp32"  # the others are as good as before


def test_a_precision_that_the_bundle_lacks(checkpoint: Path) -> None:
    made = exported(checkpoint, "jetson-nano")
    with pytest.raises(InvalidFile, match="int8") as error:
        load(made.path).runnable("auto", "int8")
    assert "fp16" in error.value.hint


def test_a_precision_of_what_has_only_one(checkpoint: Path, bundle: Path) -> None:
    assert "tlx export" in refused(UsageError, checkpoint, "auto", "int8").hint
    assert str(bundle) in refused(UsageError, bundle / "model.fp32.onnx", "auto", "int8").hint
    assert load(bundle / "model.int8.onnx").runnable("auto", "int8").precision == "int8"


def test_a_runtime_that_does_not_open_it(checkpoint: Path, bundle: Path) -> None:
    assert "--runtime torch" in refused(Unsupported, checkpoint, "onnxruntime").hint
    with pytest.raises(Unsupported, match="torch") as error:
        load(bundle).runnable("torch")
    assert "--runtime onnxruntime" in error.value.hint


def test_a_runtime_that_does_not_exist(bundle: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'onnxruntime'"):
        load(bundle).runnable("onnxruntim")


def test_a_checkpoint_without_its_weights(checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))
    (folder / "model.safetensors").unlink()
    refused(InvalidFile, folder)


def test_a_checkpoint_whose_weights_were_changed(checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))
    with (folder / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x55")
    refused(VerificationFailed, folder)


def test_a_file_is_hashed_once_however_often_it_is_asked_for(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []

    def counted(path: Path) -> str:
        hashed.append(path)
        return sha256_of(path)

    monkeypatch.setattr("tlexport.loading.model.sha256_of", counted)
    loaded = load(bundle)
    for _ in range(3):
        assert {load(loaded).runnable(precision=precision).precision for precision in loaded.precisions} == set(loaded.precisions)
    assert sorted(hashed) == sorted(bundle / model.file for model in read_manifest(bundle).models)

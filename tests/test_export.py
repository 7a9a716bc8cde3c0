"""The verb ``export`` for every profile: contents of the bundle, their correctness, and refusals."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conversions import conversions_by
from exports import PROFILES, Made, Notes, exported, images, run, tree
from onnx import TensorProto, helper
from safetensors.torch import load_file
from torchvision import models
from torchvision.transforms.v2 import functional as F

from tlexport.api.export import Exported, ExportSettings, export
from tlexport.artifact import PRECISIONS
from tlexport.bundle.manifest import MANIFEST, Model, read_manifest
from tlexport.checkpoint import DATASET, read_checkpoint, read_dataset
from tlexport.contract import Preprocess
from tlexport.device.inputs.image import prepare
from tlexport.export.engine import engine_recipe
from tlexport.export.to_onnx import to_onnx
from tlexport.hardware.target import resolve
from tlexport.plan import MAX_DROP_POINTS, Constraints
from tlexport.storage.files import sha256_of

ROOT = Path(__file__).parent.parent


@pytest.fixture(params=PROFILES)
def made(request: pytest.FixtureRequest, checkpoint: Path, bundle: Path) -> Made:
    """The bundle for each profile."""
    manifest = read_manifest(bundle)
    return Made(bundle, manifest, ()) if manifest.target == request.param else exported(checkpoint, request.param)


@pytest.fixture(scope="module")
def val(checkpoint: Path) -> tuple[Any, list[int]]:
    return images(checkpoint, "val")


@pytest.fixture(scope="module")
def reference(checkpoint: Path, val: tuple[Any, list[int]]) -> Any:
    """Probabilities (image, class) from torchvision's network and normalisation, with the checkpoint's weights."""
    record = read_checkpoint(checkpoint)
    net = models.get_model(record.recipe.backbone, weights=None, num_classes=len(record.classes))
    net.load_state_dict(load_file(checkpoint / "model.safetensors"))
    planes = torch.from_numpy(val[0]).permute(0, 3, 1, 2).to(torch.float32) / 255
    with torch.inference_mode():
        logits = net.eval()(F.normalize(planes, list(record.preprocess.mean), list(record.preprocess.std)))
    return torch.softmax(logits, dim=1).numpy()


def outputs(made: Made, model: Model, pixels: Any) -> Any:
    """Probabilities of a model, without tlexport's runner. Q/DQ pairs of a TensorRT INT8 graph are computed as written."""
    as_written = made.manifest.profile.runtime == "tensorrt" and model.artifact.precision == "int8"
    return run(made.graph(model.artifact.precision), pixels, as_written=as_written)


# --- what a bundle holds ----------------------------------------------------------------------------------------------


def test_holds_the_precisions_of_the_profile(made: Made) -> None:
    profile = made.manifest.profile
    assert [m.artifact.precision for m in made.manifest.models] == [p for p in PRECISIONS if p in profile.precisions.value]
    assert {path.name for path in made.path.glob("*.onnx")} == {m.file for m in made.manifest.models}
    assert not list(made.path.rglob("*.engine"))  # nothing pretends to be what only the device can make
    assert profile == resolve(made.manifest.target).profile


def test_graphs_are_valid_at_the_profile_s_opset(made: Made) -> None:
    opset = made.manifest.profile.opset.value
    for model in made.manifest.models:
        graph = made.graph(model.artifact.precision)
        onnx.checker.check_model(graph, full_check=True)
        assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", opset)]
        assert graph.ir_version == helper.find_min_ir_version_for([helper.make_opsetid("", opset)])
        assert model.artifact.opset == opset


def test_tensors_are_as_declared_and_the_batch_is_free(made: Made, checkpoint: Path) -> None:
    size, classes = read_checkpoint(checkpoint).preprocess.size, len(read_checkpoint(checkpoint).classes)
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(made.manifest.profile.input_dtype.value))
    for model in made.manifest.models:
        graph = made.graph(model.artifact.precision).graph
        found = [
            (v.name, v.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]) for v in graph.input
        ]
        assert found == [("image", dtype, ["batch", size, size, 3])]
        [output] = graph.output
        assert (output.name, output.type.tensor_type.elem_type) == ("probabilities", TensorProto.FLOAT)
        assert [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim] == ["batch", classes]
        assert [spec.model_dump() for spec in model.artifact.inputs] == [
            {"name": "image", "dtype": made.manifest.profile.input_dtype.value, "shape": ("batch", size, size, 3)}
        ]


def test_any_batch_gives_the_same_answers(made: Made, val: tuple[Any, list[int]]) -> None:
    pixels = val[0][:7]
    for model in made.manifest.models:
        parts = [outputs(made, model, part) for part in np.split(pixels, [1, 3])]  # batches of 1, 2 and 4
        # an INT8 kernel may round a tie another way when it sums in another order: one step of its scale
        atol = 0.02 if model.artifact.precision == "int8" else 1e-3
        np.testing.assert_allclose(np.concatenate(parts), outputs(made, model, pixels), atol=atol)


def test_one_file_holds_everything(made: Made) -> None:
    for model in made.manifest.models:
        path = made.path / model.file
        loaded = onnx.load(path, load_external_data=False)
        assert not [
            tensor.name for tensor in loaded.graph.initializer if tensor.external_data or tensor.data_location == TensorProto.EXTERNAL
        ]
        assert (model.artifact.sha256, model.artifact.size_bytes) == (sha256_of(path), path.stat().st_size)
        assert not loaded.metadata_props
        assert not [node.name for node in loaded.graph.node if node.metadata_props or node.doc_string]


def test_no_path_of_this_machine_is_in_a_bundle(made: Made, checkpoint: Path, digits: Path) -> None:
    for name, data in tree(made.path).items():
        for folder in (str(ROOT), str(checkpoint), str(digits), "site-packages"):
            assert folder.encode() not in data, name


# --- and that it is true ----------------------------------------------------------------------------------------------


def test_fp32_is_the_checkpoint_on_every_validation_image(made: Made, val: tuple[Any, list[int]], reference: Any) -> None:
    found = outputs(made, made.manifest.model("fp32"), val[0])
    assert np.abs(found - reference).max() <= 1e-4
    np.testing.assert_array_equal(found.argmax(axis=1), reference.argmax(axis=1))


def test_the_record_says_what_the_models_do(made: Made, val: tuple[Any, list[int]], reference: Any) -> None:
    pixels, labels = val
    top1 = float((reference.argmax(axis=1) == labels).mean())
    assert made.manifest.checkpoint_top1 == pytest.approx(top1)
    for model in made.manifest.models:
        found = outputs(made, model, pixels)
        assert model.n == len(labels)
        assert model.top1 == pytest.approx((found.argmax(axis=1) == labels).mean(), abs=1e-9)
        assert model.drop_points == pytest.approx(100 * (top1 - model.top1), abs=1e-3)
        assert model.parity == pytest.approx(np.abs(found - reference).max(), abs=1e-4)


def test_golden_vectors_are_validation_images_and_what_the_models_make_of_them(made: Made, checkpoint: Path) -> None:
    manifest = made.manifest
    kept = {sample.sha256: sample.label for sample in read_dataset(checkpoint).part("val")}
    inputs = np.load(made.path / manifest.golden.inputs)
    assert inputs.dtype == np.uint8
    assert len(manifest.golden.images) == len(inputs) == 8
    assert len({kept[sha256_of(made.path / name)] for name in manifest.golden.images}) == 8  # as many classes as there are images
    for name, tensor in zip(manifest.golden.images, inputs, strict=True):
        np.testing.assert_array_equal(prepare(made.path / name, manifest.preprocess.model_dump()), tensor)
    for model in manifest.models:
        expected = np.load(made.path / model.golden_outputs)
        np.testing.assert_allclose(outputs(made, model, inputs), expected, atol=1e-3 if model.artifact.precision != "int8" else 0.02)
        assert model.tolerance > 0


def test_lower_precision_was_calibrated_on_training_images_alone(made: Made, checkpoint: Path) -> None:
    train = read_dataset(checkpoint).part("train")
    assert len(train) < 200  # too few to be divided: so all of them set ranges, and their hashes are known
    digest = hashlib.sha256("\n".join(sorted(sample.sha256 for sample in train)).encode()).hexdigest()
    for model in made.manifest.models:
        calibration = model.artifact.calibration
        assert (calibration is not None) == (model.artifact.precision != "fp32")
        if calibration is not None:
            assert (calibration.part, calibration.images, calibration.sha256) == ("train", len(train), digest)
            assert (calibration.method, calibration.tried) == ("minmax", ())  # too few images to keep some for a choice


def test_few_calibration_images_are_told(checkpoint: Path) -> None:
    profile = next(name for name in PROFILES if not resolve(name).here and "int8" in resolve(name).profile.precisions.value)
    count = len(read_dataset(checkpoint).part("train"))
    assert any(str(count) in note and "calibrate" in note for note in exported(checkpoint, profile).notes)


def test_one_model_is_chosen_and_it_is_within_the_budget(made: Made) -> None:
    budget = made.manifest.profile.budget
    [chosen] = [model for model in made.manifest.models if model.chosen]
    assert chosen.drop_points <= MAX_DROP_POINTS
    assert budget.size_bytes is None or chosen.artifact.size_bytes <= budget.size_bytes
    assert all(model.reason for model in made.manifest.models)


def test_latency_is_measured_on_the_target_and_elsewhere_estimated_where_it_can_be(made: Made) -> None:
    target = resolve(made.manifest.target)
    measurable = target.here and target.profile.runtime == "onnxruntime"
    on_gpu = target.profile.runtime == "tensorrt" or target.profile.device is not None
    figures = [figures for figures in target.profile.latency if (figures.threads is None) == on_gpu]
    for model in made.manifest.models:
        assert (model.latency is not None) == (model.peak_memory_bytes is not None) == measurable
        assert (model.estimate is not None) == (bool(figures) and not measurable)
        if model.latency is not None:
            assert 0 < model.latency.p50 <= model.latency.p95
            assert (model.latency.provider, model.latency.threads) == ("CPUExecutionProvider", 1)
        if model.estimate is not None:
            told = model.latency_json()
            assert told is not None
            assert (told["kind"], told["p95"], model.estimate.target) == ("estimated", None, made.manifest.target)
            assert model.estimate.size_bytes == model.artifact.size_bytes
            # weights are almost the whole file; if INT8 weights are stored as floats, the engine's are a quarter of it
            share = 0.2 if model.artifact.precision == "int8" and target.profile.float_weights else 0.8
            assert model.estimate.memory_bytes > share * model.artifact.size_bytes


def test_the_engine_s_recipe_is_there_where_one_is_needed(made: Made) -> None:
    """One image of the tensor that the file really has, and the opset that it really has: the device goes by both."""
    profile = made.manifest.profile
    for model in made.manifest.models:
        if profile.runtime != "tensorrt":
            assert model.engine is None
            continue
        assert model.engine == engine_recipe(profile, model.artifact.precision, model.artifact.inputs[0])
        graph = onnx.load(made.path / model.file)
        axes = [axis.dim_value or 1 for axis in graph.graph.input[0].type.tensor_type.shape.dim]
        assert (model.engine.input, list(model.engine.shape)) == (graph.graph.input[0].name, axes)
        assert {entry.version for entry in graph.opset_import if not entry.domain} == {model.engine.opset}


def test_every_file_is_in_the_manifest(made: Made) -> None:
    files = {name: hashlib.sha256(data).hexdigest() for name, data in tree(made.path).items()}
    del files[MANIFEST]
    assert made.manifest.files == files
    assert (made.path / "labels.txt").read_text(encoding="utf-8").splitlines() == list(made.manifest.classes)


# --- a second time, elsewhere, over something -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def again(checkpoint: Path, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, Made, Path]:
    """A first export; then a second one, over an older bundle, of a copy of the checkpoint whose images were moved; and the copy."""
    profile = next(
        name for name in PROFILES if resolve(name).profile.runtime == "tensorrt" and "int8" in resolve(name).profile.precisions.value
    )
    first, base = exported(checkpoint, profile), tmp_path_factory.mktemp("again")
    copy = base / checkpoint.name
    shutil.copytree(checkpoint, copy)
    data = json.loads((copy / DATASET).read_text(encoding="utf-8"))
    (copy / DATASET).write_text(json.dumps(data | {"root": str(base / "gone")}), encoding="utf-8")
    shutil.copytree(digits, base / "moved")
    out = base / "bundle"
    shutil.copytree(first.path, out)
    (out / "model.fp32.engine").write_bytes(b"built by an older export")
    with conversions_by(to_onnx):  # not the conversion of the first export
        result = export(copy, resolve(profile), Constraints(), out, settings=ExportSettings(data_root=base / "moved"), progress=Notes())
    assert result.path == out
    return first, Made(out, result.manifest, ()), copy


def test_one_checkpoint_gives_the_same_bytes(again: tuple[Made, Made, Path]) -> None:
    first, second, _ = again
    files = tree(first.path)
    assert tree(second.path) == files  # models, golden tensors and outputs, labels, script: all of it
    assert any(name.endswith(".int8.onnx") for name in files)


def test_an_older_bundle_is_replaced_whole(again: tuple[Made, Made, Path]) -> None:
    _, second, copy = again
    assert not list(second.path.rglob("*.engine"))
    assert {path.name for path in second.path.parent.iterdir()} == {copy.name, "moved", "bundle"}  # and no files beside it


def test_the_checkpoint_is_left_alone(again: tuple[Made, Made, Path], checkpoint: Path) -> None:
    before, after = tree(checkpoint), tree(again[2])
    before.pop(DATASET), after.pop(DATASET)  # which was changed above
    assert after == before


def test_json_holds_what_the_command_line_promises(again: tuple[Made, Made, Path]) -> None:
    made = again[1]
    data = json.loads(json.dumps(Exported(made.path, made.manifest, (None,) * len(made.manifest.models)).to_json()))
    assert (data["bundle"], data["target"]) == (str(made.path), made.manifest.target)
    assert data["chosen"] == made.manifest.model().artifact.precision
    for model in data["models"]:
        assert {"precision", "path", "size_bytes", "top1", "drop_points", "latency_ms", "chosen", "reason"} <= set(model)
        assert Path(model["path"]).is_file()


def test_preprocess_of_the_bundle_is_the_checkpoint_s(made: Made, checkpoint: Path) -> None:
    record = read_checkpoint(checkpoint)
    assert made.manifest.preprocess == record.preprocess
    assert isinstance(made.manifest.preprocess, Preprocess)
    assert made.manifest.classes == record.classes
    assert made.manifest.checkpoint_sha256 == record.weights_sha256
    parents = [model.artifact.parent_sha256 for model in made.manifest.models]
    assert parents == [record.weights_sha256] + [made.manifest.model("fp32").artifact.sha256] * (len(parents) - 1)

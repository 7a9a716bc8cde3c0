"""The verb ``predict``: correct classes with every kind of model, and every unreadable image named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from exports import exported

from tlexport.api.predict import Prediction, predict
from tlexport.bundle.manifest import read_manifest
from tlexport.checkpoint import read_dataset
from tlexport.errors import InvalidFile
from tlexport.loading.model import Execution


@pytest.fixture(scope="module")
def files(checkpoint: Path) -> list[Path]:
    """The validation images."""
    dataset = read_dataset(checkpoint)
    return [dataset.file(sample) for sample in dataset.part("val")]


def accuracy(predictions: list[Prediction]) -> float:
    """Share of images whose class is the name of their folder."""
    return sum(p.name == p.path.parent.name for p in predictions) / len(predictions)


def test_the_classes_are_right_as_often_as_the_record_says(bundle: Path, files: list[Path]) -> None:
    manifest = read_manifest(bundle)
    assert manifest.checkpoint_top1 > 0.6  # ten classes: chance is 0.1
    for model in manifest.models:
        predictions = predict(bundle, files, run=Execution(precision=model.artifact.precision))
        assert accuracy(predictions) == pytest.approx(model.top1)


def test_the_chosen_model_answers_unless_another_is_named(bundle: Path, files: list[Path]) -> None:
    chosen = read_manifest(bundle).model().artifact.precision
    assert predict(bundle, files[:5]) == predict(bundle, files[:5], run=Execution(precision=chosen))


def test_bundle_and_checkpoint_agree(bundle: Path, checkpoint: Path, files: list[Path]) -> None:
    exported_, trained = predict(bundle, files, run=Execution(precision="fp32")), predict(checkpoint, files, run=Execution(device="cpu"))
    assert [p.name for p in exported_] == [p.name for p in trained]
    for left, right in zip(exported_, trained, strict=True):
        assert left.probabilities == pytest.approx(right.probabilities, abs=1e-4)


def test_a_graph_for_tensorrt_answers_here_as_its_record_says(checkpoint: Path, files: list[Path]) -> None:
    made = exported(checkpoint, "jetson-orin-nano")
    assert accuracy(predict(made.path, files, run=Execution(precision="int8"))) == pytest.approx(made.manifest.model("int8").top1)


def test_probabilities_are_of_every_class(bundle: Path, files: list[Path]) -> None:
    for prediction in predict(bundle, files[:6]):
        assert tuple(prediction.probabilities) == read_manifest(bundle).classes
        assert sum(prediction.probabilities.values()) == pytest.approx(1, abs=1e-4)
        assert prediction.probability == max(prediction.probabilities.values()) == prediction.probabilities[prediction.name]


def test_order_and_repetition_are_kept(bundle: Path, files: list[Path]) -> None:
    asked = [files[3], files[0], files[3], *files[:20]]  # more than one batch
    predictions = predict(bundle, asked)
    assert [p.path for p in predictions] == asked
    assert predictions[0] == predictions[2]
    assert predictions[1].probabilities == pytest.approx(predict(bundle, [files[0]])[0].probabilities, abs=1e-4)
    assert predict(bundle, []) == []


def test_json_holds_what_the_command_line_promises(bundle: Path, files: list[Path]) -> None:
    [prediction] = predict(bundle, files[:1])
    data = json.loads(json.dumps(prediction.to_json()))
    assert set(data) == {"path", "class", "probability", "probabilities"}
    assert (data["path"], data["class"]) == (str(files[0]), prediction.name)


def test_every_bad_image_is_named_with_its_reason(bundle: Path, files: list[Path], tmp_path: Path) -> None:
    empty, broken, missing = tmp_path / "empty.png", tmp_path / "broken.png", tmp_path / "missing.png"
    empty.touch()
    broken.write_bytes(files[0].read_bytes()[:60])
    with pytest.raises(InvalidFile) as error:
        predict(bundle, [files[0], empty, broken, missing])
    lines = error.value.message.splitlines()[1:]
    assert [line.split(": ")[0].strip() for line in lines] == [str(empty), str(broken), str(missing)]
    assert all(len(line.split(": ", 1)[1]) > 5 for line in lines)
    assert str(files[0]) not in error.value.message

"""Evaluation: the recorded accuracy is reproducible, and the output states what was evaluated."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tlexport.api.evaluate import Evaluated, evaluate
from tlexport.checkpoint import read_checkpoint, read_dataset
from tlexport.errors import InvalidFile, Unsupported, UsageError
from tlexport.loading.model import Execution
from tlexport.ports import Silent

pytestmark = pytest.mark.usefixtures("one_thread")


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def validated(checkpoint: Path, digits: Path) -> Evaluated:
    return evaluate(checkpoint, str(digits), part="val", run=Execution(device="cpu", threads=1))


def test_the_recorded_accuracy_comes_back(validated: Evaluated, checkpoint: Path) -> None:
    record = read_checkpoint(checkpoint)
    assert validated.scores.top1 == record.metrics["val_top1"]
    assert validated.scores.n == record.metrics["val_images"] == len(read_dataset(checkpoint).part("val"))
    assert validated.scores.ece == pytest.approx(record.metrics["val_ece"], abs=1e-5)
    assert (validated.runtime, validated.provider, validated.part) == ("torch", "torch-cpu", "val")


def test_the_answer_as_json_is_consistent(validated: Evaluated, checkpoint: Path) -> None:
    answer = validated.to_json()
    confusion, classes = answer["confusion"], answer["classes"]
    assert isinstance(confusion, list)
    assert isinstance(classes, list)
    assert classes == list(read_checkpoint(checkpoint).classes)
    assert sum(map(sum, confusion)) == answer["n"]
    assert sum(confusion[index][index] for index in range(len(classes))) / validated.scores.n == pytest.approx(validated.scores.top1)
    per_class = answer["per_class"]
    assert isinstance(per_class, dict)
    assert list(per_class) == classes
    assert sum(row["n"] for row in per_class.values()) == answer["n"]


def test_it_is_said_when_training_images_are_among_them(checkpoint: Path, digits: Path) -> None:
    progress = Notes()
    everything = evaluate(checkpoint, str(digits), run=Execution(device="cpu", threads=1), progress=progress)
    dataset = read_dataset(checkpoint)
    assert everything.part == "all"
    assert everything.scores.n == len(dataset.samples)
    (note,) = [note for note in progress.notes if "train" in note]
    assert note.startswith(f"{len(dataset.part('train'))} of {len(dataset.samples)} ")
    assert "--part val" in note


@pytest.fixture
def held_out(checkpoint: Path, tmp_path: Path) -> Path:
    """Only the validation images, in another place with other names, and only some of the classes."""
    dataset = read_dataset(checkpoint)
    for number, sample in enumerate(dataset.part("val")):
        if dataset.classes[sample.label] in ("7", "3", "5"):
            target = tmp_path / "held out" / dataset.classes[sample.label] / f"image {number}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(dataset.file(sample), target)
    return tmp_path / "held out"


def test_images_that_were_not_trained_on_need_no_warning(checkpoint: Path, held_out: Path, validated: Evaluated) -> None:
    progress = Notes()
    some = evaluate(checkpoint, str(held_out), run=Execution(device="cpu", threads=1), progress=progress)
    assert not any("train" in note for note in progress.notes)
    # classes are matched by name, so that of three classes each scores as it did among ten
    whole, part = validated.scores.per_class(), some.scores.per_class()
    assert {name: row["recall"] for name, row in part.items() if row["n"]} == {name: whole[name]["recall"] for name in ("3", "5", "7")}
    assert some.scores.classes == validated.scores.classes


def test_parts_of_the_data_itself_come_first(checkpoint: Path, held_out: Path, tmp_path: Path) -> None:
    for part in ("train", "test"):
        shutil.copytree(held_out, tmp_path / "parts" / part)
    lonely = next((tmp_path / "parts" / "test").rglob("*.png"))
    lonely.unlink()
    found = evaluate(checkpoint, str(tmp_path / "parts"), run=Execution(device="cpu", threads=1))
    assert found.part == "test"
    assert found.scores.n == sum(1 for _ in held_out.rglob("*.png")) - 1
    with pytest.raises(InvalidFile, match="part 'val'"):
        evaluate(checkpoint, str(tmp_path / "parts"), part="val", run=Execution(device="cpu", threads=1))


@pytest.mark.parametrize("shape", ["test/{}/{}", "Testing/{}/{}", "val/{}/{}", "train/{}/{}", "{}/{}"])
def test_training_images_are_named_whichever_split_the_data_has(checkpoint: Path, tmp_path: Path, shape: str) -> None:
    dataset = read_dataset(checkpoint)
    for part, number in (("train", 2), ("val", 1)):
        for index, sample in enumerate([sample for sample in dataset.part(part) if sample.label == 3][:number]):  # type: ignore[arg-type]
            target = tmp_path / "data" / shape.format(dataset.classes[sample.label], f"{part}{index}.png")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(dataset.file(sample), target)
    progress = Notes()
    found = evaluate(checkpoint, str(tmp_path / "data"), run=Execution(device="cpu", threads=1), progress=progress)
    assert found.scores.n == 3  # of one class, in one part
    (note,) = [note for note in progress.notes if "used to train" in note]
    assert note.startswith("2 of 3 images")
    assert ("--part val" if shape in ("train/{}/{}", "{}/{}") else "train0.png") in note


def test_unicode_forms_of_class_names_match(checkpoint: Path, held_out: Path, tmp_path: Path) -> None:
    nfc, nfd = "caf\u00e9", "cafe\u0301"
    shutil.copytree(checkpoint, tmp_path / "checkpoint")
    record = tmp_path / "checkpoint" / "checkpoint.json"
    shutil.copytree(held_out, tmp_path / "renamed")
    for ours, theirs in ((nfc, nfd), (nfd, nfc)):
        classes = tuple(theirs if name == "3" else name for name in read_checkpoint(checkpoint).classes)
        record.write_text(read_checkpoint(checkpoint).model_copy(update={"classes": classes}).model_dump_json(), encoding="utf-8")
        (tmp_path / "renamed" / "3").rename(tmp_path / "renamed" / ours)
        again = evaluate(tmp_path / "checkpoint", str(tmp_path / "renamed"), run=Execution(device="cpu", threads=1))
        assert again.scores.per_class()[theirs]["n"] == sum(1 for _ in (tmp_path / "renamed" / ours).iterdir())
        (tmp_path / "renamed" / ours).rename(tmp_path / "renamed" / "3")


def test_a_class_that_the_model_does_not_know(checkpoint: Path, held_out: Path) -> None:
    (held_out / "3").rename(held_out / "three")
    with pytest.raises(InvalidFile, match=r"classes that .* lacks: three") as caught:
        evaluate(checkpoint, str(held_out), run=Execution(device="cpu", threads=1))
    assert all(name in caught.value.hint for name in read_checkpoint(checkpoint).classes)


def test_a_runtime_and_a_precision_that_a_checkpoint_has_not(checkpoint: Path, digits: Path) -> None:
    with pytest.raises(Unsupported, match="onnxruntime"):
        evaluate(checkpoint, str(digits), run=Execution(runtime="onnxruntime"))
    with pytest.raises(UsageError, match="did you mean 'torch'"):
        evaluate(checkpoint, str(digits), run=Execution(runtime="torhc"))
    with pytest.raises(UsageError, match="int8"):
        evaluate(checkpoint, str(digits), run=Execution(precision="int8"))

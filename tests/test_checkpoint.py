"""The checkpoint directory: complete or absent, and read as written."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tlexport.api.finetune import FinetuneSettings, finetune
from tlexport.checkpoint import DATASET, HISTORY, RECIPE, RECORD, REPORT, WEIGHTS, Checkpoint, read_checkpoint, read_dataset
from tlexport.errors import InvalidFile, StepFailed, UsageError, VerificationFailed
from tlexport.network import load_network
from tlexport.recipe import Recipe
from tlexport.storage.files import sha256_of
from tlexport.train.loop import Epoch
from tlexport.train.write_checkpoint import write_checkpoint

FILES = {RECORD, WEIGHTS, DATASET, HISTORY, RECIPE, "curves.png", "confusion.png"}  # the report comes after them


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint that a test may change."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def history_of(path: Path) -> list[Epoch]:
    return [Epoch(**json.loads(line)) for line in (path / HISTORY).read_text(encoding="utf-8").splitlines()]


def write_again(source: Path, out: Path, **changes: object) -> Checkpoint:
    """What training writes at its end, from what an earlier training left."""
    record = read_checkpoint(source)
    network = load_network(source, record)
    confusion = np.eye(len(record.classes), dtype=np.int64)
    return write_checkpoint(out, network, record.model_copy(update=changes), read_dataset(source), history_of(source), confusion)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# --- contents ---------------------------------------------------------------------------------------------------------------


def test_a_checkpoint_holds_these_files_and_no_others(checkpoint: Path) -> None:
    assert {path.name for path in checkpoint.iterdir()} == FILES | {REPORT}
    assert [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name]  # no temporary files beside it


@pytest.mark.parametrize("name", ["curves.png", "confusion.png"])
def test_the_pictures_open(name: str, checkpoint: Path) -> None:
    with Image.open(checkpoint / name) as image:
        image.load()
        assert image.format == "PNG"
        assert min(image.size) > 200
        assert len(image.convert("L").getcolors() or []) > 10  # something is drawn


def test_history_has_a_line_for_each_epoch(checkpoint: Path) -> None:
    record = read_checkpoint(checkpoint)
    epochs = history_of(checkpoint)
    assert [epoch.epoch for epoch in epochs] == list(range(1, int(record.metrics["epochs"]) + 1))
    assert len(epochs) <= record.recipe.epochs
    best = max(epochs, key=lambda epoch: (epoch.val_top1, -epoch.val_loss))
    assert record.metrics["best_epoch"] == best.epoch
    assert record.metrics["val_loss"] == pytest.approx(best.val_loss, abs=1e-6)
    assert record.metrics["train_top1"] == pytest.approx(best.train_top1, abs=1e-6)


def test_the_record_is_that_of_the_run(checkpoint: Path, digits: Path) -> None:
    record, dataset = read_checkpoint(checkpoint), read_dataset(checkpoint)
    assert record.classes == tuple(sorted(folder.name for folder in digits.iterdir())) == dataset.classes
    assert Recipe.read_toml(checkpoint / RECIPE) == record.recipe
    assert record.weights_sha256 == sha256_of(checkpoint / WEIGHTS)
    assert torch.__version__.startswith(record.versions["torch"])
    assert not record.interrupted
    assert record.metrics["val_images"] == len(dataset.part("val"))
    files = {str(path.relative_to(digits)) for path in digits.rglob("*.png")}
    assert {sample.path for sample in dataset.samples} == files
    assert all(sha256_of(dataset.file(sample)) == sample.sha256 for sample in dataset.samples)
    assert all(sample.path.startswith(f"{dataset.classes[sample.label]}/") for sample in dataset.samples)


def test_what_is_written_is_what_is_read(checkpoint: Path, tmp_path: Path) -> None:
    again = write_again(checkpoint, tmp_path / "again")
    assert again == read_checkpoint(tmp_path / "again") == read_checkpoint(checkpoint)
    assert read_dataset(tmp_path / "again") == read_dataset(checkpoint)
    for name in (WEIGHTS, RECORD, DATASET, RECIPE, HISTORY):
        assert (tmp_path / "again" / name).read_bytes() == (checkpoint / name).read_bytes()
    state = load_file(checkpoint / WEIGHTS)
    network = load_network(tmp_path / "again", again)
    assert not network.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.net.state_dict().items())


def test_class_names_of_every_kind_can_be_written(checkpoint: Path, tmp_path: Path) -> None:
    names = ("$\\frac{$", "ß", "a_b^c", "日本", "\\frac{", "<b>", "%s", "{0}", "#", "'")
    assert write_again(checkpoint, tmp_path / "odd", classes=names).classes == names
    assert read_checkpoint(tmp_path / "odd").classes == names
    with Image.open(tmp_path / "odd" / "confusion.png") as image:
        image.load()


# --- what is wrong with it ----------------------------------------------------------------------------------------------------


def test_weights_that_were_changed_are_not_used(copy: Path) -> None:
    data = bytearray((copy / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (copy / WEIGHTS).write_bytes(data)
    with pytest.raises(VerificationFailed) as caught:
        read_checkpoint(copy)
    assert caught.value.exit_code == 5
    assert str(copy / WEIGHTS) in caught.value.message


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"clases": ["a", "b"]}, "clases: unknown key; did you mean 'classes'?"),
        ({"classes": ["a"]}, "classes"),
        ({"classes": "ab"}, "classes"),
        ({"format": 2}, "format"),
        ({"metrics": {"val_top1": "high"}}, "metrics.val_top1"),
        ({"preprocess": {"size": 64, "resize": 32}}, "preprocess"),
        ({"interrupted": 0}, "interrupted"),
        ({"recipe": {"epoch": 3}}, "recipe.epoch: unknown key; did you mean 'epochs'?"),
    ],
)
def test_a_record_with_mistakes_is_refused(changes: dict[str, object], says: str, copy: Path) -> None:
    edit(copy / RECORD, **changes)
    with pytest.raises(InvalidFile) as caught:
        read_checkpoint(copy)
    assert says in caught.value.message
    assert str(copy / RECORD) in caught.value.message


@pytest.mark.parametrize("name", [RECORD, WEIGHTS])
def test_a_checkpoint_that_lacks_a_file_is_refused(name: str, copy: Path) -> None:
    (copy / name).unlink()
    with pytest.raises(InvalidFile, match=name) as caught:
        read_checkpoint(copy)
    assert caught.value.hint


def test_a_record_that_is_no_json_is_refused(copy: Path) -> None:
    (copy / RECORD).write_text("{")
    with pytest.raises(InvalidFile, match="JSON"):
        read_checkpoint(copy)


# --- writing that fails -------------------------------------------------------------------------------------------------------


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """As on a full disk, writing on fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("size", [0, 10_000, 1_000_000], ids=["nothing", "no dataset", "no weights"])
def test_a_full_disk_leaves_the_earlier_checkpoint_as_it_was(size: int, checkpoint: Path, copy: Path) -> None:
    before = contents(copy)
    with no_file_larger_than(size), pytest.raises(StepFailed) as caught:
        write_again(checkpoint, copy, interrupted=True)
    assert str(copy) in caught.value.message
    assert contents(copy.parent) == {f"{copy.name}/{name}": data for name, data in before.items()}


def test_a_full_disk_leaves_nothing_where_nothing_was(checkpoint: Path, tmp_path: Path) -> None:
    with no_file_larger_than(1_000_000), pytest.raises(StepFailed, match="cannot write"):
        write_again(checkpoint, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StepFailed, match="cannot write"):
        write_again(checkpoint, tmp_path / "file" / "run")
    assert contents(tmp_path) == {"file": b"mine"}


def test_an_earlier_checkpoint_is_replaced(checkpoint: Path, copy: Path) -> None:
    (copy / "old.txt").write_text("of the earlier run")
    assert write_again(checkpoint, copy, interrupted=True).interrupted
    assert read_checkpoint(copy).interrupted
    assert {path.name for path in copy.iterdir()} == FILES
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_not_ours_is_not_overwritten(kind: str, digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    if kind == "folder":
        out.mkdir()
        (out / "thesis.txt").write_text("years of work")
    else:
        out.write_text("years of work")
    with pytest.raises(UsageError, match=str(out)) as caught:
        finetune(str(digits), Recipe(weights="embedded"), out, FinetuneSettings(device="cpu"))
    assert "--out" in caught.value.hint
    assert "years of work" in (out / "thesis.txt" if kind == "folder" else out).read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        (RECORD, {"classes": ["cat", "cat"]}, "the class 'cat' is listed twice"),
        (RECORD, {"classes": ["cat", "two\nlines"]}, "has several lines"),
        (RECORD, {"classes": ["cat", "\u001b[2J"]}, "holds control characters"),
        (RECORD, {"classes": ["cat", ""]}, "is empty"),
        (RECORD, {"classes": ["cat", "x" * 10_000]}, "has 10000 characters"),
        (DATASET, {"classes": ["cat", "cat"]}, "the class 'cat' is listed twice"),
        (DATASET, {"classes": ["cat", "dog"]}, "but there are 2 classes"),
    ],
)
def test_classes_that_cannot_be(copy: Path, name: str, changed: dict[str, object], message: str) -> None:
    record = json.loads((copy / name).read_text(encoding="utf-8"))
    (copy / name).write_text(json.dumps(record | changed), encoding="utf-8")
    with pytest.raises(InvalidFile) as caught:
        (read_checkpoint if name == RECORD else read_dataset)(copy)
    assert message in caught.value.message
    assert len(caught.value.message) < 1000

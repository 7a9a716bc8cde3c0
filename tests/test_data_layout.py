"""Folders as classes or parts of a split: a network must never learn to distinguish ``Training`` from ``Testing``."""

from __future__ import annotations

import json
from pathlib import Path

import images
import pytest
from commands import here
from hypothesis import given
from hypothesis import strategies as st

from tlexport.data.layout import find_layout
from tlexport.data.source import read_source
from tlexport.data.tree import Tree
from tlexport.errors import InvalidFile

Found = dict[tuple[str | None, str], int]


def tree(*paths: str) -> Tree:
    """A folder with these images; ``cat/3`` means three images in ``cat``; a path that ends in a slash is an empty folder."""
    files, folders = [], []
    for path in paths:
        *names, last = path.split("/")
        folders += [tuple(names[: end + 1]) for end in range(len(names))]
        files += [(*names, f"{number}.jpg") for number in range(int(last or 0))]
    return Tree((), tuple(files), tuple(folders))


def layout(*paths: str, to_train: bool = True) -> Found:
    """Number of images by part and class."""
    found: Found = {}
    for folder, part in find_layout("DATA", tree(*paths), to_train).classes:
        key = (part, folder.place[-1])
        found[key] = found.get(key, 0) + len(folder.images)
    return found


def refusal(*paths: str, to_train: bool = True) -> InvalidFile:
    with pytest.raises(InvalidFile) as caught:
        layout(*paths, to_train=to_train)
    assert caught.value.hint
    return caught.value


def split(train: str, test: str) -> list[str]:
    return [f"{train}/cat/3", f"{train}/dog/3", f"{test}/cat/1", f"{test}/dog/1"]


@pytest.mark.parametrize(
    ("train", "other", "part"),
    [
        ("Training", "Testing", "test"),
        ("TRAIN", "Valid", "val"),
        ("train", "dev", "val"),
        ("seg_train", "seg_test", "test"),
        ("training_set", "test_set", "test"),
        ("trainset", "testset", "test"),
        ("train_images", "eval_images", "val"),
        ("images-train", "images-validation", "val"),
        ("Train Data", "Test Data", "test"),
        ("asl_alphabet_train", "asl_alphabet_test", "test"),
        ("train2017", "val2017", "val"),
        ("birds-Training", "birds-evaluation", "val"),
        ("Trainingsdaten", "Validierungsdaten", "val"),
        ("données d'entraînement", "E\u0301valuation", "val"),
        ("Entrenamiento", "datos_de_prueba", "test"),
        ("обучение", "Тест", "test"),
        ("训练集", "测试集", "test"),
        ("学習用データ", "検証用", "val"),
    ],
)
def test_usual_names_of_parts(train: str, other: str, part: str) -> None:
    expected = {("train", "cat"): 3, ("train", "dog"): 3, (part, "cat"): 1, (part, "dog"): 1}
    assert layout(*split(train, other)) == expected
    assert layout(*split(f"archive/{train}", f"archive/{other}")) == expected
    assert layout(*split(f"images/{train}/{train}", f"images/{other}/images"), "labels/") == expected


@given(st.data())
def test_the_case_of_the_names_of_parts_does_not_matter(data: st.DataObject) -> None:
    def anyhow(name: str) -> str:
        return "".join(data.draw(st.sampled_from([letter.upper(), letter.lower()])) for letter in name)

    train, test = data.draw(
        st.sampled_from(
            [("train", "test"), ("training", "testing"), ("seg_train", "seg_test"), ("trainset", "devset"), ("a_train", "a_val")]
        )
    )
    assert layout(*split(anyhow(train), anyhow(test))) == layout(*split(train, test))


@pytest.mark.parametrize(
    ("paths", "named"),
    [
        (split("fold1", "fold2"), "fold1, fold2"),
        (["fold1/cat/1", "fold2/dog/1"], "fold1, fold2"),
        (split("alpha", "beta"), "cat, dog"),
        (["alpha/cat/3", "alpha/dog/3", "alpha/bird/3", "beta/dog/1", "beta/bird/1"], "bird, dog"),
        (["a/images/cat/1", "a/images/dog/1", "b/images/cat/1", "b/images/dog/1"], "cat, dog"),
        (split("koulutus", "koe"), "koe, koulutus"),
        ([*split("seg_train", "seg_test"), "seg_pred/seg_pred/9"], "seg_pred"),
        ([*split("train", "val"), "junk/4"], "junk"),
        ([*split("train", "val"), "cat/4"], "cat"),
        (split("train", "test1"), "test1"),
        (split("train_val", "test"), "train_val"),
        (split("train_1", "train_2"), "train_1, train_2"),
        (["trainA/3", "trainB/3", "testA/1", "testB/1"], "trainA"),
        (["train/25", "test1/12"], "test1"),
        (["train/25", "test/12"], "test (12 images), train (25 images)"),
        (["train/cat/3", "train/dog/3", "test/12"], "test (12 images)"),
        (["train/cat/3", "train/dog/3", "test/test/12"], "test (12 images)"),
        (["train/25"], "train (25 images)"),
        (["cat/5", "dog/5", "test/5"], "test"),
        (["train/5", "images/5"], "images"),
        (["test/5", "pets/cat/5", "pets/dog/5"], "pets"),
        (split("Train", "train"), "Train, train"),
        ([*split("val", "train"), "validation/cat/1"], "val, validation"),
        (split("val", "test"), "no train"),
        (["cat/train/3", "cat/test/1", "dog/train/3", "dog/test/1"], "must be the outer"),
        (["images/5", "masks/5"], "images, masks"),
        (["90", "old/2", "older/2"], "90 images outside"),
        (["holdout/5", "unlabelled/5"], "holdout, unlabelled"),
    ],
)
def test_what_may_be_parts_is_refused_by_name(paths: list[str], named: str) -> None:
    error = refusal(*paths)
    assert named in error.message
    assert "DATA" in error.message


@pytest.mark.parametrize(
    ("paths", "classes"),
    [
        (["train/5", "bus/5", "car/5"], {"train": 5, "bus": 5, "car": 5}),
        (["train/5", "plane/5"], {"train": 5, "plane": 5}),
        (["valid/5", "invalid/5"], {"valid": 5, "invalid": 5}),
        (["steam_train/5", "bullet_train/5"], {"steam_train": 5, "bullet_train": 5}),
        (["trains/5", "planes/5"], {"trains": 5, "planes": 5}),
        (["cat/2023/3", "cat/2024/3", "dog/2023/3", "dog/2024/3"], {"cat": 6, "dog": 6}),
        (["animals/cat/3", "animals/dog/3", "cars/fiat/3", "cars/audi/3"], {"animals": 6, "cars": 6}),
        (["cat/images/3", "dog/images/3"], {"cat": 3, "dog": 3}),
        (["part1/3", "part2/3"], {"part1": 3, "part2": 3}),
        (["data/cat/3", "data/dog/3", "2"], None),
        (["data/cat/3", "data/dog/3"], {"cat": 3, "dog": 3}),
        (["raw/3", "cooked/3"], {"raw": 3, "cooked": 3}),
        (["mask/3", "no_mask/3"], {"mask": 3, "no_mask": 3}),
        (["0/3", "1/3"], {"0": 3, "1": 3}),
    ],
)
def test_what_are_classes(paths: list[str], classes: dict[str, int] | None) -> None:
    if classes is None:  # one class, which the caller refuses
        assert len(layout(*paths)) == 1
    else:
        assert layout(*paths) == {(None, name): count for name, count in classes.items()}


def test_one_part_alone() -> None:
    assert layout("train/cat/2", "train/dog/2") == {("train", "cat"): 2, ("train", "dog"): 2}
    assert layout("Val/cat/2", "Val/dog/2", to_train=False) == {("val", "cat"): 2, ("val", "dog"): 2}
    assert layout("test/cat/2", to_train=False) == {("test", "cat"): 2}
    assert "no train" in refusal("test/cat/2", "test/dog/2").message


def test_the_command_refuses_with_names_and_a_way_out_and_writes_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for part in ("lernen", "pruefen"):
        images.class_folders(tmp_path / "data" / part, {"cat": 2, "dog": 2})
    done = here(capfd, "finetune", tmp_path / "data", "--out", tmp_path / "out", "--weights", "none", "--epochs", "1")
    assert done.code == 2, done.err
    assert "lernen, pruefen" in done.err
    assert "table with path,label" in done.err.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_a_flat_folder_with_its_table_names_the_table(tmp_path: Path) -> None:
    for part in ("train", "test"):
        images.class_folders(tmp_path / "data", {part: 3})
    (tmp_path / "data" / "train.csv").write_text("path,label\n", encoding="utf-8")
    with pytest.raises(InvalidFile) as caught:
        read_source(str(tmp_path / "data"))
    assert str(tmp_path / "data" / "train.csv") in caught.value.hint


def test_parts_and_classes_that_are_links(tmp_path: Path) -> None:
    images.class_folders(tmp_path / "store" / "all", {"cat": 3, "dog": 3})
    images.class_folders(tmp_path / "store" / "held", {"cat": 1, "dog": 1}, seed=1)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "Train").symlink_to(tmp_path / "store" / "all")
    (tmp_path / "data" / "Val").symlink_to(tmp_path / "store" / "held")
    (tmp_path / "store" / "all" / "up").symlink_to(tmp_path / "data")
    listing = read_source(str(tmp_path / "data"))
    assert listing.classes == ("cat", "dog")
    assert [entry.part for entry in listing.entries] == ["train"] * 6 + ["val"] * 2


def test_a_class_in_one_part_alone_names_the_nearest(tmp_path: Path) -> None:
    images.class_folders(tmp_path / "train", {"Cat": 1, "dog": 1})
    images.class_folders(tmp_path / "val", {"cat": 1, "dog": 1})
    with pytest.raises(InvalidFile) as caught:
        read_source(str(tmp_path))
    assert "not in train: cat" in caught.value.message
    assert "'cat' is 'Cat' in train" in caught.value.hint


# ---- Unicode forms and names that no model can carry ---------------------------------------------------------------------------

NFC, NFD = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize(("first", "second"), [(NFC, NFD), (NFD, NFC)])
def test_two_unicode_forms_of_a_name_are_one_class(tmp_path: Path, first: str, second: str) -> None:
    images.class_folders(tmp_path / "train", {first: 2, "tea": 2})
    images.class_folders(tmp_path / "val", {second: 1, "tea": 1}, seed=1)
    assert read_source(str(tmp_path)).classes == (NFC, "tea")
    images.class_folders(tmp_path / "both", {first: 2, second: 3, "tea": 1})
    listing = read_source(str(tmp_path / "both"))
    assert [listing.classes[entry.label] for entry in listing.entries] == [NFC] * 5 + ["tea"]
    assert all(listing.file(entry).is_file() for entry in listing.entries)
    assert any("one class: café" in note for note in listing.notes)


@pytest.mark.parametrize("name", ["", " ", "two\nlines", "a\x00b", "a\x1b[2Jb", "a\x85b", "a\u2028b", "x" * 256, "\ud800"])
def test_class_names_that_a_model_cannot_carry(tmp_path: Path, name: str) -> None:
    images.class_folders(tmp_path, {"a": 1, "b": 1})
    lines = [{"path": "a/000.png", "label": name}, {"path": "b/000.png", "label": "b"}]
    table = tmp_path / "list.jsonl"
    table.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    with pytest.raises(InvalidFile, match="label is ''" if name == "" else "the class name|holds a NUL"):
        read_source(str(table))

"""The three layouts of DATA, and the message if it has none of them."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import images
import pytest

from tlexport.data.source import Listing, read_source
from tlexport.errors import InvalidFile, UsageError


def shown(listing: Listing) -> list[tuple[str, str, str | None]]:
    return [(entry.path, listing.classes[entry.label], entry.part) for entry in listing.entries]


def refused(data: Path | str) -> InvalidFile:
    with pytest.raises(InvalidFile) as caught:
        read_source(str(data))
    assert caught.value.hint
    return caught.value


def table(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return images.class_folders(tmp_path / "pets", {"dog": 2, "cat": 3})


# ---- class folders -----------------------------------------------------------------------------------------------------------


def test_class_folders(pets: Path) -> None:
    listing = read_source(str(pets))
    assert listing.classes == ("cat", "dog")
    assert listing.root == pets.resolve()
    assert listing.source == str(pets)
    assert shown(listing) == [
        ("cat/000.png", "cat", None),
        ("cat/001.png", "cat", None),
        ("cat/002.png", "cat", None),
        ("dog/000.png", "dog", None),
        ("dog/001.png", "dog", None),
    ]
    assert all(listing.file(entry).is_file() for entry in listing.entries)
    assert (listing.skipped, listing.notes) == (0, ())


def test_classes_are_those_that_torchvision_finds(pets: Path) -> None:
    from torchvision.datasets import ImageFolder

    images.class_folders(pets, {"Zebra": 1, "10": 1, "9": 1, "éland": 1})
    folder = ImageFolder(str(pets))
    listing = read_source(str(pets))
    assert list(listing.classes) == folder.classes
    assert [(str(listing.file(entry)), entry.label) for entry in listing.entries] == [
        (str(Path(p).resolve()), c) for p, c in folder.samples
    ]


def test_nested_folders_belong_to_their_class_and_the_extension_may_be_upper_case(pets: Path) -> None:
    images.write(pets / "cat" / "2024" / "may", {"a.JPG": images.good()["rgb.jpg"]})
    assert ("cat/2024/may/a.JPG", "cat", None) in shown(read_source(str(pets)))


def test_what_is_no_image_is_skipped_and_counted(pets: Path) -> None:
    images.write(pets / "cat", {"notes.txt": b"x", "more.txt": b"x", ".hidden.png": b"x", "LICENSE": b"x"})
    for folder in (".thumbnails", ".ipynb_checkpoints", "__MACOSX", "@eaDir"):
        images.write(pets / "dog" / folder, {"t.png": b"x"})
        images.write(pets / folder / "dog", {"t.png": b"x"})
    listing = read_source(str(pets))
    assert len(listing.entries) == 5
    assert listing.skipped == 4
    assert listing.notes == ("left out 4 files that are not images by their names: no extension (1), .txt (2), hidden (1)",)


def test_images_outside_class_folders_and_empty_class_folders_are_named(pets: Path) -> None:
    images.write(pets, {"loose.png": b"x", "README.md": b"x"})
    (pets / "mouse").mkdir()
    listing = read_source(str(pets))
    assert listing.classes == ("cat", "dog")
    assert any("1 images" in note and "outside any class folder" in note for note in listing.notes)
    assert any("mouse" in note and "holds no images" in note for note in listing.notes)


def test_a_linked_file_is_read_and_a_dangling_one_is_kept_for_decoding_to_report(pets: Path, tmp_path: Path) -> None:
    target = images.write(tmp_path / "elsewhere", {"x.png": images.good()["rgb.png"]})[0]
    (pets / "cat" / "link.png").symlink_to(target)
    (pets / "cat" / "dangling.png").symlink_to(tmp_path / "gone.png")
    paths = [path for path, _, _ in shown(read_source(str(pets)))]
    assert "cat/link.png" in paths
    assert "cat/dangling.png" in paths


def test_linked_folders_are_read_once_and_loops_end(pets: Path, tmp_path: Path) -> None:
    images.write(tmp_path / "more", {"m.png": b"x"})
    (pets / "cat" / "self").symlink_to(pets / "cat")
    (pets / "cat" / "up").symlink_to(pets)
    (pets / "dog" / "more").symlink_to(tmp_path / "more")
    (pets / "dog" / "more again").symlink_to(tmp_path / "more")
    listing = read_source(str(pets))
    assert [path for path, _, _ in shown(listing)] == [
        "cat/000.png",
        "cat/001.png",
        "cat/002.png",
        "dog/000.png",
        "dog/001.png",
        "dog/more/m.png",
    ]
    assert sum("did not follow" in note for note in listing.notes) == 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_with_an_images_name_does_not_block(pets: Path) -> None:
    os.mkfifo(pets / "cat" / "pipe.png")
    listing = read_source(str(pets))
    assert len(listing.entries) == 5
    assert listing.skipped == 1


# ---- train, val, test --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val"])
def test_parts(tmp_path: Path, name: str) -> None:
    images.class_folders(tmp_path / "train", {"cat": 2, "dog": 1})
    images.class_folders(tmp_path / name, {"cat": 1, "dog": 1})
    images.class_folders(tmp_path / "test", {"cat": 1})
    assert shown(read_source(str(tmp_path))) == [
        ("train/cat/000.png", "cat", "train"),
        ("train/cat/001.png", "cat", "train"),
        ("train/dog/000.png", "dog", "train"),
        (f"{name}/cat/000.png", "cat", "val"),
        (f"{name}/dog/000.png", "dog", "val"),
        ("test/cat/000.png", "cat", "test"),
    ]


def test_a_class_folder_that_is_called_like_a_part_is_a_class(tmp_path: Path) -> None:
    images.class_folders(tmp_path, {"train": 1, "plane": 1})
    listing = read_source(str(tmp_path))
    assert listing.classes == ("plane", "train")
    assert {entry.part for entry in listing.entries} == {None}
    assert any("'train' is taken as a class" in note for note in listing.notes)


def test_a_class_that_is_not_in_train_is_an_error(tmp_path: Path) -> None:
    images.class_folders(tmp_path / "train", {"cat": 1, "dog": 1})
    images.class_folders(tmp_path / "val", {"cat": 1, "dgo": 1})
    assert "not in train: dgo" in refused(tmp_path).message


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["val", "test"], "but no train"),
        (["train", "val", "valid"], "two folders for one part"),
        (["train", "val", "cat"], "holds train, val and also cat"),
    ],
)
def test_parts_that_cannot_be(tmp_path: Path, folders: list[str], message: str) -> None:
    for folder in folders:
        images.class_folders(tmp_path / folder, {"cat": 1, "dog": 1})
    assert message in refused(tmp_path).message


# ---- none of the shapes ------------------------------------------------------------------------------------------------------


def test_images_without_class_folders(tmp_path: Path) -> None:
    images.write(tmp_path, {"1.jpg": b"x", "2.jpg": b"x"})
    error = refused(tmp_path)
    assert "holds 2 images, but no class folders" in error.message
    assert "DATA/cat/1.jpg" in error.hint


def test_an_empty_folder_and_empty_class_folders(tmp_path: Path) -> None:
    assert "neither class folders nor images" in refused(tmp_path).message
    (tmp_path / "cat").mkdir()
    (tmp_path / "dog").mkdir()
    assert "holds no images" in refused(tmp_path).message


def test_one_class_and_where_the_classes_may_be(tmp_path: Path) -> None:
    images.class_folders(tmp_path / "pets", {"cat": 1, "dog": 1})
    error = refused(tmp_path)
    assert "one class, 'pets'" in error.message
    assert str(tmp_path.resolve() / "pets") in error.hint


def test_a_path_that_does_not_exist_names_the_nearest(pets: Path) -> None:
    assert "did you mean 'pets'" in refused(pets.parent / "pet").message


def test_a_file_that_is_no_table(tmp_path: Path) -> None:
    assert "not a table" in refused(images.write(tmp_path, {"x.zip": b"x"})[0]).message


def test_the_empty_name_and_an_unknown_demo(tmp_path: Path) -> None:
    assert "'' does not exist" in refused("").message
    with pytest.raises(UsageError, match="did you mean 'demo:digits'"):
        read_source("demo:digit")


@pytest.mark.parametrize("name", [" cat", "two\nlines"])
def test_class_names_that_labels_txt_cannot_hold(pets: Path, name: str) -> None:
    images.class_folders(pets, {name: 1})
    assert repr(name) in refused(pets).message


def test_a_file_name_that_is_not_text(pets: Path) -> None:
    try:
        (pets / "cat" / os.fsdecode(b"\xff.png")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes valid names only")
    assert "is not valid text" in refused(pets).message


# ---- tables ------------------------------------------------------------------------------------------------------------------


def rows(*pairs: tuple[str, str]) -> str:
    return "path,label\n" + "".join(f"{path},{label}\n" for path, label in pairs)


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".CSV"])
def test_tables(pets: Path, tmp_path: Path, suffix: str, bom: str) -> None:
    outside = images.write(tmp_path / "outside", {"o.png": b"x"})[0].resolve()
    records = [("dog/000.png", "d,og", "train"), (str(pets / "cat" / "000.png"), "cat", "train"), (str(outside), "cat", "validation")]
    records.append(("../outside/./o.png", "cat", "valid"))  # the same file again
    if suffix == ".jsonl":
        text = "\n\n".join(json.dumps({"path": path, "label": label, "split": part}) for path, label, part in records)
    else:
        text = "path, label, split\n" + "\n".join(f'{path}, "{label}", {part}' for path, label, part in records)
    listing = read_source(str(table(pets / f"list{suffix}", bom + text)))
    assert listing.root == pets.resolve()
    assert shown(listing) == [
        ("cat/000.png", "cat", "train"),
        ("dog/000.png", "d,og", "train"),
        (outside.as_posix(), "cat", "val"),
    ]
    assert all(listing.file(entry).is_file() for entry in listing.entries)
    assert any("1 lines of list" in note and "counts once" in note for note in listing.notes)


def test_the_order_of_lines_does_not_matter(pets: Path) -> None:
    pairs = [("dog/001.png", "dog"), ("cat/002.png", "cat"), ("dog/000.png", "dog")]
    forth = read_source(str(table(pets / "list.csv", rows(*pairs))))
    back = read_source(str(table(pets / "list.csv", rows(*reversed(pairs)))))
    assert forth == back


def test_numbers_as_labels_in_json(pets: Path) -> None:
    text = '{"path": "cat/000.png", "label": 10}\n{"path": "dog/000.png", "label": 9}\n'
    assert read_source(str(table(pets / "list.jsonl", text))).classes == ("10", "9")


def test_unused_columns_are_named(pets: Path) -> None:
    text = "path,label,spilt\ncat/000.png,cat,train\ndog/000.png,dog,val\n"
    assert any("not used: spilt" in note for note in read_source(str(table(pets / "list.csv", text))).notes)


def test_missing_files_are_named_with_their_lines(pets: Path) -> None:
    pairs = [("cat/000.png", "cat"), ("dog/000.png", "dog"), ("gone.png", "cat"), *((f"lost/{n}.png", "dog") for n in range(12))]
    error = refused(table(pets / "list.csv", rows(*pairs)))
    assert "names 13 files that do not exist" in error.message
    assert "line 4: gone.png" in error.message
    assert "and 3 more" in error.message
    assert "lost/11.png" not in error.message


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.csv",
            rows(("cat/000.png", "cat"), ("dog/000.png", "dog"), ("cat/000.png", "dog")),
            "line 4: cat/000.png has another label or split on line 2",
        ),
        ("a.csv", "path,label,split\ncat/000.png,cat,trian\n", "line 2: split is 'trian'; did you mean 'train'?"),
        ("a.csv", "path,label,split\ncat/000.png,cat,train\ndog/000.png,dog,\n", "line 3: split is empty"),
        ("a.csv", "path,label,split\ncat/000.png,cat,val\ndog/000.png,dog,val\n", "nothing in train"),
        ("a.csv", "id,label\ncat/000.png,cat\n", "line 2: no column 'path'; found: id, label"),
        ("a.csv", "file,image,label\na,b,c\n", "several columns that could be the path: file, image"),
        ("a.csv", "path,label,label\na,b,c\n", "two columns of the name label"),
        ("a.csv", "\ncat/000.png,cat\n", "first line is empty"),
        ("a.csv", "path,label\n" + "x" * 200_000, "line 2 has more than 100,000 characters"),
        ("a.csv", 'path,label\n"cat/000.png"x,cat\n', "line 2 cannot be read as a table"),
        ("a.csv", "path,label\ncat/000.png\n", "line 2: not one value for each of path, label"),
        ("a.csv", "path,label\ncat/000.png,cat,3\n", "line 2: not one value for each of path, label"),
        ("a.csv", "path,label\ncat/000.png,\n", "line 2: label is ''"),
        ("a.csv", 'path,label\n"cat/000.png,cat\n', "cannot be read as a table"),
        ("a.csv", "path,label\n", "holds no images"),
        ("a.csv", "", "holds no images"),
        ("a.csv", rows(("cat/000.png", "cat"), ("cat/001.png", "cat")), "one class, 'cat'"),
        ("a.jsonl", '{"path": "cat/000.png"}\n', "line 1: no column 'label'; found: path"),
        ("a.jsonl", '{"path": "cat/000.png", "label": "cat"}\n[1]\n', "line 2 holds a JSON list"),
        ("a.jsonl", '{"path": "cat/000.png", "label": "cat"}\n{"path": \n', "line 2 is not JSON"),
        ("a.jsonl", '{"path": "cat/000.png", "label": true}\n', "line 1: label is True"),
        ("a.jsonl", '{"path": "cat/000.png", "label": "cat", "split": 1}\n', "line 1: split is 1"),
    ],
)
def test_tables_with_errors(pets: Path, name: str, text: str, message: str) -> None:
    assert message in refused(table(pets / name, text)).message


def test_a_table_that_is_not_utf8(pets: Path) -> None:
    path = pets / "a.csv"
    path.write_bytes("path,label\ncat/000.png,katzé\n".encode("latin-1"))
    assert "UTF-8" in refused(path).hint


def test_paths_that_no_file_system_takes_are_named(pets: Path) -> None:
    for text, said in {
        "x" * 5000 + ".png": "names 1 files that do not exist",
        "null\0byte.png": "line 1 is not JSON: the text 'null",
    }.items():
        assert said in refused(table(pets / "a.jsonl", json.dumps({"path": text, "label": "cat"}))).message


# ---- the demo ----------------------------------------------------------------------------------------------------------------


def test_demo_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLX_CACHE", str(tmp_path))
    listing = read_source("demo:digits")
    assert listing.source == "demo:digits"
    assert listing.classes == tuple("0123456789")
    assert listing.root.is_relative_to(tmp_path.resolve())
    assert len(listing.entries) == 1797
    assert min(Counter(entry.label for entry in listing.entries).values()) > 170
    assert (listing.skipped, listing.notes) == (0, ())

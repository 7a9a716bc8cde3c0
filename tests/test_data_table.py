"""Tables from spreadsheets and other tools: the same listing, or an error with a remedy."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import images
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tlexport.data.source import Listing, read_source
from tlexport.errors import InvalidFile

NFC, NFD = "caf\u00e9", "cafe\u0301"


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = images.class_folders(tmp_path_factory.mktemp("table") / "pets", {"dog": 2, "cat": 2, f"a {NFD}": 2})
    os.rename(root / "cat" / "001.png", root / "cat" / "x, y; z.png")  # noqa: PTH104
    return root


def listing(folder: Path, content: bytes, name: str = "list.csv") -> Listing:
    (folder / name).write_bytes(content)
    return read_source(str(folder / name))


def shown(found: Listing) -> list[tuple[str, str, str | None]]:
    return [(entry.path, found.classes[entry.label], entry.part) for entry in found.entries]


def rows(root: Path) -> list[tuple[str, str, str]]:
    """Path, class and part of every image."""
    found = []
    for folder in sorted(root.iterdir()):
        found += [(f"{folder.name}/{file.name}", folder.name, "train") for file in sorted(folder.glob("*.png"))]
    return [*found[:-1], (*found[-1][:2], "val")]


def refused(folder: Path, content: bytes, name: str = "list.csv") -> InvalidFile:
    with pytest.raises(InvalidFile) as caught:
        listing(folder, content, name)
    return caught.value


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]),
    header=st.sampled_from(
        [
            ("path", "label", "split"),
            ("Path", " Label", "Split"),
            ("filename", "class", "subset"),
            ("image", "category", "set"),
            ("File Name", "CLASS_NAME", "split"),
        ]
    ),
    part=st.sampled_from([("train", "val"), ("TRAIN", "Valid"), ("training", "dev"), ("train_set", "validation")]),
    form=st.sampled_from(["NFC", "NFD"]),
    absolute=st.booleans(),
    backslashes=st.booleans(),
    space=st.sampled_from(["", " "]),
    first=st.sampled_from(["", "sep"]),
)
def test_however_a_table_is_written_it_gives_the_same_listing(
    pets: Path, delimiter: str, end: str, encoding: str, header: tuple[str, ...], part: tuple[str, str], form: str, absolute: bool,
    backslashes: bool, space: str, first: str,
) -> None:  # fmt: skip
    lines = [f"sep={delimiter}"] if first else []
    lines.append((delimiter + space).join(header))
    for path, label, name in rows(pets):
        written = str(pets / path) if absolute else path.replace("/", "\\") if backslashes else path
        cells = (written, unicodedata.normalize(form, label), part[name == "val"])
        lines.append((delimiter + space).join(f'"{cell}"' for cell in cells))
    found = listing(pets.parent if absolute else pets, (end.join(lines) + end + end).encode(encoding))
    (pets / "list.csv").unlink(missing_ok=True)
    prefix = "pets/" if absolute else ""
    expected = [(prefix + path, unicodedata.normalize("NFC", label), name) for path, label, name in rows(pets)]
    assert shown(found) == sorted(expected, key=lambda row: (row[2], row[1], row[0]))


def test_the_meaning_of_other_column_names_is_reported(pets: Path) -> None:
    found = listing(pets, b"image,category,who\ncat/000.png,cat,me\ndog/000.png,dog,you\n")
    assert "columns of list.csv: 'category' is read as label, 'image' is read as path" in found.notes
    assert "columns of list.csv that are not used: who" in found.notes


def test_a_column_of_the_very_name_comes_first(pets: Path) -> None:
    found = listing(pets, b"class,path,filename,label\nx,cat/000.png,y,cat\nx,dog/000.png,y,dog\n")
    assert found.classes == ("cat", "dog")


def test_the_form_of_a_name_differs_between_table_and_disk(pets: Path) -> None:
    found = listing(pets, f"path,label\na {NFC}/000.png,{NFC}\na {NFD}/001.png,{NFD}\ncat/000.png,cat\n".encode())
    assert (found.classes, len(found.entries)) == ((NFC, "cat"), 3)
    assert all(found.file(entry).is_file() for entry in found.entries)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("path,label\ncat/000.png,katz\xe9\n", "line 2 is not UTF-8", "iconv"),
        ("cat/000.png,cat\ndog/000.png,dog\n", "no column 'path'", "path,label above it"),
        ("path,label\nC:\\data\\cat\\000.png,cat\n", "line 2: C:\\data", "another machine"),
        ("path,label\nhttps://example.org/1.png,cat\n", "do not exist", "download"),
        ("path,label\ncat/000,cat\n", "line 2: cat/000", "cat/000.png exists"),
        ("path,label\n000.png,cat\n", "line 2: 000.png", f"write a {NFD}/000.png"),
        ("path,label\n" + "../" * 3 + "x\0y.png,cat\n", "do not exist", "paths start from"),
        ("path,label\n" + "../" * 4000 + "y.png,cat\n", "do not exist", "paths start from"),
        ("path,label\n.,cat\n/,dog\n", "names 2 files", "paths start from"),
    ],
)
def test_the_hint_names_what_to_change(pets: Path, text: str, message: str, hint: str) -> None:
    error = refused(pets, text.encode("latin-1"))
    assert message in error.message
    assert hint in error.hint


@pytest.mark.parametrize(
    "line",
    [
        '{"path": "cat/000.png", "label": ' + "9" * 5000 + "}",
        '{"path": "cat/000.png", "label": ' + "[" * 100_0 + "]" * 100_0 + "}",
        '{"path": "cat/000.png", "label": NaN}',
        '{"path": ["cat/000.png"], "label": "cat"}',
        '{"path": {"a": 1}, "label": "cat"}',
        '{"path": null, "label": "cat"}',
        '{"path": "cat/000.png", "label": 1.5}',
        '{"path": "cat/000.png", "label": "cat", "split": ["train"]}',
        '{"path": "cat/000.png", "label": "cat", "label": "dog"}',
        '{"path": "cat/000.png", "label": "' + "x" * 120_000 + '"}',
        "{",
        "[]",
        "1",
        "\x00",
    ],
)
def test_every_fault_of_a_jsonl_names_its_line(pets: Path, line: str) -> None:
    error = refused(pets, f'{{"path": "dog/000.png", "label": "dog"}}\n{line}\n'.encode(), "list.jsonl")
    assert "line 2" in error.message
    assert len(error.message) < 500


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_no_table(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "list.csv")
    with pytest.raises(InvalidFile, match="not a table"):
        read_source(str(tmp_path / "list.csv"))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.sampled_from(["list.csv", "list.tsv", "list.jsonl"]), st.booleans())
def test_bytes_of_any_kind_end_in_a_listing_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str, headed: bool
) -> None:
    folder = tmp_path_factory.getbasetemp()
    try:
        listing(folder, (b"path,label,split\n" if headed else b"") + content, name)
    except InvalidFile as error:
        assert error.message

"""Bundles as archives: deterministic, accepted by every command, and hostile ones are refused."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import onnx
import pytest
from bundles import fix_hashes, read, rewrite, tiny_bundle
from commands import here
from exports import tree
from onnx import TensorProto, helper

from tlexport.bundle import archive as bundle_archive
from tlexport.bundle.archive import FREE_BYTES, is_archive, pack, unpack
from tlexport.bundle.manifest import LARGEST_MANIFEST, MANIFEST, read_manifest
from tlexport.errors import InvalidFile, TlxError, UsageError, VerificationFailed
from tlexport.loading.open_bundle import check_archive_place, open_bundle
from tlexport.storage.cache import cache_folder

KINDS = ("zip", "tar.gz")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that is not changed."""
    return tiny_bundle(tmp_path_factory.mktemp("tiny") / "colours")


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    """A bundle that may be changed."""
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


def packed(folder: Path, path: Path) -> Path:
    pack(folder, path)
    return path


# --- written, and read again ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bundle_gives_the_same_bytes(tiny: Path, copy: Path, tmp_path: Path, kind: str) -> None:
    for number, file in enumerate(sorted(copy.rglob("*"))):
        os.utime(file, (number, 10**9 + number))
        file.chmod(0o755)
    copy = copy.rename(tmp_path / "of-another-name")
    assert packed(tiny, tmp_path / f"a.{kind}").read_bytes() == packed(copy, tmp_path / f"b.{kind}").read_bytes()


def test_an_archive_says_nothing_of_who_made_it(tiny: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(packed(tiny, tmp_path / "a.zip")) as archive:
        entries = archive.infolist()
        assert {(e.date_time, e.external_attr >> 16, e.create_system) for e in entries} == {((1980, 1, 1, 0, 0, 0), 0o100644, 3)}
        assert [e.filename for e in entries] == sorted(tree(tiny))
    with tarfile.open(packed(tiny, tmp_path / "a.tar.gz")) as tar:
        members = tar.getmembers()
        assert {(m.mtime, m.mode, m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0o644, 0, 0, "", "")}
        assert [m.name for m in members] == sorted(tree(tiny))
    assert (tmp_path / "a.tar.gz").read_bytes()[4:8] == bytes(4)  # the time in gzip's own header


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_packed_is_unpacked(tiny: Path, tmp_path: Path, kind: str) -> None:
    unpack(packed(tiny, tmp_path / f"a.{kind}"), tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tiny)


@pytest.mark.parametrize("program", ["zipfile", "tar"])
def test_what_other_programs_packed_is_read(tiny: Path, tmp_path: Path, program: str) -> None:
    """With folders, times and owners, and compressed."""
    kind = {"zipfile": "zip", "tar": "gztar"}[program]
    path = Path(shutil.make_archive(str(tmp_path / "a"), kind, tiny))
    path = path.rename(tmp_path / path.name.replace("tar.gz", "TGZ"))
    if kind == "gztar":  # its entry for the whole is called "."
        with tarfile.open(path, "w:gz") as tar:
            for name in ("golden", *sorted(tree(tiny))):
                tar.add(tiny / name, name, recursive=False)
    unpack(path, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tiny)


@pytest.mark.parametrize(
    ("name", "is_one"), [("a.zip", True), ("a.tar.gz", True), ("A.TGZ", True), ("a.tar", False), ("a.gz", False), ("a.onnx", False)]
)
def test_the_ending_tells_an_archive(name: str, is_one: bool) -> None:
    assert is_archive(Path(name)) == is_one


# --- taken by commands ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "command",
    [
        ("verify", "BUNDLE", "--threads", "1"),
        ("predict", "BUNDLE", "IMAGE", "--precision", "fp16", "--threads", "1"),
        ("evaluate", "BUNDLE", "DATA", "--threads", "1"),
        ("estimate", "BUNDLE", "--target", "raspberry-pi-5"),
    ],
    ids=lambda command: command[0],
)
def test_commands_answer_for_a_file_as_for_a_directory(
    tiny: Path, tmp_path: Path, kind: str, command: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    image = tiny / "golden/00.png"
    for number, name in enumerate(("red", "green", "blue")):
        (tmp_path / "data" / name).mkdir(parents=True)
        shutil.copy(tiny / f"golden/{2 * number:02}.png", tmp_path / "data" / name)
    places = {"IMAGE": image, "DATA": tmp_path / "data"}

    def answer(what: Path) -> object:
        ended = here(capfd, *(what if word == "BUNDLE" else places.get(word, word) for word in command), "--json")
        assert ended.code == 0, ended.err
        said = json.loads(ended.out)
        for key in ("what", "bundle"):
            if isinstance(said, dict):
                said.pop(key, None)
        return said

    assert answer(packed(tiny, tmp_path / f"colours.{kind}")) == answer(tiny)


def test_bench_measures_every_model_of_a_file(tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = packed(tiny, tmp_path / "colours.zip")
    ended = here(capfd, "bench", path, "--runs", "2", "--seconds", "0", "--threads", "1", "--json")
    assert ended.code == 0, ended.err
    said = json.loads(ended.out)
    assert [m["precision"] for m in said] == ["fp32", "fp16"]
    assert all(Path(m["what"]).is_file() for m in said)  # where it ran, needed by `tlx profiles calibrate --from`


def test_a_directory_is_opened_as_it_is(tiny: Path, tmp_path: Path) -> None:
    assert open_bundle(tiny) == tiny
    assert open_bundle(tmp_path / "nothing.zip") == tmp_path / "nothing.zip"


def test_a_file_is_unpacked_once_and_checked_each_time(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = packed(copy, tmp_path / "a.zip")
    folder = open_bundle(path)
    assert folder.is_relative_to(cache_folder())
    (folder / "model.fp32.engine").write_bytes(b"of a stranger")
    assert open_bundle(path) == folder
    assert not (folder / "model.fp32.engine").exists(), "what the archive does not hold is gone"
    model = folder / "model.fp32.onnx"
    model.write_bytes(model.read_bytes()[::-1])
    assert open_bundle(path) == folder
    assert model.read_bytes() == (copy / model.name).read_bytes()


def test_few_unpacked_bundles_are_kept(tiny: Path, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tlexport.loading.open_bundle.MOST_KEPT", 2)
    data, folders = read(copy), []
    for number in range(4):
        rewrite(copy, data | {"name": f"number {number}"})
        folders.append(open_bundle(packed(copy, tmp_path / f"{number}.zip")))
        os.utime(folders[-1], (number, number))
    assert [folder.is_dir() for folder in folders] == [False, False, True, True]


def test_only_a_bundle_s_file_is_replaced(tiny: Path, tmp_path: Path) -> None:
    path = packed(tiny, tmp_path / "a.zip")
    check_archive_place(path)
    check_archive_place(tmp_path / "new.zip")
    (tmp_path / "folder.zip").mkdir()
    (tmp_path / "thesis.zip").write_bytes(b"all of it")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("manifest.json", "{}")
    for name in ("folder.zip", "thesis.zip", "photos.zip"):
        with pytest.raises(UsageError, match="not a bundle"):
            check_archive_place(tmp_path / name)


# --- hostile archives -------------------------------------------------------------------------------------------------


def zipped(path: Path, files: Mapping[str, bytes], change: Callable[[zipfile.ZipInfo], None] = lambda info: None) -> Path:
    """A zip of these files under these very names; ``change`` is done to the entry of the last."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, (name, content) in enumerate(files.items(), 1):
            info = zipfile.ZipInfo("x")
            info.filename = info.orig_filename = name
            if number == len(files):
                change(info)
            archive.writestr(info, content)
    return path


def tarred(path: Path, files: Mapping[str, bytes], change: Callable[[tarfile.TarInfo], None] = lambda info: None) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for number, (name, content) in enumerate(files.items(), 1):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if number == len(files):
                change(info)
            tar.addfile(info, io.BytesIO(content))
    return path


MAKERS: dict[str, Callable[..., Path]] = {"zip": zipped, "tar.gz": tarred}


def refused(path: Path, words: str, kind: type[TlxError] = InvalidFile) -> None:
    """The file is refused, nothing of it is left, and nothing was written where it should not be."""
    sentinel = path.parent / "sentinel"
    sentinel.write_text("untouched", encoding="utf-8")
    before = tree(path.parent)
    with pytest.raises(kind, match=words) as error:
        open_bundle(path)
    assert str(path) in error.value.message
    assert error.value.hint
    assert tree(path.parent) == before
    assert not [found for found in (cache_folder() / "bundles").glob("*") if found.name.startswith(".")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name",
    ["../sentinel", "golden/../../sentinel", "/tmp/sentinel", "//host/share", "a\\..\\b", "C:evil", "./x", "a//b", "..", "x" * 300, "a."],
)
def test_a_path_that_leaves_the_folder_or_has_two_readings(tiny: Path, tmp_path: Path, kind: str, name: str) -> None:
    refused(MAKERS[kind](tmp_path / f"a.{kind}", tree(tiny) | {name: b"evil"}), "holds the path")


def test_a_name_with_nul_or_a_line_break(tiny: Path, tmp_path: Path) -> None:
    for number, name in enumerate(["labels.txt\0.png", "a\nb"]):
        refused(zipped(tmp_path / f"{number}.zip", tree(tiny) | {name: b""}), "holds the path")
    refused(tarred(tmp_path / "b.tar.gz", tree(tiny) | {"a\nb": b""}), "holds the path")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFBLK, stat.S_IFSOCK], ids=stat.filemode)
def test_links_and_devices(tiny: Path, tmp_path: Path, kind: str, mode: int) -> None:
    types = {stat.S_IFLNK: tarfile.SYMTYPE, stat.S_IFCHR: tarfile.CHRTYPE, stat.S_IFIFO: tarfile.FIFOTYPE, stat.S_IFBLK: tarfile.BLKTYPE}

    def as_zip(info: zipfile.ZipInfo) -> None:
        info.external_attr = (mode | 0o777) << 16

    def as_tar(info: tarfile.TarInfo) -> None:
        info.type, info.linkname, info.size = types.get(mode, tarfile.LNKTYPE), "../sentinel", 0  # a tar has no sockets, but hard links

    refused(MAKERS[kind](tmp_path / f"a.{kind}", tree(tiny) | {"link": b"/etc/passwd"}, as_zip if kind == "zip" else as_tar), "link")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "names", [("LABELS.TXT",), ("Golden/x",), ("golden",), ("labels.txt/x",), ("caf\u00e9", "cafe\u0301"), ("stra\u00dfe", "STRASSE")]
)
def test_names_that_are_one_on_some_systems(tiny: Path, tmp_path: Path, kind: str, names: tuple[str, ...]) -> None:
    refused(MAKERS[kind](tmp_path / f"a.{kind}", tree(tiny) | dict.fromkeys(names, b"")), "the same name on some systems")


def test_two_files_of_one_name(tiny: Path, tmp_path: Path) -> None:
    path = packed(tiny, tmp_path / "a.zip")
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model.fp32.onnx", b"another")
    refused(path, "model.fp32.onnx")
    path = tmp_path / "b.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name in [*tree(tiny), "model.fp32.onnx"]:
            tar.add(tiny / name, name)
    refused(path, "model.fp32.onnx")


@pytest.mark.parametrize("kind", KINDS)
def test_a_bomb_of_zeros(tiny: Path, tmp_path: Path, kind: str) -> None:
    def deflated(info: zipfile.ZipInfo) -> None:
        info.compress_type = zipfile.ZIP_DEFLATED

    bomb = tree(tiny) | {"zeros": bytes(4 * FREE_BYTES)}
    path = zipped(tmp_path / "a.zip", bomb, deflated) if kind == "zip" else tarred(tmp_path / "a.tar.gz", bomb)
    assert path.stat().st_size < FREE_BYTES / 20
    refused(path, "more than")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """As many files as an archive may hold, for a test that is not to write thousands."""
    monkeypatch.setattr(bundle_archive, "MOST_FILES", 50)
    return 50


def test_a_bomb_of_many_small_files(tiny: Path, tmp_path: Path, few: int) -> None:
    many = tree(tiny) | {f"golden/{number}": b"" for number in range(few)}
    refused(zipped(tmp_path / "a.zip", many), f"more than {few} files")


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE])
def test_a_bomb_of_many_headers(tmp_path: Path, few: int, kind: bytes) -> None:
    header = tarfile.TarInfo("again")
    header.type = kind
    with gzip.open(tmp_path / "a.tar.gz", "wb", 1) as out:
        for number in range(few + 1):
            header.name = f"{number}"
            out.write(header.tobuf(tarfile.USTAR_FORMAT))
    refused(tmp_path / "a.tar.gz", f"more than {few} files")


def test_a_bomb_in_a_header(tmp_path: Path) -> None:
    """A long name, which readers take into memory whole, of more than any limit."""
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 8 * 10**9
    with gzip.open(tmp_path / "a.tar.gz", "wb") as out:
        out.write(header.tobuf(tarfile.GNU_FORMAT) + bytes(2**21))
    refused(tmp_path / "a.tar.gz", "too long")


def test_a_list_of_contents_that_would_fill_the_memory(tiny: Path, tmp_path: Path) -> None:
    path = packed(tiny, tmp_path / "a.zip")
    content = bytearray(path.read_bytes())
    end = content.rindex(b"PK\x05\x06")
    struct.pack_into("<I", content, end + 12, 10**9)
    path.write_bytes(content)
    refused(path, "lists its files in")
    path.write_bytes(content[:end] + b"PK\x06\x07" + bytes(16) + content[end:])
    refused(path, "65,535 files")


@pytest.mark.parametrize("size", [0, 3, 10**6, 2**31])
def test_a_size_that_is_not_true(tiny: Path, tmp_path: Path, size: int) -> None:
    """In the zip's list, where it is read from, and in the header before the file."""
    path = packed(tiny, tmp_path / "a.zip")
    content = bytearray(path.read_bytes())
    name = b"model.fp32.onnx"
    local, listed = content.index(name) - 30, content.rindex(name) - 46
    for place in (local + 18, local + 22, listed + 20, listed + 24):
        struct.pack_into("<I", content, place, size)
    path.write_bytes(content)
    refused(path, "cannot be read|more than|another length")


@pytest.mark.parametrize("size", [-1, -512, -(2**40), 2**40])
def test_a_negative_or_huge_size_in_a_tar(tiny: Path, tmp_path: Path, size: int) -> None:
    info = tarfile.TarInfo("labels.txt")
    header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = (b"\xff" if size < 0 else b"\x80") + (size % 2**88).to_bytes(11, "big")  # base 256, as GNU tar has it
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    with gzip.open(tmp_path / "a.tar.gz", "wb") as out:
        out.write(bytes(header) + bytes(1024))
    refused(tmp_path / "a.tar.gz", "bytes|cannot be read|size")


def test_an_encrypted_file(tiny: Path, tmp_path: Path) -> None:
    path = packed(tiny, tmp_path / "a.zip")
    content = bytearray(path.read_bytes())
    listed = content.rindex(b"PK\x01\x02")
    content[listed + 8] |= 1
    path.write_bytes(content)
    refused(path, "encrypted")


def test_another_compression(tiny: Path, tmp_path: Path) -> None:
    path = Path(packed(tiny, tmp_path / "a.zip"))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_LZMA) as archive:
        archive.writestr("lzma", bytes(100))
    refused(path, "compressed by method")


@pytest.mark.parametrize("kind", KINDS)
def test_no_manifest_at_the_top(tiny: Path, tmp_path: Path, kind: str) -> None:
    refused(MAKERS[kind](tmp_path / f"a.{kind}", {f"bundle/{name}": data for name, data in tree(tiny).items()}), "no manifest.json")
    refused(MAKERS[kind](tmp_path / f"b.{kind}", {"Manifest.json": b"{}"}), "no manifest.json")
    refused(MAKERS[kind](tmp_path / f"c.{kind}", {}), "no manifest.json")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", [b"", b"PK", b"not an archive", b"\x1f\x8b\x08", gzip.compress(b"not a tar", mtime=0), bytes(5000)])
def test_what_is_no_archive(tmp_path: Path, kind: str, content: bytes) -> None:
    (tmp_path / f"a.{kind}").write_bytes(content)
    refused(tmp_path / f"a.{kind}", "cannot be read|is not a zip|no manifest")


@pytest.mark.parametrize("kind", KINDS)
def test_half_of_an_archive(tiny: Path, tmp_path: Path, kind: str) -> None:
    path = packed(tiny, tmp_path / f"a.{kind}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(path, "cannot be read|is not a zip")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["model.fp16.onnx", "labels.txt", "golden/03.png", "MODEL_CARD.md"])
def test_a_manifest_that_lies_about_a_hash(copy: Path, tmp_path: Path, kind: str, name: str) -> None:
    (copy / name).write_bytes((copy / name).read_bytes() + b"\n")
    refused(packed(copy, tmp_path / f"a.{kind}"), f"hash {name}", VerificationFailed)


def test_a_file_that_the_manifest_does_not_know(copy: Path, tmp_path: Path) -> None:
    (copy / "runner.py").write_text("print('evil')", encoding="utf-8")
    refused(packed(copy, tmp_path / "a.zip"), "no other files", VerificationFailed)
    shutil.move(copy / "runner.py", copy / "model.int8.engine")  # built on a device, never packed
    refused(packed(copy, tmp_path / "b.zip"), "model.int8.engine", VerificationFailed)


def outside(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")


def beside(model: onnx.ModelProto) -> None:
    outside(model)
    model.graph.initializer[0].external_data[0].value = "labels.txt"


def in_a_branch(model: onnx.ModelProto) -> None:
    tensor = TensorProto(name="inner", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=tensor)], "inner", [], [])
    model.graph.node.append(helper.make_node("If", ["colour"], [], then_branch=inner, else_branch=inner))


@pytest.mark.parametrize("change", [outside, beside, in_a_branch])
def test_weights_outside_of_the_model(copy: Path, tmp_path: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(copy / "model.fp16.onnx")
    change(model)
    (copy / "model.fp16.onnx").write_bytes(model.SerializeToString())
    fix_hashes(copy)
    path = packed(copy, tmp_path / "a.zip")
    with pytest.raises(InvalidFile, match="external data"):
        open_bundle(path)


def test_a_manifest_that_is_far_too_long(copy: Path, tmp_path: Path) -> None:
    (copy / MANIFEST).write_bytes((copy / MANIFEST).read_bytes() + b" " * LARGEST_MANIFEST)
    with pytest.raises(InvalidFile, match="at most"):
        read_manifest(copy)


def test_a_bundle_that_is_too_large_for_a_file(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_archive, "MOST_BYTES", 1000)
    with pytest.raises(TlxError, match="may hold 1,000") as error:
        pack(tiny, tmp_path / "a.zip")
    assert "--out" in error.value.hint

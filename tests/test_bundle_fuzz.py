"""Any manifest or archive is read, or refused with a tlexport error, and nothing outside the folder changes."""

from __future__ import annotations

import gzip
import io
import json
import random
import shutil
import tarfile
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
from bundles import read, rewrite, tiny_bundle
from exports import tree
from hypothesis import given, settings
from hypothesis import strategies as st

from tlexport.bundle.archive import pack, unpack
from tlexport.bundle.manifest import MANIFEST, read_manifest
from tlexport.device.errors import DeviceError
from tlexport.device.golden import check_files
from tlexport.device.manifest import Bundle
from tlexport.errors import InvalidFile, TlxError
from tlexport.loading.open_bundle import open_bundle

EXAMPLES = settings(max_examples=60)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("tiny") / "colours")


@pytest.fixture(scope="module")
def archives(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundle in each kind of file."""
    folder = tmp_path_factory.mktemp("archives")
    for kind in ("zip", "tar.gz"):
        pack(tiny, folder / f"a.{kind}")
    return folder


def unpacked(content: bytes, kind: str) -> dict[str, bytes] | None:
    """The unpacked content of an archive, or None if it is refused. Fails if anything outside the folder changes."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        (root / "sentinel").write_text("untouched", encoding="utf-8")
        archive, folder = root / f"a.{kind}", root / "inner" / "folder"
        archive.write_bytes(content)
        folder.mkdir(parents=True)
        try:
            unpack(archive, folder)
        except InvalidFile as error:
            assert str(archive) in error.message
            return None
        finally:
            assert {p.relative_to(root).as_posix() for p in root.rglob("*") if not p.is_relative_to(folder)} == {
                "sentinel",
                archive.name,
                "inner",
            }
            assert (root / "sentinel").read_text(encoding="utf-8") == "untouched"
            assert not any(path.is_symlink() for path in root.rglob("*"))
        return tree(folder)


# --- archives ---------------------------------------------------------------------------------------------------------

PARTS = st.sampled_from(
    ["..", ".", "", "a", "A", "golden", "manifest.json", "/", "\\", "C:", "\0", "con", "a ", "\u00e9", "e\u0301", "\ud800", "~"]
)
NAMES = st.lists(PARTS, min_size=1, max_size=4).map("/".join) | st.text(max_size=8)
TYPES = st.sampled_from([*tarfile.SUPPORTED_TYPES, b"\0", b"9", b"x"[:1]])


@EXAMPLES
@given(st.lists(st.tuples(NAMES, st.binary(max_size=20), st.integers(0, 2**32 - 1)), max_size=5))
def test_no_zip_gets_out_of_its_folder(files: list[tuple[str, bytes, int]]) -> None:
    content, files = io.BytesIO(), [(name.replace("\ud800", "?"), data, attributes) for name, data, attributes in files]
    with warnings.catch_warnings(), zipfile.ZipFile(content, "w") as archive:
        warnings.simplefilter("ignore")  # it detects duplicate names too
        for name, data, attributes in [(MANIFEST, b"{}", 0), *files]:
            info = zipfile.ZipInfo("x")
            info.filename = info.orig_filename = name
            info.external_attr = attributes
            archive.writestr(info, data)
    found = unpacked(content.getvalue(), "zip")
    assert found is None or found.items() <= {MANIFEST: b"{}", **{name: data for name, data, _ in files}}.items()


@EXAMPLES
@given(
    st.lists(st.tuples(NAMES, st.binary(max_size=20), TYPES, NAMES, st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])), max_size=5)
)
def test_no_tar_gets_out_of_its_folder(files: list[tuple[str, bytes, bytes, str, int]]) -> None:
    content = io.BytesIO()
    with gzip.GzipFile(fileobj=content, mode="wb") as out:
        for name, data, kind, link, form in [(MANIFEST, b"{}", b"0", "", tarfile.GNU_FORMAT), *files]:
            info = tarfile.TarInfo(name.replace("\ud800", "?"))
            info.size, info.type, info.linkname = len(data), kind, link.replace("\ud800", "?")
            out.write(info.tobuf(form))
            out.write(data + bytes(-len(data) % 512))
        out.write(bytes(1024))
    unpacked(content.getvalue(), "tar.gz")


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
@EXAMPLES
@given(seed=st.integers(0, 2**32))
def test_damaged_archives(archives: Path, tiny: Path, kind: str, seed: int) -> None:
    """Every file with a hash in the manifest is unchanged, or the archive is refused. Only the signature protects the manifest.

    A tar is damaged before compression, since gzip's checksum would detect every damage.
    """
    draw = random.Random(seed)
    packed = (archives / f"a.{kind}").read_bytes()
    content = bytearray(packed if kind == "zip" else gzip.decompress(packed))
    for _ in range(draw.choice([1, 1, 3, 30])):
        place = draw.randrange(len(content))
        if draw.random() < 0.2:
            del content[place : place + draw.randrange(1, 600)]
        else:
            content[place] = draw.choice([0, 255, 0x80, 0x2F, 0x2E, draw.randrange(256)])
    found = unpacked(bytes(content) if kind == "zip" else gzip.compress(bytes(content), 1), kind)
    if found is None or {**found, MANIFEST: b""} == {**tree(tiny), MANIFEST: b""}:
        return
    with tempfile.TemporaryDirectory() as place:  # it could be unpacked, and is another: that must be seen
        path = Path(place) / f"a.{kind}"
        path.write_bytes(bytes(content) if kind == "zip" else gzip.compress(bytes(content), 1))
        with pytest.raises(TlxError):
            open_bundle(path)


# --- manifests --------------------------------------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=12) | st.sampled_from(
    ["../../etc/passwd", "/etc/passwd", "model.fp32.onnx", "golden", "", "0" * 64, "fp16", 1e999]
)  # fmt: skip
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=6
)


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path to a value in plain data."""
    inside = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path, *(found for key, value in inside for found in places(value, (*path, key)))]


@EXAMPLES
@given(data=st.data())
def test_changed_manifests(tiny: Path, data: st.DataObject) -> None:
    manifest = read(tiny)
    for _ in range(data.draw(st.integers(1, 3))):
        *parents, last = data.draw(st.sampled_from(places(manifest)[1:]))
        holder = manifest
        for key in parents:
            holder = holder[key]
        action = data.draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if action == "remove":
            del holder[last]
        elif action == "add" and isinstance(holder, dict):
            holder[data.draw(st.text(max_size=20) | st.just("../x"))] = data.draw(VALUES)
        else:
            holder[last] = data.draw(VALUES)
    read_or_refused(tiny, json.dumps(manifest).encode())


@EXAMPLES
@given(st.binary(max_size=50) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_what_is_no_manifest(tiny: Path, content: bytes) -> None:
    read_or_refused(tiny, content)


def read_or_refused(tiny: Path, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / MANIFEST).write_bytes(content)
        try:
            manifest = read_manifest(folder)
        except InvalidFile as error:
            assert str(folder) in error.message
            return
        for name in [*manifest.files, *(model.file for model in manifest.models), *manifest.golden.images]:
            assert (folder / name).resolve().is_relative_to(folder.resolve())
        copy = Path(shutil.copytree(tiny, folder / "copy"))
        (copy / MANIFEST).write_bytes(content)
        try:
            opened = Bundle(copy)
        except DeviceError:
            return
        checks = check_files(opened)
        assert len(checks) == len(manifest.files) + 2


def test_a_changed_manifest_is_often_read(tiny: Path, tmp_path: Path) -> None:
    """So that the tests above are known to look at more than refusals."""
    copy = Path(shutil.copytree(tiny, tmp_path / "copy"))
    for key in ("name", "target", "checkpoint_sha256"):
        rewrite(copy, read(tiny) | {key: "another"})
        assert getattr(read_manifest(copy), key) == "another"

"""Readers of untrusted files: InvalidFile names any fault, nothing hangs, and memory and time are bounded."""

from __future__ import annotations

import ast
import json
import math
import os
import tomllib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import ROOT
from hypothesis import given
from hypothesis import strategies as st

from tlexport.bundle.manifest import MANIFEST
from tlexport.errors import InvalidFile
from tlexport.hardware.toml_lines import KeyLines, statements
from tlexport.onnx_model.file import check_onnx_file, read_onnx
from tlexport.storage.untrusted import (
    DEEPEST,
    parse_toml,
    read_json,
    read_npy,
    read_object,
    read_safetensors,
    read_toml,
    read_torch,
    toml_statements,
)

JSON = {
    "empty": b"",
    "cut off": b'{"a": ',
    "long integer": b'{"a": ' + b"9" * 5000 + b"}",
    "beyond 64 bits": b'{"a": 123456789012345678901234567890}',
    "long exponent": b'{"a": 1e999}',
    "NaN": b'{"a": NaN}',
    "Infinity": b"[-Infinity]",
    "deep array": b"[" * 200_000,
    "deep, closed": b'{"a": ' + b"[" * (DEEPEST + 5) + b"]" * (DEEPEST + 5) + b"}",
    "deep object": b'{"a": ' * 100_000,
    "Latin-1": b'{"caf\xe9": 1}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "NUL": b'{"a": 1}\0',
    "NUL in a text": b'{"a": "\\u0000"}',
    "lone surrogate": b'{"a": ["\\ud800"]}',
    "lone surrogate as key": b'{"\\uDFFF": 1}',
    "raw surrogate": b'{"a": "\xed\xa0\x80"}',
    "same key twice": b'{"a": 1, "b": 2, "a": 3}',
    "two values": b"{} {}",
}
TOML = {
    "dotted key": b"a." * 20_000 + b"a = 1",
    "dotted key with quotes": b'"a" . ' * 20_000 + b"a = 1",
    "dotted key in an inline table": b"x = {" + b"a." * 20_000 + b"a = 1}",
    "dotted header": b"[" + b"a." * 20_000 + b"a]",
    "long integer": b"a = " + b"9" * 5000,
    "long hexadecimal integer": b"a = 0x" + b"f" * 5000,
    "deep array": b"a = " + b"[" * 100_000,
    "deep, closed": b"a = " + b"[" * (DEEPEST + 5) + b"]" * (DEEPEST + 5),
    "deep inline table": b"a = " + b"{a = " * 50_000,
    "NUL": b"a = 1\0",
    "NUL in a text": b'a = "\\u0000"',
    "lone surrogate": b'a = "\\ud800"',
    "same key twice": b"a = 1\na = 2",
    "UTF-16": "a = 1".encode("utf-16"),
    "quotes without end": b'a = """' + b'\\"""' * 200_000 + b"\\",
    "quotes without end on a line": b'a = "' + b'\\"' * 400_000,
    "a long word": b"a" * 900_000 + b" = ",
    "too large": b"#" * 1_000_001,
    "an odd date": b"a = 2026-13-45",
}
NPY_HEADER = b"\x93NUMPY\x01\x00"


def saved(value: Any) -> bytes:
    stream = BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode("latin-1") + b"\n"
    return NPY_HEADER + len(text).to_bytes(2, "little") + text + data


def archive() -> bytes:
    stream = BytesIO()
    np.savez(stream, np.zeros(3))
    return stream.getvalue()


ARRAYS = {
    "empty": b"",
    "cut off": NPY_HEADER + b"\x76",
    "claims a terabyte": npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000,), }", b"12"),
    "claims more than there is": npy("{'descr': '|u1', 'fortran_order': False, 'shape': (" + "9" * 4000 + ",), }"),
    "no dictionary": npy("{'descr': '|u1', "),
    "an open quote": npy("{'descr': '|u1"),
    "a program": npy("__import__('os').system('true')"),
    "objects": npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"\x80\x04N."),
    "odd type": npy("{'descr': [('a', '|u1', -5)], 'fortran_order': False, 'shape': (1,), }", b"1"),
    "deep": npy("(" * 5000),
    "an archive": archive(),
    "half an archive": archive()[:60],
    "a pickle": b"\x80\x04K\x01.",
}
TENSORS = {
    "empty": b"",
    "long header": b"\xff" * 8 + b"{}",
    "no JSON": (4).to_bytes(8, "little") + b"nope",
    "beyond its end": (64).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'.ljust(64),
    "unknown type": (64).to_bytes(8, "little") + b'{"a":{"dtype":"X99","shape":[4],"data_offsets":[0,16]}}'.ljust(64) + bytes(16),
    "deep": (20000).to_bytes(8, "little") + b"[" * 20000,
}
STATES = {
    "empty": b"",
    "text": b"hello\n",
    "half": saved({"a": torch.zeros(100)})[:300],
    "zeros": bytes(300),
    "an empty archive": b"PK\x05\x06" + bytes(18),
    "more than tensors": saved({"a": Path("x")}),
    "old pickle": b"\x80\x02}q\x00.",
    "recursive": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
}
MODELS = {"text": b"hello", "cut off": b"\x08\x0a\x3a\xff\xff\xff\xff\x07", "deep": b"\x0b" * 100_000, "json": b'{"location": 1}'}
READERS: dict[str, tuple[Callable[[Path], Any], dict[str, bytes]]] = {
    "json": (read_json, JSON),
    "toml": (read_toml, TOML),
    "npy": (read_npy, ARRAYS),
    "safetensors": (read_safetensors, TENSORS),
    "pth": (lambda path: read_torch(path, "weights"), STATES),
    "onnx": (read_onnx, MODELS),
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, (_, files) in READERS.items() for name in files])
def test_a_hostile_file_is_refused_with_its_name(kind: str, name: str, tmp_path: Path) -> None:
    read, files = READERS[kind]
    path = tmp_path / f"file.{kind}"
    path.write_bytes(files[name])
    with pytest.raises(InvalidFile) as caught:
        read(path)
    assert str(path) in caught.value.message
    assert len(caught.value.message) < 1000


@pytest.mark.parametrize("kind", READERS)
def test_only_a_regular_file_is_read(kind: str, tmp_path: Path) -> None:
    """A FIFO would block for ever, /dev/zero would fill the memory."""
    read = READERS[kind][0]
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("fifo", "zero", "loop", "nowhere", ".", "x" * 300, "nul\0"):
        with pytest.raises(InvalidFile, match=r"regular file|does not exist|cannot be read|too long"):
            read(tmp_path / name)
    with pytest.raises(InvalidFile):
        check_onnx_file(tmp_path / "fifo")


def test_what_is_valid_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for text, value in {'\ufeff{"a": [1, 2.5, null, true, "é\\ud83d\\ude00"]}': {"a": [1, 2.5, None, True, "é😀"]}, "[]": []}.items():
        path.write_text(text, encoding="utf-8")
        assert read_json(path) == value
    with pytest.raises(InvalidFile, match="a JSON list, an object was expected"):
        read_object(path)
    with pytest.raises(InvalidFile, match="larger than 1 bytes"):
        read_json(path, largest=1)
    path.write_text(
        '\ufeff# a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r\r\na = "a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r"\r\nb.c = 1\r\n', encoding="utf-8"
    )
    assert read_toml(path) == {"a": "a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r", "b": {"c": 1}}
    np.save(tmp_path / "a.npy", np.arange(6).reshape(2, 3))
    assert read_npy(tmp_path / "a.npy").tolist() == [[0, 1, 2], [3, 4, 5]]
    path.write_bytes(saved({"a": torch.ones(2)}))
    assert read_torch(path, "weights")["a"].tolist() == [1, 1]


# A text split into statements: the parser's result for each, which together give the text.
values = st.sampled_from(
    ['"a # ]"', "'\"'", '"""\n[x]\n\\""" """', "'''\n#\n'''", "[\n1, # ]\n2]", "{a = [1]}", "1", '"\\""', '""""a"""""']
)
lines = st.lists(st.one_of(values.map(lambda v: f"KEY = {v} # [\n"), st.sampled_from(["\n", "# '''\n", '[TABLE] # "\n'])), max_size=12)


@given(lines)
def test_statements_are_the_parts_of_a_text(parts: list[str]) -> None:
    numbered = [part.replace("KEY", f"k{i}").replace("TABLE", f"t{i}") for i, part in enumerate(parts)]
    text = "".join(numbered)
    assert tomllib.loads(text) == parse_toml(text, "it fails")
    assert list(toml_statements(text)) == numbered
    assert [statement.line for statement in statements(text)] == [1 + "".join(numbered[:i]).count("\n") for i in range(len(numbered))]


def test_a_long_list_costs_no_more_than_its_length() -> None:
    """Each line would be parsed with all lines before it if statements were found by trying."""
    assert KeyLines("a = [\n" + "1,\n" * 100_000 + "]\nb = 1\n").of(("b",)) == 100_003


def test_records_are_read_by_them(bundle: Path, tmp_path: Path) -> None:
    """Files beside a record: here the manifest, through its record."""
    from tlexport.bundle.manifest import read_manifest

    text = (bundle / MANIFEST).read_text(encoding="utf-8")
    assert math.isfinite(json.loads(text)["models"][0]["top1"])
    for old, new in (('"format"', '"format": 2, "format"'), ("{", "{" + '"a":' + "[" * 100_000), ("{", '{"x": ' + "1" * 5000 + ", ")):
        (tmp_path / MANIFEST).write_text(text.replace(old, new, 1), encoding="utf-8")
        with pytest.raises(InvalidFile, match=MANIFEST):
            read_manifest(tmp_path)


# Functions that parse a file; anywhere else, a parser's exceptions would have to be mapped once more.
PARSERS = {"json.load", "json.loads", "tomllib.load", "tomllib.loads", "np.load", "torch.load", "onnx.load", "onnx.load_model", "load_file"}
ELSEWHERE = {
    "hardware/toml_lines.py": "statements of a text that was parsed before",
    "hardware/calibration_tables.py": "a text that was parsed before",
    "estimate/graph.py": "what ONNX Runtime has just written",
    "estimate/timing.py": "likewise",
    "bench/layers.py": "likewise",
    "remote/on_board.py": "runs on the board, alone",
    "python/result.py": "what this package has just written",
}


def test_nobody_else_parses() -> None:
    found = set()
    for path in sorted((ROOT / "tlexport").rglob("*.py")):
        name = path.relative_to(ROOT / "tlexport").as_posix()
        if name.startswith("device/") or name in (
            "storage/untrusted.py",
            "onnx_model/file.py",
            "hardware/target.py",
            "cli/profiles.py",
            "hardware/profile_place.py",
        ):
            continue  # device/ is standalone; the last three have a load_file of their own
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in PARSERS:
                found.add(name)
    assert found - set(ELSEWHERE) == set()

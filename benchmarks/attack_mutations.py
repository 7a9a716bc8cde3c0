"""Mutations of a file: of bytes, JSON or TOML, and replacement by something that is not a regular file."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

LONG = "9" * 5000  # an integer that Python's int() refuses
ESCAPES = "\x1b]0;owned\x07\x1b[31m"
PLACE = "@LONG@"
VALUES: tuple[Any, ...] = (
    PLACE, None, True, -1, 0, 2**63, 10**30, 1e308, float("nan"), float("inf"), "", [], {}, [[]], [None], "a\nb", ESCAPES, "\ud800",
    "../../../etc/passwd", "/dev/zero", "x" * 100_000, "NaN", "\0", {"a": {"b": {"c": []}}}, list(range(10_000)),
)  # fmt: skip


def spoiled_bytes(data: bytes, draw: random.Random) -> bytes:
    """Truncated, overwritten, repeated, empty, or unrelated bytes."""
    at, size = draw.randrange(len(data) + 1), draw.randrange(1, 64)
    ways: tuple[Callable[[], bytes], ...] = (
        lambda: data[:at],
        lambda: data[at:],
        lambda: data[:at] + draw.randbytes(size) + data[at + size :],
        lambda: data[:at] + draw.randbytes(size) + data[at:],
        lambda: data[:100] + draw.randbytes(8) + data[108:],
        lambda: data[: at % 4096] + b"\xff" * size + data[at % 4096 + size :],
        lambda: data + data,
        lambda: b"",
        lambda: draw.randbytes(1000),
        lambda: b"\0" * 100_000,
        lambda: b"PK\x03\x04" + data[4:],
        lambda: b"\xff" * 8 + data[8:],
    )
    return draw.choice(ways)()


def spoiled_json(text: str, draw: random.Random) -> bytes:
    """JSON with one value replaced, removed or duplicated; or entirely hostile text."""
    whole: tuple[Callable[[], bytes], ...] = (
        lambda: b"[" * 200_000,
        lambda: b'{"a":' * 100_000,
        lambda: LONG.encode(),
        lambda: b"NaN",
        lambda: b"null",
        lambda: b"[]",
        lambda: b"{}",
        lambda: b'"' + b"a" * 1_000_000 + b'"',
        lambda: "\ufeff".encode() + text.encode(),
        lambda: text.encode("utf-16"),
        lambda: b"\xff\xfe" + text.encode(),
        lambda: text.encode()[: draw.randrange(len(text))],
        lambda: text.rstrip().encode() + b"," * 10,
    )
    if draw.random() < 0.3:
        return draw.choice(whole)()
    data = json.loads(text)
    holder, key = draw.choice(_places(data))
    if isinstance(holder, dict) and draw.random() < 0.2:
        del holder[key]
    elif isinstance(holder, dict) and draw.random() < 0.1:
        holder[draw.choice([ESCAPES, "", "a.b", "__class__", "x" * 10_000])] = holder.pop(key)
    elif isinstance(holder, list) and draw.random() < 0.2:
        holder.append(holder[key])
    else:
        holder[key] = draw.choice(VALUES)
    return json.dumps(data).replace(f'"{PLACE}"', LONG).encode("utf-8", "surrogatepass")


def _places(data: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON value; only the first few items of long lists."""
    found: list[tuple[Any, Any]] = []
    if isinstance(data, dict):
        for key, value in data.items():
            found += [(data, key), *_places(value)]
    elif isinstance(data, list):
        for index, value in enumerate(data[:5]):
            found += [(data, index), *_places(value)]
    return found


TOML: tuple[Callable[[], str], ...] = (
    lambda: ".".join("a" * 20_000) + " = 1\n",
    lambda: "\n".join(".".join(f"k{row}x{column}" for column in range(100)) + " = 1" for row in range(80)),
    lambda: "a = " + "[" * 5000,
    lambda: "a = " + "{b = " * 2000,
    lambda: f"a = {LONG}\n",
    lambda: f"format = {LONG}\n",
    lambda: "a = nan\n",
    lambda: "a = 1\na = 2\n",
    lambda: "[a]\n" * 1000,
    lambda: "a = 2026-13-45\n",
    lambda: 'a = "\\ud800"\n',
    lambda: f'name = "{"x" * 100_000}"\n',
    lambda: "[[a]]\n" * 20_000,
    lambda: "\0",
    lambda: 'a = """' + "x\n" * 1000,
    lambda: "",
)


def spoiled_toml(text: str, draw: random.Random) -> bytes:
    """TOML with one line removed, duplicated or changed; or entirely hostile text."""
    if draw.random() < 0.5:
        return draw.choice(TOML)().encode()
    lines = text.splitlines()
    chosen = draw.choice([number for number, line in enumerate(lines) if "=" in line])
    key = lines[chosen].split("=")[0]
    value = draw.choice([LONG, "nan", "-1", "inf", '"\\u001b]0;x\\u0007"', "[]", "{}", "true", '"../x"', '"/dev/zero"', '"a\\nb"', "1e400"])
    lines[chosen] = draw.choice(["", lines[chosen] + "\n" + lines[chosen], f"{key} = {value}"])
    return "\n".join(lines).encode()


def unusual(path: Path, draw: random.Random) -> str:
    """Create something at ``path`` that is not a regular file, and return its kind."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    kind = draw.choice(["fifo", "/dev/zero", "/dev/urandom", "/dev/full", "loop", "folder", "socket", "nowhere", "/proc/self/mem"])
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made, tempfile.TemporaryDirectory() as short:  # a socket address has at most 107 bytes
            made.bind(f"{short}/s")
            Path(short, "s").rename(path)
    else:
        path.symlink_to({"loop": path.name, "nowhere": "nowhere/at/all"}.get(kind, kind))
    return kind


def spoil(path: Path, draw: random.Random) -> None:
    """The path, whatever kind of file it is."""
    if draw.random() < 0.15:
        unusual(path, draw)
    elif path.suffix == ".json":
        path.write_bytes(spoiled_json(path.read_text(encoding="utf-8"), draw))
    elif path.suffix == ".toml":
        path.write_bytes(spoiled_toml(path.read_text(encoding="utf-8"), draw))
    else:
        path.write_bytes(spoiled_bytes(path.read_bytes(), draw))

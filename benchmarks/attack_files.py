"""Hostile images, tables, profiles and measurements for attack.py. HOSTILE lists all groups of hostile files."""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from attack_bundles import archives, bundles
from attack_ground import FEW, Case, Failure, Ground
from attack_models import checkpoints, onnx_files
from attack_mutations import ESCAPES, LONG, spoil, spoiled_bytes, unusual
from PIL import Image


def odd_image(draw: random.Random) -> tuple[str, bytes]:
    """A file name, and bytes that may be an image."""
    suffix, kind = draw.choice(
        [(".png", "PNG"), (".jpg", "JPEG"), (".webp", "WEBP"), (".gif", "GIF"), (".tif", "TIFF"), (".bmp", "BMP"), (".jpg", "MPO")]
    )
    stream = io.BytesIO()
    image = Image.fromarray(np.frombuffer(draw.randbytes(40 * 24 * 3), np.uint8).reshape(24, 40, 3))
    image.save(stream, kind, **({"save_all": True, "append_images": [image]} if kind == "MPO" else {}))
    data = stream.getvalue()
    way = draw.choice(["spoil", "spoil", "whole", "bomb", "other suffix"])
    if way == "spoil":
        data = spoiled_bytes(data, draw)
    if way == "bomb":
        bomb = io.BytesIO()
        Image.new("1", (30_000, 30_000)).save(bomb, "PNG")
        suffix, data = ".png", bomb.getvalue()
    if way == "other suffix":
        suffix = draw.choice([".png", ".jpg", ".heic", ".svg", ".txt", "", ".PNG"])
    return draw.choice(["x", "a b", "x\ny", ESCAPES.replace("/", ""), "é", "-x", "._x", "x" * 240]) + suffix, data


def images(case: Case, ground: Ground, draw: random.Random) -> None:
    """Corrupt images, alone and in a folder of valid ones."""
    if draw.random() < 0.5:
        name, data = odd_image(draw)
        path = case.work / name
        path.write_bytes(data)
        if draw.random() < 0.1:
            unusual(path, draw)
        case.tlx("predict", draw.choice([ground.bundle, ground.checkpoint]), *FEW, "--", path)
        return
    folder = Path(shutil.copytree(ground.data, case.work / "photos"))
    for _ in range(draw.choice([1, 3, 20])):
        name, data = odd_image(draw)
        path = folder / draw.choice(["1", "2", f"class{ESCAPES.replace('/', '')}", "new\nline"]) / name
        path.parent.mkdir(exist_ok=True)
        if path.is_symlink() or path.exists():
            continue
        path.write_bytes(data)
        if draw.random() < 0.2:
            unusual(path, draw)
    if draw.random() < 0.5:
        case.tlx("evaluate", ground.checkpoint, folder, *FEW)
    else:
        case.tlx(*[str(folder) if part == str(ground.data) else part for part in ground.training], "--epochs", "1", "-o", case.work / "run")


def tables(case: Case, ground: Ground, draw: random.Random) -> None:
    """CSV and JSONL tables of images."""
    rows = [(str(path), path.parent.name) for path in sorted(ground.data.rglob("*.png"))]
    suffix = draw.choice([".csv", ".jsonl"])
    table = case.work / f"table{suffix}"
    odd = draw.choice(
        ["/dev/zero", "../../../etc/passwd", "", "\0", "x" * 5000, str(case.work), ESCAPES, "http://localhost/x.png", "~", LONG]
    )
    label = draw.choice([ESCAPES, "a\nb", "", "x" * 200_000, "\0", "é", LONG, " 1 ", "../1"])
    place = draw.randrange(len(rows))
    rows[place] = (draw.choice([odd, rows[place][0], rows[place][0]]), draw.choice([label, rows[place][1]]))
    if suffix == ".csv":
        lines = ["path,label", *(f'"{path}","{name}"' for path, name in rows)]
        junk = ['"', "a,b,c,d,e", "," * 100_000, '"' + "x" * 200_000 + '"', "\0", "path", '"a"b"c",d']
    else:
        lines = [json.dumps({"path": path, "label": name}) for path, name in rows]
        junk = [
            "[" * 200_000,
            LONG,
            "null",
            "{}",
            '{"path": 1, "label": ' + LONG + "}",
            '{"path": "a", "path": "b"}',
            "{",
            '"x"',
            '{"path": "\\ud800", "label": "1"}',
        ]
    if draw.random() < 0.3:
        lines.insert(draw.randrange(len(lines)), draw.choice(junk))
    data = "\n".join(lines).encode("utf-8", "surrogatepass")
    if draw.random() < 0.3:
        data = draw.choice(
            [
                data.decode("utf-8", "replace").encode("utf-16"),
                b"\xef\xbb\xbf" + data,
                spoiled_bytes(data, draw),
                data.replace(b"\n", b"\r"),
            ]
        )
    table.write_bytes(data)
    if draw.random() < 0.05:
        unusual(table, draw)
    if draw.random() < 0.5:
        case.tlx("evaluate", ground.checkpoint, table, *FEW)
    else:
        case.tlx(*[str(table) if part == str(ground.data) else part for part in ground.training], "--epochs", "1", "-o", case.work / "run")


def profiles(case: Case, ground: Ground, draw: random.Random) -> None:
    """TOML profiles and recipes, and calibration files of a profile, with matching hashes."""
    folder = Path(shutil.copytree(ground.profiles, case.work / "profiles"))
    profile, model = folder / "mine.toml", next(folder.glob("*.json"))
    way = draw.choice(["recipe", "profile", "profile", "extends", "calibration"])
    case.name += f" {way}"
    if way == "recipe":
        recipe = Path(shutil.copy(ground.checkpoint / "recipe.toml", case.work / "recipe.toml"))
        spoil(recipe, draw)
        case.tlx(*ground.training, "--recipe", recipe, "--epochs", "1", "-o", case.work / "run")
        return
    if way == "profile":
        spoil(profile, draw)
    elif way == "extends":
        text = profile.read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if not line.startswith("extends")]
        what = draw.choice(
            [
                "mine",
                "../profiles/mine",
                "/dev/zero",
                "",
                "other",
                ESCAPES.replace("\x1b", "\\u001b").replace("\x07", "\\u0007"),
                "x" * 5000,
            ]
        )
        (folder / "other.toml").write_text('extends = "mine"\n', encoding="utf-8")
        profile.write_text("\n".join([f'extends = "{what}"', *lines]), encoding="utf-8")
    else:
        before = hashlib.sha256(model.read_bytes()).hexdigest()
        spoil(model, draw)
        if model.is_file():
            after = hashlib.sha256(model.read_bytes()).hexdigest()
            profile.write_text(profile.read_text(encoding="utf-8").replace(before, after), encoding="utf-8")
    commands = (
        lambda: case.tlx("profiles", "check", profile),
        lambda: case.tlx("profiles", "show", "mine"),
        lambda: case.tlx("profiles", "list"),
        lambda: case.tlx("estimate", ground.bundle, "--target", profile),
        lambda: case.tlx("estimate", ground.bundle, "--all"),
        lambda: case.tlx("export", ground.checkpoint, "--target", profile, "--dry-run"),
    )
    for command in draw.sample(commands, 3):
        command()


def measurements(case: Case, ground: Ground, draw: random.Random) -> None:
    """Corrupt output of an earlier bench, for --against and for calibrating a profile."""
    earlier = Path(shutil.copy(ground.measurement, case.work / "earlier.json"))
    spoil(earlier, draw)
    if draw.random() < 0.5:
        shutil.copytree(ground.profiles, case.work / "profiles")
        case.tlx("profiles", "calibrate", "mine", "--from", earlier, "--what", ground.onnx)
    else:
        bench = ["bench", ground.onnx, "--runs", "3", "--seconds", "0", *FEW]
        case.tlx(*bench, "--against", earlier, "--report", case.work / "page.html")


Attack = Callable[[Case, Ground, random.Random], None]


def _group(name: str, one: Attack) -> Callable[[Ground, int, int], Iterator[tuple[str, Callable[[], list[Failure]]]]]:
    def attempt(ground: Ground, number: int, seed: int) -> list[Failure]:
        case = ground.case(name, number)
        one(case, ground, random.Random(f"{seed} {name} {number}"))
        case.no_files("after hostile files")
        return case.close()

    def tries(ground: Ground, count: int, seed: int) -> Iterator[tuple[str, Callable[[], list[Failure]]]]:
        for number in range(count):
            yield f"hostile {name}", lambda n=number: attempt(ground, n, seed)

    return tries


HOSTILE = {
    name: _group(name, one)
    for name, one in {
        "bundles": bundles,
        "archives": archives,
        "checkpoints": checkpoints,
        "onnx": onnx_files,
        "images": images,
        "tables": tables,
        "profiles": profiles,
        "measurements": measurements,
    }.items()
}

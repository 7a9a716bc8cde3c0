"""Hostile bundles, archives and checkpoints, for attack.py."""

from __future__ import annotations

import importlib.util
import io
import json
import marshal
import os
import pickle
import random
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from attack_ground import Case, Ended, Ground, digest
from attack_mutations import ESCAPES, LONG, spoiled_bytes, spoiled_json, unusual

RUNNER_SECONDS = 90
MODULES = ("numpy", "json", "onnxruntime", "PIL", "hashlib", "sitecustomize", "usercustomize", "argparse", "tlx/numpy", "tlx/extra", "os")


def planted(case: Case) -> str:
    """Python source that creates a marker file when executed."""
    return f"import os\nos.close(os.open({str(case.owned)!r}, os.O_CREAT | os.O_WRONLY))\n"


class Evil:
    """An object whose unpickling creates a marker folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, (str(self.path),))


def runner(case: Case, bundle: Path, *arguments: str | Path) -> Ended:
    """Run the bundle's own run.py."""
    command = [sys.executable, "run.py", *map(str, arguments)]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | case.env
    try:
        done = subprocess.run(command, cwd=bundle, env=env, capture_output=True, timeout=RUNNER_SECONDS, stdin=subprocess.DEVNULL)
        out, err = (text.decode("utf-8", "replace") for text in (done.stdout, done.stderr))
        ended = Ended(done.returncode, "", 0.0, out, err, 0)
    except subprocess.TimeoutExpired:
        ended = Ended(-9, "hang", RUNNER_SECONDS, "", "", 0)
    return case.judged(ended, f"python run.py {' '.join(map(str, arguments))}")


def rehash(bundle: Path) -> None:
    """Update every hash in the manifest to the current files, as a forger would."""
    path = bundle / "manifest.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["files"] = {name: digest(bundle / name) if (bundle / name).is_file() else found for name, found in data["files"].items()}
    for model in data["models"]:
        model["artifact"]["sha256"] = data["files"][model["file"]]
    path.write_text(json.dumps(data), encoding="utf-8")


def plant_bytecode(case: Case, bundle: Path, draw: random.Random) -> None:
    source = draw.choice(sorted((bundle / "tlx").glob("*.py")))
    cached = bundle / "tlx" / "__pycache__" / Path(importlib.util.cache_from_source(str(source))).name
    place = draw.choice([cached, source.with_suffix(".pyc"), bundle / "__pycache__" / cached.name, bundle / "numpy.pyc"])
    place.parent.mkdir(exist_ok=True)
    flags = draw.choice([1, 0b11, 0])  # 1: an unchecked hash
    code = marshal.dumps(compile(planted(case), str(source), "exec"))
    place.write_bytes(importlib.util.MAGIC_NUMBER + flags.to_bytes(4, "little") + b"\0" * 8 + code)


def plant_module(case: Case, bundle: Path, draw: random.Random) -> None:
    name = draw.choice(MODULES)
    path = bundle / f"{name}.py" if draw.random() < 0.6 else bundle / name / "__init__.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(planted(case), encoding="utf-8")


def plant_odd(case: Case, bundle: Path, draw: random.Random) -> None:
    """Put something unusual in place of a listed file, or under an unlisted name."""
    listed = sorted(path for path in bundle.rglob("*") if path.is_file() and path.name != "run.py")
    strange = [bundle / name for name in ("numpy.py", "x.engine", "x.timing.cache", "notes.txt", "tlx/x.py", "golden/08.png", "engines")]
    unusual(draw.choice(strange if draw.random() < 0.4 else listed), draw)


def plant_engine(case: Case, bundle: Path, draw: random.Random) -> None:
    name = draw.choice(["model.fp32.engine", "model.fp32.engine.json", "x.timing.cache", "engines/x.engine", ".hidden", "golden/x.npy"])
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_bytes(pickle.dumps(Evil(case.owned)))


def change_file(case: Case, bundle: Path, draw: random.Random) -> None:
    """Change a listed file but not its hash."""
    path = draw.choice(sorted(path for path in bundle.rglob("*") if path.is_file() and path.name not in ("run.py", "manifest.json")))
    if path.suffix == ".py":
        path.write_text(planted(case), encoding="utf-8")
    else:
        path.write_bytes(path.read_bytes() + b"\n")


TAMPERED = (plant_bytecode, plant_module, plant_odd, plant_engine, change_file)  # verify must refuse these


def forge_manifest(case: Case, bundle: Path, draw: random.Random) -> None:
    path = bundle / "manifest.json"
    path.write_bytes(spoiled_json(path.read_text(encoding="utf-8"), draw))


def forge_array(case: Case, bundle: Path, draw: random.Random) -> None:
    path = draw.choice(sorted((bundle / "golden").glob("*.npy")))

    def array(header: str, content: bytes = b"") -> bytes:
        text = header.encode() + b"\n"
        return b"\x93NUMPY\x02\0" + len(text).to_bytes(4, "little") + text + content

    ways = (
        lambda: array("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", pickle.dumps([Evil(case.owned)])),
        lambda: array("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000,)}"),
        lambda: array("{'descr': '|u1', 'fortran_order': False, 'shape': (-1,)}"),
        lambda: array(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({LONG},)}}"),
        lambda: array("(" * 5000),
        lambda: array("{'descr': '|V99999999999', 'fortran_order': False, 'shape': (1,)}"),
        lambda: array("'" * 3 + "x"),
        lambda: b"PK\x03\x04" + b"\0" * 30,
        lambda: b"\x80\x04" + pickle.dumps(Evil(case.owned)),
        lambda: spoiled_bytes(path.read_bytes(), draw),
    )
    path.write_bytes(draw.choice(ways)())
    rehash(bundle)


def forge_file(case: Case, bundle: Path, draw: random.Random) -> None:
    """Corrupt the labels, a golden image or a model, with matching hashes."""
    path = draw.choice([bundle / "labels.txt", bundle / "labels.txt", bundle / "golden/00.png", bundle / "model.fp32.onnx"])
    if path.name == "labels.txt":
        path.write_bytes(draw.choice([b"", b"\xff\xfe", b"a\n" * 10, ESCAPES.encode() * 3, b"\n" * 10, b"x" * 1_000_000]))
    else:
        path.write_bytes(spoiled_bytes(path.read_bytes(), draw))
    rehash(bundle)


FORGED = (forge_manifest, forge_array, forge_file)


def bundles(case: Case, ground: Ground, draw: random.Random) -> None:
    """A bundle that was tampered with after signing, or forged from the start."""
    bundle = Path(shutil.copytree(ground.signed, case.work / "bundle"))
    tampered = draw.random() < 0.6
    spoil = draw.choice(TAMPERED if tampered else FORGED)
    spoil(case, bundle, draw)
    case.name += f" {spoil.__name__}"
    signed = case.tlx("verify", bundle, "--key", ground.public, "--threads", "1")
    if signed.code == 0:
        case.fail("verified", "tlx verify --key accepted a bundle that is not as it was signed")
    commands = [
        lambda: case.tlx("predict", bundle, ground.image, "--threads", "1"),
        lambda: case.tlx("evaluate", bundle, ground.data, "--threads", "1"),
        lambda: case.tlx("bench", bundle, "--runs", "1", "--seconds", "0", "--threads", "1"),
        lambda: case.tlx("estimate", bundle, "--target", "raspberry-pi-5"),
        lambda: case.tlx("verify", bundle, "--threads", "1"),
    ]
    draw.choice(commands)()
    own = draw.choice([["verify"], ["verify"], ["predict", ground.image], ["bench", "--runs", "1", "--seconds", "0"]])
    if runner(case, bundle, *own).code == 0 and tampered and own[0] == "verify":
        case.fail(
            "verified", "run.py verify accepted a bundle that was tampered with"
        )  # other commands may run with extra files that nothing reads


def archives(case: Case, ground: Ground, draw: random.Random) -> None:
    """An archive with escaping paths, decompression bombs, links, duplicate names or corrupt bytes."""
    entries = {path.relative_to(ground.bundle).as_posix(): path.read_bytes() for path in ground.bundle.rglob("*") if path.is_file()}
    kind = draw.choice(["zip", "tar.gz"])
    archive, outside = case.work / f"bundle.{kind}", case.work / "outside"
    names = [
        "../outside",
        "../../work/outside",
        str(outside),
        "a/../../outside",
        "..\\outside",
        "\0x",
        "con",
        "x" * 300,
        "a/" * 500 + "b",
        "",
    ]
    extra = {draw.choice(names): b"x"} if draw.random() < 0.5 else {}
    way = draw.choice(["bytes", "names", "bomb", "link", "twice", "many", "case"])
    if way == "many":
        extra |= {f"golden/{number}.txt": b"" for number in range(30_000)}
    if way == "bomb":
        extra["labels.txt" if draw.random() < 0.5 else "bomb"] = b"\0" * 300_000_000
    if way == "case":
        extra |= {"MANIFEST.JSON": b"{}", "Labels.txt": b"x"}
    everything = entries | extra
    twice = ["manifest.json", "labels.txt"] if way == "twice" else []
    if kind == "zip":
        _write_zip(archive, everything, twice, way == "link", draw)
    else:
        _write_tar(archive, everything, twice, way == "link", draw)
    if way == "bytes":
        archive.write_bytes(spoiled_bytes(archive.read_bytes(), draw))
    case.name += f" {way} {kind}"
    for command in ("verify", "predict"):
        case.tlx(command, archive, *([ground.image] if command == "predict" else []), "--threads", "1")
    if outside.exists() or outside.is_symlink():
        case.fail("code run", "the archive wrote outside of its folder")


def _write_zip(archive: Path, entries: dict[str, bytes], twice: list[str], link: bool, draw: random.Random) -> None:
    import warnings

    with warnings.catch_warnings(), zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        warnings.simplefilter("ignore")  # about the duplicate name
        for name, content in [*entries.items(), *((name, b"{}") for name in twice)]:
            packed.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED, 1)
        if link:
            entry = zipfile.ZipInfo("labels.txt" if draw.random() < 0.5 else "x")
            entry.create_system, entry.external_attr = 3, 0o120777 << 16
            packed.writestr(entry, draw.choice(["/etc/passwd", "/dev/zero", "..", "x"]))


def _write_tar(archive: Path, entries: dict[str, bytes], twice: list[str], link: bool, draw: random.Random) -> None:
    with tarfile.open(archive, "w:gz", compresslevel=1) as packed:
        for name, content in [*entries.items(), *((name, b"{}") for name in twice)]:
            entry = tarfile.TarInfo(name.replace("\0", "0"))
            entry.size = len(content)
            packed.addfile(entry, io.BytesIO(content))
        if link:
            entry = tarfile.TarInfo(draw.choice(["x", "labels.txt", "golden"]))
            entry.type = draw.choice([tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE, b"9"])
            entry.linkname = draw.choice(["/etc/passwd", "/dev/zero", "..", "manifest.json"])
            packed.addfile(entry)

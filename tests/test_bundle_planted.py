"""Files planted in a bundle are named by ``tlx verify`` and by the bundle's runner, and are never executed."""

from __future__ import annotations

import importlib.util
import json
import os
import py_compile
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bundles import tiny_bundle
from commands import here
from exports import tree

from tlexport.api.verify import verify
from tlexport.bundle.manifest import LABELS, MANIFEST
from tlexport.device import golden
from tlexport.device.errors import DeviceError, InvalidFile
from tlexport.device.runtimes.engine_cache import place

CODE = "import os, pathlib; pathlib.Path(os.environ['MARKER']).write_text(__name__)\n"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("planted") / "colours")


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "bundle"))


def run_py(bundle: Path, *arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """The bundle's runner in a process of its own, with a place where code that ran leaves a mark."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    clean |= {"MARKER": str(bundle.parent / "marker"), **environment}
    command = [sys.executable, str(bundle / "run.py"), *arguments]
    return subprocess.run(command, cwd=cwd or bundle.parent, env=clean, capture_output=True, text=True, timeout=120, check=False)


def bytecode(module: str, mode: py_compile.PycInvalidationMode) -> Callable[[Path], str]:
    """Bytecode that does not belong to the source, but that Python would use for it."""

    def plant(bundle: Path) -> str:
        source = bundle / f"tlx/{module}.py"
        cached = Path(importlib.util.cache_from_source(str(source)))
        status, content = source.stat(), source.read_bytes()
        source.write_text(CODE + "#" * (len(content) - len(CODE)), encoding="utf-8")  # a time stamp goes with a size
        os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
        py_compile.compile(str(source), str(cached), invalidation_mode=mode)
        source.write_bytes(content)
        os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
        return "tlx/__pycache__"

    return plant


def file(name: str, content: str = CODE) -> Callable[[Path], str]:
    def plant(bundle: Path) -> str:
        path = bundle / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        return name if path.parent == bundle else name.split("/")[0]

    return plant


def fifo(bundle: Path) -> str:
    os.mkfifo(bundle / "numpy.py")
    return "numpy.py"


def link(bundle: Path) -> str:
    (bundle / "more").symlink_to("/dev/zero")
    return "more"


PLANTED = {
    **{f"bytecode-{m}": bytecode(m, py_compile.PycInvalidationMode.UNCHECKED_HASH) for m in ("__init__", "cli", "golden")},
    "bytecode-time": bytecode("cli", py_compile.PycInvalidationMode.TIMESTAMP),
    **{name: file(name) for name in ("numpy.py", "json.py", "argparse.py", "sitecustomize.py", "tlx.py", "PIL/__init__.py")},
    "a-folder-for-a-module": file("numpy/__init__.py"),
    **{name: file(name, "ftrt") for name in ("model.fp32.engine", "model.fp32.engine.json", "model.timing.cache", "notes.txt")},
    "a-name-of-two-lines": file("notes\n\x1b[2J.txt"),
    "an-empty-folder": lambda bundle: (bundle / "empty").mkdir() or "empty",
    "fifo": fifo,
    "a-link-to-what-never-ends": link,
}


@pytest.mark.parametrize("plant", PLANTED.values(), ids=PLANTED)
def test_what_was_planted_is_named_and_not_run(copy: Path, plant: Callable[[Path], str]) -> None:
    name = golden.printable(plant(copy))
    before = tree(copy) if name != "numpy.py" else None  # which cannot be read where it is a FIFO
    [check] = [check for check in verify(copy, device="cpu") if not check.ok]
    assert (check.name, check.detail) == ("no other files", name)
    done = run_py(copy, "verify", "--json")
    assert (done.returncode, json.loads(done.stdout)["verdict"]) == (5, "stray file"), done.stderr
    assert f"hint: remove what is not part of the bundle: {name}" in done.stderr
    assert "\x1b" not in done.stderr
    # the current folder, and the search path; Python itself runs a sitecustomize that PYTHONPATH leads to, before any program
    path = {} if name == "sitecustomize.py" else {"PYTHONPATH": str(copy)}
    inside = run_py(copy, "info", cwd=copy, **path)
    assert inside.returncode == 0, inside.stderr
    assert not (copy.parent / "marker").exists()
    assert before in (None, tree(copy)), "the runner left something"


def test_a_changed_runner_is_not_run(copy: Path) -> None:
    (copy / "tlx/cli.py").write_text(CODE, encoding="utf-8")
    done = run_py(copy, "predict", "golden/00.png")
    assert (done.returncode, done.stdout) == (5, "")
    assert "tlx/cli.py" in done.stderr and "manifest" in done.stderr
    assert not (copy.parent / "marker").exists()


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"files": 3}', b"9" * 5000, b"[" * 10**5, b'{"files": {"tlx/cli.py": "0"}}', b"\xff"]
)
def test_a_manifest_that_is_none_is_refused_by_the_runner(copy: Path, content: bytes) -> None:
    (copy / MANIFEST).write_bytes(content)
    done = run_py(copy, "info")
    assert done.returncode in (2, 5)
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr


@pytest.mark.parametrize("name", [LABELS, MANIFEST, "model.fp32.onnx", "golden/inputs.npy", "golden/00.png", "tlx/cli.py", "run.py"])
@pytest.mark.parametrize("kind", ["/dev/zero", "fifo", "folder", "link to the same bytes"])
def test_a_file_that_is_not_regular_is_not_opened(copy: Path, name: str, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = copy / name
    if kind == "link to the same bytes":
        shutil.move(path, copy.parent / "moved")
        path.symlink_to(copy.parent / "moved")
    else:
        path.unlink()
        {"/dev/zero": lambda: path.symlink_to(kind), "fifo": lambda: os.mkfifo(path), "folder": path.mkdir}[kind]()
    ended = here(capfd, "verify", copy, "--device", "cpu")
    assert ended.code in (2, 5), ended.err
    assert name in ended.out + ended.err
    if name != "run.py":
        done = run_py(copy, "verify")
        assert done.returncode in (2, 5) and name in done.stdout + done.stderr, done.stderr


# --- images -----------------------------------------------------------------------------------------------------------


def test_a_folder_is_read_by_the_trainers_rule_and_a_bad_image_does_not_stop_the_rest(
    copy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    image, folder = copy / "golden/00.png", copy.parent / "photos"
    for name in ("a.png", "deep/b.jfif", "._a.png", ".ipynb_checkpoints/a.png", "@eaDir/a.png", "__MACOSX/a.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, folder / name)
    (folder / "bad\x1b.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image", encoding="utf-8")
    os.mkfifo(folder / "fifo.png")
    (folder / "loop").symlink_to(folder)
    good = [str(folder / "a.png"), str(folder / "deep/b.jfif")]
    there = run_py(copy, "predict", str(folder), "--json", "--batch", "2")
    ours = here(capfd, "predict", copy, folder, "--device", "cpu", "--json")
    for code, out, err in ((there.returncode, there.stdout, there.stderr), (ours.code, ours.out, ours.err)):
        assert (code, [row["path"] for row in json.loads(out)]) == (2, good)
        assert "bad" in err and "\x1b" not in there.stderr
    assert json.loads(there.stdout) == json.loads(ours.out)


# --- arrays -----------------------------------------------------------------------------------------------------------


def header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + (len(text)).to_bytes(2, "little") + text.encode("latin-1")


BAD_ARRAYS = {
    "empty": b"",
    "magic alone": b"\x93NUMPY",
    "a zip": b"PK\x03\x04" + bytes(60),
    "a pickle": b"\x80\x04N.",
    "more than the file has": header("{'descr': '<f4', 'fortran_order': False, 'shape': (99999, 99999, 99999), }\n"),
    "objects": header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n") + b"\x80\x04N.",
    "an open quote": header("{'descr': '<f4"),
    "deeply nested": header("(" * 5000),
    "no axis": header("{'descr': '<f4', 'fortran_order': False, 'shape': (), }\n") + bytes(4),
    "no element": header("{'descr': '<f4', 'fortran_order': False, 'shape': (0,), }\n"),
    "a negative axis": header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }\n") + bytes(4),
    "too much": header("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }\n") + bytes(5),
}


@pytest.mark.parametrize("content", BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_an_array_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(InvalidFile, match=r"x\.npy"):
        golden.array(tmp_path / "x.npy")


@pytest.mark.parametrize("dtype", ["u1", "i8", "<f2", ">f4", "f8"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(1,), (3, 4), (2, 3, 4, 5)])
def test_an_array_is_read_as_numpy_reads_it(tmp_path: Path, dtype: str, order: str, shape: tuple[int, ...]) -> None:
    values = np.asarray(np.arange(np.prod(shape)).reshape(shape), dtype, order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "x.npy", values)
    found = golden.array(tmp_path / "x.npy")
    assert (found.dtype, found.shape) == (values.dtype, values.shape)
    assert np.array_equal(found, values)


# --- where engines are kept -------------------------------------------------------------------------------------------


def test_engines_are_kept_outside_of_bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TLX_ENGINES", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = place("ab" * 32, "model.int8.onnx")
    assert path == tmp_path / "tlexport/engines" / ("ab" * 16) / "model.int8.engine"
    assert path.parent.stat().st_mode & 0o777 == 0o700
    path.parent.chmod(0o777)
    with pytest.raises(DeviceError, match="other users may write") as caught:
        place("ab" * 32, "model.int8.onnx")
    assert "TLX_ENGINES=" in caught.value.hint
    monkeypatch.setenv("TLX_ENGINES", str(tmp_path / "mine"))
    assert place("cd" * 32, "a.onnx").parent.parent == tmp_path / "mine"

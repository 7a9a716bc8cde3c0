"""The environment of a command: streams, limits, folders, variables. Machine faults are errors with a hint; bugs are tracebacks."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from commands import PROGRAM, environment, here, process

from tlexport.cli import output
from tlexport.errors import InvalidFile, MissingDependency, StepFailed, TlxError, UsageError
from tlexport.progress import CONTROLS, TerminalProgress
from tlexport.storage.machine_errors import as_error
from tlexport.train.distributed import place_among_workers

TLX = shlex.join(PROGRAM)
SPACE = "free some space; temporary files are written to $TMPDIR, caches to $TLX_CACHE"
LEGACY = "LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0"
GONE = "mkdir gone; cd gone; rmdir ../gone;"
LONG = "$(printf %05000d 0)"


class Case(NamedTuple):
    """A shell command, with TLX for the program, and its outcome."""

    line: str
    code: int
    out: str  # a regular expression, as are the next
    err: str = "^$"


# fmt: off
CASES = {
    "stdout closed": Case("TLX profiles list >&-", 1, "^$", "standard output is closed"),
    "stdout full": Case("TLX profiles list > /dev/full", 1, "^$", "cannot write to standard output: No space"),
    "stdout full, JSON": Case("TLX profiles list --json > /dev/full", 1, "^$", "cannot write to standard output: No space"),
    "stdout full, help": Case("TLX --help > /dev/full", 1, "^$", "No space left on device"),
    "stdout read in part": Case("(TLX profiles show cpu-x86; echo $? >&2) | head -0", 0, "^$", r"^1\n$"),
    "stderr closed": Case("TLX profiles show nope 2>&-", 2, "^$"),
    "stderr full": Case("TLX profiles show nope 2> /dev/full", 2, "^$"),
    "stdin closed": Case("TLX profiles show cpu-x86 <&-", 0, "cpu-x86"),
    "all closed": Case("TLX profiles list <&- >&- 2>&-", 1, "^$"),
    "stdout is ASCII": Case("PYTHONIOENCODING=ascii TLX profiles show é.toml 2>&1", 2, r"\\xe9\.toml"),
    "stderr is ASCII": Case("PYTHONIOENCODING=ascii TLX profiles show é.toml", 2, "^$", r"\\xe9\.toml does not exist"),
    "a locale without é": Case(f"{LEGACY} TLX profiles show é.toml", 2, "^$", "is not ascii text.*\nhint: use a UTF-8 locale"),
    "an argument that is no text": Case("TLX profiles show $(printf '\\377').toml", 2, "^$", r"'\\udcff\.toml' is not utf-8 text"),
    "directory gone": Case(f"{GONE} TLX profiles list", 1, "^$", "current directory no longer exists"),
    "directory gone, help": Case(f"{GONE} TLX profiles --help", 0, "Usage: tlx profiles"),
    "RANK empty": Case("RANK= WORLD_SIZE= TLX finetune --help", 0, "Usage"),
    "RANK odd": Case("RANK=abc LOCAL_RANK=1.5 TLX --help", 0, "Usage"),
    "an argument of thousands": Case(f"TLX {LONG}", 2, "^$", r"there is no command '0{99}\[4,802 characters\]0{99}'"),
    "a path of thousands": Case(f"TLX profiles check {LONG}.toml", 2, "^$", "too long"),
    "COLUMNS=0": Case("COLUMNS=0 LINES=x TERM=dumb LANG=xx NO_COLOR=1 TLX profiles list", 0, "cpu-x86"),
    "out is empty": Case("TLX finetune demo:digits --out ''", 2, "^$", "the path is empty"),
    "out is here": Case("TLX finetune demo:digits --out .", 2, "^$", "'.' is the current directory"),
    "out is above": Case("TLX export x -t cpu-x86 --out ./..", 2, "^$", "'./..' is a folder above"),
    "out is the root": Case("TLX demo --out /", 2, "^$", "'/' is a folder above"),
}
# fmt: on


def shell(line: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    words = ["sh", "-c", re.sub(r"\bTLX\b", lambda _: TLX, line).replace(f"{LEGACY} ", f"export {LEGACY}; ")]
    return subprocess.run(words, cwd=cwd, env=environment(**variables), capture_output=True, text=True, encoding="utf-8", timeout=300)


@pytest.mark.parametrize("name", CASES)
def test_the_surroundings_are_named(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    ended = shell(case.line, tmp_path)
    assert ended.returncode == case.code, ended
    assert re.search(case.out, ended.stdout), ended
    assert re.search(case.err, ended.stderr), ended
    assert not list(tmp_path.iterdir())


# Every command that reads a model or DATA, in surroundings that no command can do its work in, or that change nothing.
WORK = {
    "finetune": "TLX finetune demo:digits --weights embedded --epochs 1 --image-size 32 --out new",
    "export": "TLX export {checkpoint} -t cpu-x86 --precision fp32 --out new",
    "evaluate": "TLX evaluate {checkpoint} {digits}",
    "bench": "TLX bench {bundle} --runs 2 --seconds 0 --precision fp32",
    "estimate": "TLX estimate {bundle} -t cpu-x86",
    "verify": "TLX verify {bundle}",
    "predict": "TLX predict {bundle} {image}",
    "doctor": "TLX doctor",
    "backbones": "TLX backbones resnet18",
}
AROUND = {
    "temporary folder missing": "TMPDIR=/nowhere LINE",
    "temporary folder full": "TMPDIR=/dev/full LINE",
    "stdout full": "LINE > /dev/full",
    "stdout closed": "LINE >&-",
    "stderr closed": "LINE 2>&-",
    "stdin closed": "LINE <&-",
    "nobody reads": "LINE | head -0",
    "no home": "HOME= LINE",
    "few open files": "ulimit -n 20; LINE",
    "small files": "ulimit -f 20; LINE",
    "little memory": "ulimit -v 600000; LINE",
    "directory gone": f"{GONE} LINE",
    "ASCII": "PYTHONIOENCODING=ascii LINE",
    "torchrun in part": "RANK=0 WORLD_SIZE=2 LINE",
    "odd variables": "TLX_CACHE_GB=abc COLUMNS=-1 OMP_NUM_THREADS=x LINE",
}


# a third of all pairs: each command meets every third surroundings, and all surroundings meet every third command
PAIRS = [(work, around) for i, work in enumerate(WORK) for k, around in enumerate(AROUND) if (i + k) % 3 == 0]


@pytest.mark.slow
@pytest.mark.parametrize(("work", "around"), PAIRS)
def test_no_surroundings_end_in_a_traceback(work: str, around: str, checkpoint: Path, bundle: Path, digits: Path, tmp_path: Path) -> None:
    line = WORK[work].format(checkpoint=checkpoint, bundle=bundle, digits=digits, image=next(digits.glob("7/*.png")))
    ended = shell(f"{AROUND[around].replace('LINE', line)}", tmp_path)
    assert ended.returncode in (0, 1, 2, 3, 4), ended
    assert "Traceback" not in ended.stderr and "Exception ignored" not in ended.stderr, ended.stderr
    assert not [path for path in tmp_path.rglob("*") if ".partial-" in path.name]
    if ended.returncode and around not in ("stderr closed",):
        assert "error: " in ended.stderr or "Thread creation failed" in ended.stderr, ended  # libgomp ends the process by itself


FAULTS: list[tuple[BaseException, type[TlxError], str]] = [
    (OSError(errno.ENOSPC, "No space left on device", "/a/b"), StepFailed, "/a/b: No space left on device"),
    (OSError(errno.EROFS, "Read-only file system", "a", None, "b"), StepFailed, "a -> b: Read-only"),
    (PermissionError(errno.EACCES, "Permission denied", "/a"), StepFailed, "/a: Permission denied"),
    (OSError(errno.EMFILE, "Too many open files"), StepFailed, "Too many open files"),
    (OSError(errno.ENAMETOOLONG, "File name too long", "aaa"), UsageError, "aaa: File name too long"),
    (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), StepFailed, "Resource"),
    (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"), StepFailed, "no temporary directory"),
    (MemoryError(), StepFailed, "memory"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried"), StepFailed, "memory"),
    (RuntimeError("can't start new thread"), StepFailed, "can't start new thread"),
    (RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"), StepFailed, "could not be written completely"),
    (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), StepFailed, "could not be written completely"),
    (OSError("98304 requested and 10112 written"), StepFailed, "could not be written completely"),  # numpy.save, without an errno
    (RuntimeError('IoError(Os { code: 28, kind: StorageFull, message: "No space left on device" })'), StepFailed, "No space left"),
    (ImportError("libtorch_cpu.so: failed to map segment from shared object", name="torch"), StepFailed, "allocate memory"),
    (ImportError("libcudart.so.12: cannot open shared object file", name="onnxruntime"), MissingDependency, "libcudart"),
    (ModuleNotFoundError("No module named 'scipy'", name="scipy"), MissingDependency, "scipy cannot be imported"),
    (KeyError("getpwuid(): uid not found: 12345"), StepFailed, "no name and no home directory"),
    (RuntimeError("Could not determine home directory."), StepFailed, "no home directory"),
    (UnicodeEncodeError("utf-8", "a\udcff", 1, 2, "surrogates not allowed"), InvalidFile, "a file name is not"),
]
BUGS = [
    ValueError("a number"),
    KeyError("name"),
    EOFError(),
    RuntimeError("shape mismatch"),
    ImportError("cannot import name 'a' from 'tlexport.b' (b.py)", name="tlexport.b"),
    OSError(errno.EBADF, "Bad file descriptor"),
    AssertionError(),
]


@pytest.mark.parametrize(("fault", "kind", "said"), FAULTS, ids=[str(fault)[:40] for fault, *_ in FAULTS])
def test_a_fault_of_the_machine_is_an_error_with_a_hint(fault: BaseException, kind: type[TlxError], said: str) -> None:
    """Directly, and as the cause of a library's exception."""
    outer = ValueError("writing failed")
    outer.__cause__ = fault
    for error in (as_error(fault), as_error(outer)):
        assert type(error) is kind
        assert said in error.message and error.hint


@pytest.mark.parametrize("bug", BUGS, ids=repr)
def test_a_bug_is_none(bug: BaseException) -> None:
    assert as_error(bug) is None


@pytest.mark.parametrize(
    ("raised", "code", "last"),
    [
        ("EOFError('No data left in file')", 1, "EOFError: No data left in file"),
        ("BrokenPipeError(32, 'Broken pipe')", 1, "BrokenPipeError: [Errno 32] Broken pipe"),
        ("KeyboardInterrupt()", 130, "interrupted"),
        (
            "OSError(28, 'No space left on device', 'f')",
            1,
            f"hint: {SPACE}",
        ),
    ],
)
def test_only_ctrl_c_interrupts(raised: str, code: int, last: str, tmp_path: Path) -> None:
    """An exception where a bug could be. Click takes EOFError for Ctrl-C, and any broken pipe for that of stdout."""
    program = f"import tlexport.api.backbones as api\ndef broken(): raise {raised}\napi.list_backbones = broken\n"
    ended = process("backbones", cwd=tmp_path, program=[sys.executable, "-P", "-c", f"{program}from tlexport.cli.main import main\nmain()"])
    assert (ended.code, ended.out, ended.err.splitlines()[-1]) == (code, "", last)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ("RANK=abc WORLD_SIZE=2", "RANK is 'abc'"),
        ("RANK=0 WORLD_SIZE=-2", "WORLD_SIZE is '-2'"),
        ("RANK=0 WORLD_SIZE=1 LOCAL_RANK=odd", "LOCAL_RANK is 'odd'"),
        ("RANK=2 WORLD_SIZE=2", "do not fit one another"),
        ("RANK=0 WORLD_SIZE=2", "MASTER_ADDR is not set"),
        ("RANK=0 WORLD_SIZE=2 MASTER_ADDR=localhost MASTER_PORT=ssh", "MASTER_PORT is 'ssh'"),
        ("RANK=1", None),
        ("WORLD_SIZE=4", None),
        ("RANK= WORLD_SIZE=", None),
    ],
)
def test_what_torchrun_sets(variables: str, said: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (pair.split("=") for pair in variables.split()):
        monkeypatch.setenv(name, value)
    if said is None:
        assert (place_among_workers().rank, place_among_workers().count) == (0, 1)
        return
    with pytest.raises(UsageError, match=said) as error:
        place_among_workers()
    assert "torchrun" in error.value.hint


# Control characters in what others have named


EVIL = "a\x1b]0;x\x07\x9b31m\x7f\u202e\u2066\r[red]\ud800é"
SHOWN = r"a\x1b]0;x\x07\x9b31m\x7f\u202e\u2066\x0d[red]\ud800é"


def test_control_characters_are_shown(capfd: pytest.CaptureFixture[str]) -> None:
    output.echo(f"{EVIL}\nb")
    TerminalProgress(verbose=True).note(EVIL)
    output.print_table(EVIL, [EVIL[:3], "n"], [[f"{EVIL}\nb", "1"]])
    out, err = capfd.readouterr()
    assert out.startswith(f"{SHOWN}\nb\n")
    assert out.count(SHOWN) == 3 and rf"{SHOWN}\x0ab" in out
    assert err == f"note: {SHOWN}\n"
    assert not set(map(ord, (out + err).replace("\n", ""))) & set(CONTROLS)


def test_json_escapes_them(capfd: pytest.CaptureFixture[str]) -> None:
    value = {EVIL.replace("\ud800", ""): "\u2028"}
    output.print_json(value)
    out = capfd.readouterr().out
    assert json.loads(out) == value
    assert not set(map(ord, out.replace("\n", ""))) & set(CONTROLS)
    assert "é" in out


def test_every_command_writes_through_one_place() -> None:
    folder = Path(output.__file__).parent
    direct = re.compile(r"click\.echo\(|(?<!\w)print\(|sys\.std(?:out|err)\.write\(|Console\(")
    assert {path.name for path in folder.glob("*.py") if direct.search(path.read_text(encoding="utf-8"))} == {"output.py"}


def test_an_evil_name_reaches_no_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    ended = here(capfd, "profiles", "check", "x\x1b[2J\u202e.toml")
    assert (ended.code, ended.out) == (2, "")
    assert r"error: x\x1b[2J\u202e.toml does not exist" in ended.err
    assert os.listdir() == []  # noqa: PTH208

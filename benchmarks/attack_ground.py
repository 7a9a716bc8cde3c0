"""Shared parts of attack.py: workers that run commands, targets to attack, and the judgement of an outcome."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "tests"))

from estimates import board, device  # noqa: E402 - a profile with a calibration, as the tests make it

from tlexport.bundle.archive import pack  # noqa: E402
from tlexport.bundle.signature import read_private_key, sign  # noqa: E402

FEW = ("--threads", "1")
MEMORY = 3_000_000_000  # bytes; with torch and ONNX Runtime imported, a command starts at about 0.7e9
SECONDS = 120.0  # seconds until a command counts as hung; generous, for a busy machine
TAG = "TLX_ATTACK_CASE"  # environment variable of every process of a case
KINDS = ("traceback", "half-written", "code run", "leftover")
LIFE = 6.0  # seconds that a child may outlive its killed parent


class Ended(NamedTuple):
    """How a command ended. ``stopped``: "hang" or "memory" if a limit stopped it."""

    code: int
    stopped: str
    seconds: float
    out: str
    err: str
    pid: int


@dataclass
class Request:
    """One command line; ``signal`` is sent after ``signal_after`` seconds."""

    argv: list[str]
    cwd: str
    env: dict[str, str] = field(default_factory=dict)
    seconds: float = SECONDS
    memory: int = MEMORY
    signal: int = 0
    signal_after: float = 0.0


class Workers:
    """A few processes of attack_worker.py; :meth:`run` uses an idle one."""

    def __init__(self, count: int, **env: str) -> None:
        self.free: SimpleQueue[subprocess.Popen[str]] = SimpleQueue()
        self.pool = ThreadPoolExecutor(count)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)} | env
        command = [sys.executable, str(HERE / "attack_worker.py")]
        self.all = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(count)
        ]
        for process in self.all:
            self.free.put(process)

    def run(self, request: Request) -> Ended:
        process = self.free.get()
        assert process.stdin is not None and process.stdout is not None  # noqa: S101 - for the type checker
        try:
            process.stdin.write(json.dumps(asdict(request)) + "\n")
            process.stdin.flush()
            return Ended(**json.loads(process.stdout.readline()))
        finally:
            self.free.put(process)

    def close(self) -> None:
        self.pool.shutdown()
        for process in self.all:
            if process.stdin is not None:
                process.stdin.close()
            process.wait()


@dataclass
class Failure:
    kind: str  # one of KINDS, or free text
    case: str
    detail: str


class Case:
    """The folder of one trial, with its own cache and temporary folder, and the failures found."""

    def __init__(self, workers: Workers, folder: Path, name: str) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self.workers, self.folder, self.name = workers, folder, name
        self.work, self.tmp, self.cache = folder / "work", folder / "tmp", folder / "cache"
        for made in (self.work, self.tmp, self.cache):
            made.mkdir(parents=True)
        self.owned = folder / "owned"  # planted code creates this file
        self.failures: list[Failure] = []
        self.env = {"TMPDIR": str(self.tmp), "TLX_CACHE": str(self.cache), TAG: str(folder), "HOME": str(folder), "NO_COLOR": "1"}

    def fail(self, kind: str, detail: str) -> None:
        self.failures.append(Failure(kind, self.name, detail[-1500:]))

    def tlx(self, *argv: str | Path, env: dict[str, str] | None = None, **limits: Any) -> Ended:
        """Run `tlx` and check what must hold for every command."""
        arguments = [str(argument) for argument in argv]
        ended = self.workers.run(Request(arguments, str(self.work), self.env | (env or {}), **limits))
        return self.judged(ended, " ".join(arguments), limits.get("signal", 0))

    def judged(self, ended: Ended, command: str, sent: int = 0) -> Ended:
        if ended.stopped:
            self.fail(ended.stopped, f"{command}: stopped after {ended.seconds:.0f} s\n{ended.err}")
        elif "Traceback (most recent call last)" in ended.err:
            self.fail("traceback", f"{command}: {ended.err}")
        elif ended.code not in (0, 1, 2, 3, 4, 5, 6) and not sent:
            self.fail("exit code", f"{command}: {ended.code}\n{ended.err}")
        elif ended.code in (1, 2, 3, 4) and "error: " not in ended.err and len(ended.err) < 19_000 and not sent:
            self.fail("no message", f"{command}: {ended.code}\n{ended.err}")
        if self.owned.exists():
            self.fail("code run", command)
            self.owned.unlink()
        if "\x1b]" in ended.out + ended.err or "\x07" in ended.out + ended.err:
            self.fail("raw escape", command)
        if ended.stopped or sent:
            time.sleep(0.1)
        self.no_processes(command)
        return ended

    def no_processes(self, command: str) -> None:
        """Check that no process of the command is still running."""
        limit = time.monotonic() + LIFE
        while alive := tagged(str(self.folder)):
            if time.monotonic() > limit:
                self.fail("leftover", f"{command}: processes live on: {alive}")
                for pid in alive:
                    with suppress(OSError):
                        os.kill(pid, signal.SIGKILL)
                return
            time.sleep(0.1)

    def no_files(self, when: str) -> None:
        """Check for temporary files: in the temporary folder, beside results, in the cache."""
        # .ses belongs to ONNX Runtime, the others to torch
        found = [path for path in self.tmp.iterdir() if not path.name.startswith(("torchinductor", "torch_", ".ses"))]
        for folder in (self.work, self.cache):
            found += [path for path in folder.rglob("*") if ".partial-" in path.name or path.name.endswith((".part", ".lock.tmp"))]
        if found:
            self.fail("leftover", f"{when}: {[str(path.relative_to(self.folder)) for path in found[:5]]}")

    def close(self) -> list[Failure]:
        shutil.rmtree(self.folder, ignore_errors=True)
        return self.failures


def tagged(value: str) -> list[int]:
    """Processes with a case's tag in their environment. A fork shows its parent's environment, so it is not included."""
    wanted, found = f"{TAG}={value}".encode(), []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
    return found


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Ground:
    """Small digits, a checkpoint trained on them, its bundles, an ONNX file, an image and a measurement."""

    EPOCHS = 4

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count
        self.started: list[Workers] = []
        self.workers = self.new_workers(count)
        self.data, self.checkpoint, self.bundle = (folder / name for name in ("digits", "checkpoint", "bundle"))
        self.archive, self.key, self.public = (folder / name for name in ("bundle.zip", "key.pem", "key.pub"))
        self.measurement, self.cache = folder / "bench.json", folder / "cache"
        case = Case(self.workers, folder / "prepare", "prepare")
        self._make_data(case)
        self.training = self.train_arguments()
        trained = case.tlx(*self.training, "-o", self.checkpoint)
        self.train_seconds = trained.seconds
        exported = case.tlx(*self.export_arguments(), "-o", self.bundle)
        self.export_seconds = exported.seconds
        self.onnx = self.bundle / "model.fp32.onnx"
        self._make_keys()
        self.signed = folder / "signed"
        shutil.copytree(self.bundle, self.signed)
        sign(self.signed, read_private_key(self.key))
        pack(self.bundle, self.archive)
        benched = case.tlx("bench", self.onnx, "--runs", "20", "--seconds", "0.2", "--threads", "1", "--json")
        self.measurement.write_text(benched.out, encoding="utf-8")
        self.image = next(self.data.rglob("*.png"))
        self.profiles = folder / "profiles"
        board(self.profiles, "mine", "cpu-x86", {"mine-fp32-1.json": device()})
        self.stopped = folder / "stopped"
        while not self.stopped.with_name(f".{self.stopped.name}.resume").joinpath("state.pt").exists():
            after = 0.8 * self.train_seconds
            case.tlx(*self.training, "-o", self.stopped, "--epochs", "400", signal=signal.SIGKILL, signal_after=after)
        made = (trained, exported, benched)
        if any(done.code for done in made):
            raise SystemExit(f"the subjects could not be made: {case.failures or made}")
        case.close()

    def new_workers(self, count: int, **env: str) -> Workers:
        self.started.append(Workers(count, **env))
        return self.started[-1]

    def close(self) -> None:
        for workers in self.started:
            workers.close()

    def train_arguments(self) -> list[str]:
        shape = ["--strategy", "partial", "--image-size", "32", "--epochs", str(self.EPOCHS), "--no-flip", "--tracker", "none"]
        return ["finetune", str(self.data), "--weights", "embedded", *shape, "--threads", "1", "-q"]

    def export_arguments(self) -> list[str]:
        return ["export", str(self.checkpoint), "--target", "cpu-x86", "--precision", "fp32", "--threads", "1", "-q"]

    def _make_data(self, case: Case) -> None:
        from tlexport.data.demo import digits_folder

        everything = digits_folder(case.cache / "digits")
        for source in sorted(folder for folder in everything.iterdir() if folder.is_dir()):
            (self.data / source.name).mkdir(parents=True)
            for image in sorted(source.iterdir())[:8]:
                shutil.copy(image, self.data / source.name)

    def _make_keys(self) -> None:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        key, pem = Ed25519PrivateKey.generate(), serialization.Encoding.PEM
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        self.key.write_bytes(private)
        self.public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))

    def case(self, group: str, number: int, workers: Workers | None = None) -> Case:
        return Case(workers or self.workers, self.folder / "cases" / f"{group.replace(' ', '-')}-{number}", f"{group} {number}")


@dataclass
class Group:
    """The outcome of one group of trials."""

    name: str
    tries: int = 0
    failed: int = 0
    failures: list[Failure] = field(default_factory=list)

    def add(self, failures: list[Failure]) -> None:
        self.tries += 1
        self.failed += bool(failures)
        self.failures += failures

    def row(self) -> dict[str, Any]:
        counts = {kind: sum(failure.kind == kind for failure in self.failures) for kind in KINDS}
        other = sum(failure.kind not in KINDS for failure in self.failures)
        return {"group": self.name, "tries": self.tries, "held": self.tries - self.failed, **counts, "other": other}

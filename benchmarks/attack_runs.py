"""Killed commands, full disks and concurrent commands (attack.py)."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from attack_ground import HERE, Case, Ended, Failure, Ground, Workers, digest

Try = Callable[[], list[Failure]]
SAME = ("model.safetensors", "dataset.json", "recipe.toml")  # of a checkpoint: bit-identical for every way to the result
COMPLETE = ("checkpoint.json", "report.html", "history.jsonl", *SAME)


def check_checkpoint(case: Case, path: Path, whole: Path | None) -> None:
    """Check that a checkpoint is complete and bit-identical to that of an undisturbed run, if one is given."""
    missing = [name for name in COMPLETE if not (path / name).is_file()]
    if missing:
        case.fail("half-written", f"{path} has no {', '.join(missing)}")
    elif whole is not None:
        other = [name for name in SAME if digest(path / name) != digest(whole / name)]
        if other:
            case.fail("not bit-identical", f"{path}: {', '.join(other)}")


def export_digests(bundle: Path) -> dict[str, str]:
    """SHA-256 of each file of a bundle that does not depend on timing."""
    files = (path for path in bundle.rglob("*") if path.is_file() and path.name not in ("manifest.json", "MODEL_CARD.md"))
    return {path.relative_to(bundle).as_posix(): digest(path) for path in files}


def check_bundle(case: Case, path: Path, whole: Path) -> None:
    if not (path / "manifest.json").is_file() or export_digests(path) != export_digests(whole):
        case.fail("half-written", f"{path} is not the bundle of an undisturbed export")
    elif case.tlx("verify", path, "--threads", "1").code != 0:
        case.fail("half-written", f"{path} does not verify")


def _train_again(case: Case, ground: Ground, out: Path) -> None:
    """Continue a stopped run as a user would: --resume, or a new run if there is nothing to resume."""
    resumed = case.tlx(*ground.training, "-o", out, "--resume")
    if resumed.code == 2 and "nothing to resume" in resumed.err:
        if not out.exists() and case.tlx(*ground.training, "-o", out).code != 0:
            case.fail("not continued", "a run after a stopped one failed")
    elif resumed.code != 0:
        case.fail("not continued", f"--resume: {resumed.code}\n{resumed.err}")
    check_checkpoint(case, out, ground.checkpoint)
    if out.with_name(f".{out.name}.resume").exists():
        case.fail("leftover", "the resume state of a finished run")


def killed_finetune(ground: Ground, number: int, draw: random.Random, sent: int) -> list[Failure]:
    case = ground.case(f"finetune {sent}", number)
    out = case.work / "run"
    first = case.tlx(*ground.training, "-o", out, signal=sent, signal_after=draw.uniform(0.05, 1.1) * ground.train_seconds)
    _check_interrupted(case, first, sent)
    if draw.random() < 0.5:
        case.tlx(*ground.training, "-o", out, "--resume", signal=sent, signal_after=draw.uniform(0.05, 1.0) * ground.train_seconds)
    _train_again(case, ground, out)
    case.no_files("after the run was finished")
    return case.close()


def _check_interrupted(case: Case, ended: Ended, sent: int) -> None:
    """Ctrl-C must exit with 130 and clean up."""
    if sent == signal.SIGINT and ended.code not in (0, 130):
        case.fail("exit code", f"{ended.code} after SIGINT\n{ended.err}")
    if sent == signal.SIGINT:
        case.no_files("after SIGINT")


def killed_export(ground: Ground, number: int, draw: random.Random, sent: int) -> list[Failure]:
    case = ground.case(f"export {sent}", number)
    out = case.work / "bundle"
    arguments = [*ground.export_arguments(), "-o", out]
    first = case.tlx(*arguments, signal=sent, signal_after=draw.uniform(0.02, 1.1) * ground.export_seconds)
    _check_interrupted(case, first, sent)
    if out.exists():
        check_bundle(case, out, ground.bundle)
    if case.tlx(*arguments).code != 0:
        case.fail("not continued", "an export after a killed one failed")
    check_bundle(case, out, ground.bundle)
    case.no_files("after the next export")
    return case.close()


def killed_bench(ground: Ground, number: int, draw: random.Random, sent: int) -> list[Failure]:
    case = ground.case(f"bench {sent}", number)
    arguments = ["bench", ground.bundle, "--seconds", "1", "--threads", "1", "--report", case.work / "page.html"]
    first = case.tlx(*arguments, signal=sent, signal_after=draw.uniform(0.1, 4.0))  # this also checks for surviving processes
    _check_interrupted(case, first, sent)
    if case.tlx(*arguments).code != 0:
        case.fail("not continued", "a bench after a killed one failed")
    case.no_files("after the next bench")
    return case.close()


def kills(ground: Ground, count: int, seed: int) -> Iterator[tuple[str, Try]]:
    """SIGKILL at ``count`` random times in each command, and Ctrl-C at a quarter as many."""
    for name, attack in (("finetune", killed_finetune), ("export", killed_export), ("bench", killed_bench)):
        for sent, tries in ((signal.SIGKILL, count), (signal.SIGINT, max(1, count // 4))):
            for number in range(tries):
                draw = random.Random(f"{seed} {name} {sent} {number}")
                yield f"{sent.name}, {name}", lambda a=attack, n=number, d=draw, s=sent: a(ground, n, d, int(s))


def disk_commands(ground: Ground) -> dict[str, list[Any]]:
    """Name -> command line that writes below the working folder, the cache or the temporary folder."""
    few = ["--threads", "1"]
    return {
        "finetune": [*ground.training, "-o", "run"],
        "export": [*ground.export_arguments(), "-o", "bundle"],
        "export to .zip": [*ground.export_arguments(), "-o", "bundle.zip"],
        "bench": ["bench", ground.onnx, "--runs", "5", "--seconds", "0", *few, "--report", "page.html", "--csv", "rows.csv"],
        "evaluate": ["evaluate", ground.archive, ground.data, *few],
        "estimate": ["estimate", ground.archive, "--target", "raspberry-pi-5"],
        "predict": ["predict", ground.archive, ground.image, *few],
        "verify": ["verify", ground.archive, *few],
        "profiles new": ["profiles", "new", "mine", "--from", "cpu-x86", "-o", "profiles"],
        "profiles schema": ["profiles", "schema", "-o", "schema.json"],
        "profiles calibrate": ["profiles", "calibrate", "mine", "--from", ground.measurement, "--what", ground.onnx],
    }


def _check_written(case: Case, ground: Ground) -> None:
    """Check that every result present under its final name is complete."""
    work = case.work
    if (work / "run").exists():
        check_checkpoint(case, work / "run", ground.checkpoint)
    if (work / "bundle").exists():
        check_bundle(case, work / "bundle", ground.bundle)
    if (work / "bundle.zip").exists() and case.tlx("verify", work / "bundle.zip", "--threads", "1").code != 0:
        case.fail("half-written", "bundle.zip does not verify")
    whole: dict[str, Callable[[str], Any]] = {
        "page.html": lambda text: text.rstrip().endswith("</html>") or 1 / 0,
        "schema.json": json.loads,
        "profiles/mine.toml": tomllib.loads,
        "rows.csv": lambda text: text.endswith("\n") or 1 / 0,
    }
    for name, parse in whole.items():
        if (work / name).exists():
            try:
                parse((work / name).read_text(encoding="utf-8"))
            except (ValueError, ArithmeticError):
                case.fail("half-written", f"{name} is not whole")


def full_disk(ground: Ground, workers: Workers, name: str, argv: list[Any], call: int, once: bool) -> tuple[int, list[Failure]]:
    """Run a command whose write number ``call`` fails, and all later ones unless ``once``. Return its exit code and the failures."""
    case = ground.case(f"disk {name} {'once' if once else 'on'}", call, workers)
    if name == "profiles calibrate":
        shutil.copytree(ground.profiles, case.work / "profiles")
    env = {"FULL_DISK_ROOT": str(case.folder), "FULL_DISK_FROM": str(call)} | ({"FULL_DISK_ONCE": "1"} if once else {})
    ended = case.tlx(*argv, env=env)
    if ended.code not in (0, 1):
        case.fail("exit code", f"{argv}: {ended.code}\n{ended.err}")
    _check_written(case, ground)
    case.no_files("after the disk was full")
    if name == "finetune" and ended.code != 0:
        _train_again(case, ground, case.work / "run")
    return ended.code, case.close()


def build_shim(folder: Path) -> Path:
    library = folder / "full_disk.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(HERE / "attack_full_disk.c"), "-ldl"], check=True)
    return library


def disk_faults(ground: Ground, count: int, seed: int) -> Iterator[tuple[str, Callable[[], list[list[Failure]]]]]:
    """Let each write of each command fail in turn, until the call number exceeds the last write; at most ``count`` trials per command.

    Commands with more writes are sampled: every one of the first writes, then at growing steps.
    """
    workers = ground.new_workers(ground.count, LD_PRELOAD=str(build_shim(ground.folder)))

    def walk(name: str, argv: list[Any], once: bool) -> list[list[Failure]]:
        outcomes, call = [], 1
        while len(outcomes) < count:
            code, failures = full_disk(ground, workers, name, argv, call, once)
            outcomes.append(failures)
            if code == 0 and not failures and call > 3 and not once:
                break
            call += 1 + max(0, len(outcomes) - count // 2) // 2
        return outcomes

    for name, argv in disk_commands(ground).items():
        for once in (False, True):
            yield f"full disk, {name}", lambda n=name, a=argv, o=once: walk(n, a, o)


def pair(ground: Ground, workers: Workers, number: int, kind: str) -> list[Failure]:
    """Two concurrent commands."""
    case = ground.case(f"pair {kind}", number, workers)
    commands: dict[str, list[list[Any]]] = {
        "finetune, one --out": [[*ground.training, "-o", "run"]] * 2,
        "finetune, no --out": [ground.training] * 2,
        "finetune and --resume": [[*ground.training, "-o", "run"], [*ground.training, "-o", "run", "--resume"]],
        "export, one --out": [[*ground.export_arguments(), "-o", "bundle"]] * 2,
        "export, one archive": [[*ground.export_arguments(), "-o", "bundle.zip"]] * 2,
        "bench, one report": [["bench", ground.onnx, "--runs", "5", "--seconds", "0", "--threads", "1", "--report", "page.html"]] * 2,
        "profiles new, one name": [["profiles", "new", "mine", "--from", "cpu-x86", "-o", "profiles"]] * 2,
        "evaluate, one cache": [["evaluate", ground.checkpoint, ground.data, "--threads", "1"]] * 2,
    }
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda argv: case.tlx(*argv), commands[kind]))
    codes = [ended.code for ended in both]
    if 0 not in codes or not {*codes} <= {0, 1, 2}:
        case.fail("exit code", f"{codes}: {[ended.err for ended in both]}")
    finished = [(case.work / ended.out.splitlines()[-1]) for ended in both if ended.code == 0 and kind.startswith("finetune")]
    if len({path.resolve() for path in finished}) < len(finished):
        case.fail("one run lost", f"both wrote {finished[0]} and ended with 0")
    for path in finished:
        check_checkpoint(case, path, ground.checkpoint)
    if kind.startswith("profiles") and codes.count(0) != 1:
        case.fail("one run lost", "both wrote one profile and ended with 0")
    _check_written(case, ground)
    case.no_files("after both ended")
    return case.close()


PAIRS = (
    "finetune, one --out", "finetune, no --out", "finetune and --resume", "export, one --out",
    "export, one archive", "bench, one report", "profiles new, one name", "evaluate, one cache",
)  # fmt: skip


def pairs(ground: Ground, count: int, seed: int) -> Iterator[tuple[str, Try]]:
    """``count`` pairs of concurrent commands."""
    workers = ground.new_workers(2 * ground.count)
    for number in range(count):
        kind = PAIRS[number % len(PAIRS)]
        yield f"two at once: {kind}", lambda n=number, k=kind: pair(ground, workers, n, k)

"""The directories of runs: ``runs/NAME``, the link ``runs/latest``, and interrupted runs."""

from __future__ import annotations

import itertools
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tlexport.errors import StepFailed, UsageError
from tlexport.loading.model import LATEST
from tlexport.ports import Progress
from tlexport.recipe import Recipe
from tlexport.storage.files import new_file
from tlexport.storage.lock import claim, is_claimed
from tlexport.train.resume import STATE, forget_remains, interrupted_runs, read_request, resume_folder
from tlexport.train.write_checkpoint import check_place

RUNS = LATEST.parent
COMMAND = "tlx finetune"


@contextmanager
def place_of_run(out: Path | None, backbone: str) -> Iterator[Path]:
    """The directory that a run writes. No other process can write it at the same time.

    Args:
        out: the directory that the user named; None: the first free one of runs/BACKBONE-1, -2, ...
        backbone: of the run.

    Raises:
        UsageError: it holds something else, or another process is writing it.
        StepFailed: the file system refused.
    """
    if out is not None:
        check_place(out)
        with claim(out, COMMAND):
            yield out
        return
    forget_remains(RUNS)
    for number in itertools.count(1):
        path = RUNS / f"{backbone}-{number}"
        with ExitStack() as stack:
            if not _taken(path) and not is_claimed(path):
                try:
                    stack.enter_context(claim(path, COMMAND))
                except UsageError:
                    continue  # another run has just claimed it
                if not _taken(path):  # and no run has begun and ended since
                    yield path
                    return


def _taken(path: Path) -> bool:
    return os.path.lexists(path) or os.path.lexists(resume_folder(path))


def resume_command(out: Path, data: str) -> str:
    """The command that continues a run."""
    return shlex.join(["tlx", "finetune", data, "--out", str(out), "--resume"])


def expect_nothing_to_resume(out: Path, data: str) -> None:
    """Refuse to start over an interrupted run. Raises UsageError, with the commands to continue or discard it."""
    folder = resume_folder(out)
    if (folder / STATE).exists():
        raise UsageError(
            f"a run for {out} was interrupted; its state is in {folder} and was not changed",
            f"continue it: {resume_command(out, data)}; or discard it: the same command with --restart in place of --resume",
        )


def point_latest_at(path: Path, progress: Progress) -> None:
    """Point runs/latest at a run under runs/, in one step. If that fails, the run stays and a note reports it."""
    if path.parent != RUNS:
        return
    try:
        with new_file(LATEST) as temporary:
            temporary.symlink_to(path.name)
    except StepFailed as error:
        progress.note(f"{LATEST} could not be pointed at {path}: {error.message}; name the checkpoint in the next command")


def interrupted_run(data: str, out: Path | None, recipe: Recipe | None, asked: Mapping[str, Any]) -> tuple[Path, Recipe]:
    """The run to continue, and its recipe.

    Args:
        data: DATA as the user gives it now.
        out: the directory of the run; None: the last interrupted one under runs/.
        recipe: a recipe given now, if any.
        asked: options of the recipe given now.

    Raises:
        UsageError: no such run, or what is given now would change it.
    """
    found = [out] if out else interrupted_runs(RUNS)[-1:]
    if not found:
        raise UsageError(f"--resume: no run under {RUNS}/ was interrupted", "name the run with --out, or leave out --resume")
    began, request = read_request(found[0])
    given = Recipe.parse((recipe or request).model_dump() | dict(asked), "the requested recipe")
    changed = [key for key, value in given.model_dump().items() if value != getattr(request, key)] + ["DATA"] * (began != data)
    if changed:
        raise UsageError(f"--resume continues {found[0]} with its own settings, but these differ: {', '.join(changed)}", "leave them out")
    return found[0], request

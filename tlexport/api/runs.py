"""Where runs are kept: ``runs/NAME``, the link ``runs/latest``, and runs that were interrupted."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tlexport.api.subject import LATEST
from tlexport.errors import UsageError
from tlexport.ports import Progress
from tlexport.recipe import Recipe
from tlexport.train.resume import interrupted_runs, read_request, resume_folder

RUNS = LATEST.parent


def new_run(backbone: str) -> Path:
    """The first of runs/BACKBONE-1, -2, ... that is free and not an interrupted run's."""
    number = 1
    while (RUNS / f"{backbone}-{number}").exists() or resume_folder(RUNS / f"{backbone}-{number}").exists():
        number += 1
    return RUNS / f"{backbone}-{number}"


def point_latest_at(path: Path, progress: Progress) -> None:
    """Make runs/latest a link to a run under runs/, in one step. Where that cannot be, the run is kept and the user told."""
    if path.parent != RUNS:
        return
    temporary = RUNS / f".latest-{secrets.token_hex(4)}"
    try:
        temporary.symlink_to(path.name)
        temporary.replace(LATEST)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        progress.note(f"{LATEST} was not made to point at {path}: {error.strerror or error}; name the checkpoint in the next command")


def interrupted_run(data: str, out: Path | None, recipe: Recipe | None, asked: Mapping[str, Any]) -> tuple[Path, Recipe]:
    """The run to continue, and its recipe.

    Args:
        data: DATA as the user gives it now.
        out: which run; None: the latest interrupted one under runs/.
        recipe: a recipe given now, if any.
        asked: options of the recipe given now.

    Raises:
        UsageError: no such run, or what is given now would change it.
    """
    found = [out] if out else interrupted_runs(RUNS)[-1:]
    if not found:
        raise UsageError(f"--resume: no run under {RUNS}/ was interrupted", "name the run with --out, or leave out --resume")
    began, request = read_request(found[0])
    given = Recipe.parse((recipe or request).model_dump() | dict(asked), "the recipe asked for")
    changed = [key for key, value in given.model_dump().items() if value != getattr(request, key)] + ["DATA"] * (began != data)
    if changed:
        raise UsageError(f"--resume continues {found[0]} as it was begun, but these differ: {', '.join(changed)}", "leave them out")
    return found[0], request

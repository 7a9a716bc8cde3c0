"""The recipe of a training run as the user asked for it, checked before torch is imported, which takes seconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tlexport.errors import UsageError
from tlexport.loading.model import LATEST, load
from tlexport.recipe import Recipe
from tlexport.train.request import expect_feasible


def requested_recipe(
    out: Path | None, recipe: Path | None, asked: Mapping[str, Any], *, resume: bool, restart: bool
) -> tuple[Recipe | None, Recipe]:
    """The recipe of the file, if one is given, and the recipe asked for.

    Args:
        out: where the run is written.
        recipe: a recipe.toml to start from.
        asked: options of the recipe, which take precedence.
        resume: continue an interrupted run, whose recipe was checked when it began.
        restart: discard the state of an interrupted run.

    Raises:
        UsageError: options that exclude each other, or see :func:`tlexport.train.request.expect_feasible`.
        InvalidFile: a file is missing or wrong.
    """
    if resume and restart:
        raise UsageError("--resume and --restart exclude each other", "see: tlx finetune --help")
    if out == LATEST:
        raise UsageError(f"--out {out} is the link to the newest run; choose another name for this run", "see: tlx finetune --help")
    base = Recipe.read_toml(recipe) if recipe else None
    request = Recipe.parse((base.model_dump(exclude_unset=True) if base else {}) | dict(asked), "the requested recipe")
    if not resume:
        expect_feasible(request)
        if request.teacher is not None:
            load(Path(request.teacher))
    return base, request


def size_budget(target: str | None) -> int | None:
    """Largest model file of a target, bytes; None without a target or a limit. Raises UsageError for an unknown name."""
    if target is None:
        return None
    from tlexport.hardware.target import resolve

    return resolve(target).profile.budget.size_bytes

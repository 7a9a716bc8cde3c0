"""Checks of a recipe that need no images, made before torch is imported, which takes seconds."""

from __future__ import annotations

from pathlib import Path

from tlexport.embedded import EMBEDDED
from tlexport.errors import InvalidFile, UsageError
from tlexport.plugins import family_of, traits_of
from tlexport.recipe import Recipe
from tlexport.train.phases import boundary_of, plan_phases

WEIGHTS_WORDS = ("pretrained", "imagenet", "embedded", "none")  # other weights are files


def embedded_backbones() -> tuple[str, ...]:
    """Backbones with weights inside the package."""
    return tuple(sorted(path.stem for path in EMBEDDED.glob("*.safetensors")))


def embedded_file(backbone: str) -> Path:
    """The embedded weights of a backbone. Raises UsageError if there are none."""
    path = EMBEDDED / f"{backbone}.safetensors"
    if not path.is_file():
        raise UsageError(
            f"there are no embedded weights for {backbone}", f"embedded: {', '.join(embedded_backbones())}; or use --weights pretrained"
        )
    return path


def expect_weights_file(path: Path) -> None:
    """Raise InvalidFile if a file of weights does not exist."""
    if not path.is_file():
        raise InvalidFile(
            f"--weights {path}: no such file",
            "known words: pretrained, imagenet, embedded, none; else the path of a .safetensors or .pth file",
        )


def expect_image_size(recipe: Recipe) -> None:
    """Raise UsageError if the recipe's image size is too small for its backbone."""
    smallest = traits_of(recipe.backbone).smallest
    if recipe.image_size is not None and recipe.image_size < smallest:
        raise UsageError(f"image_size = {recipe.image_size} is too small for {recipe.backbone}", f"give {smallest} or more")


def expect_feasible(recipe: Recipe) -> None:
    """Refuse a recipe with an unknown name or a contradiction.

    Raises:
        UsageError: unknown backbone or stage, no embedded weights, too small an image, or options that exclude each other.
        InvalidFile: the file of weights does not exist.
    """
    stages = family_of(recipe.backbone).VARIANTS[recipe.backbone]
    if recipe.weights == "embedded":
        embedded_file(recipe.backbone)
    elif recipe.weights not in WEIGHTS_WORDS:
        expect_weights_file(Path(recipe.weights))
    expect_image_size(recipe)
    plan_phases(recipe, stages, None if recipe.freeze is None else boundary_of(recipe.freeze, recipe.backbone, stages))

"""The request for a health check of DATA, checked before torch is imported, which takes seconds."""

from __future__ import annotations

from pathlib import Path

from tlexport.errors import UsageError
from tlexport.recipe import Recipe
from tlexport.train.request import expect_feasible


def feature_recipe(
    backbone: str, weights: str, image_size: int | None, val_fraction: float, seed: int, report: Path | None = None
) -> Recipe:
    """The recipe whose network computes the features and whose split is checked.

    Args:
        backbone: a name from ``tlx backbones``.
        weights: as for ``finetune``.
        image_size: side of the input, pixels; None: that of the weights.
        val_fraction: share of the images that a training would hold out.
        seed: of that split.
        report: the HTML file that will be written; None: none.

    Raises:
        UsageError: unknown backbone, no embedded weights for it, too small an image, or a report whose name does not end in .html.
        InvalidFile: the file of weights does not exist.
    """
    if report is not None and (report.suffix.lower() not in (".html", ".htm") or report.is_dir()):
        raise UsageError(f"the report is an HTML file, but {report} does not end in .html", "name it: --report data.html")
    asked = {"backbone": backbone, "weights": weights, "image_size": image_size, "val_fraction": val_fraction, "seed": seed}
    recipe = Recipe.parse(asked, "the requested check")
    expect_feasible(recipe)
    return recipe

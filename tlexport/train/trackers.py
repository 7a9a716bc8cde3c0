"""Experiment tracking through what people already use. Nothing of our own beyond history.jsonl."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from tlexport.errors import MissingDependency
from tlexport.recipe import Recipe
from tlexport.train.loop import Epoch

Tracker = Literal["auto", "none", "tensorboard", "mlflow", "wandb"]
PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}


def choose_tracker(asked: Tracker) -> Tracker:
    """``auto`` is TensorBoard where it is installed, else none.

    Raises:
        MissingDependency: the tracker that was asked for is not installed.
    """
    if asked == "auto":
        return "tensorboard" if importlib.util.find_spec("tensorboard") else "none"
    if asked != "none" and importlib.util.find_spec(PACKAGES[asked]) is None:
        raise MissingDependency(
            f"--tracker {asked}: {PACKAGES[asked]} is not installed", f"pip install {PACKAGES[asked]}, or use --tracker none"
        )
    return asked


@contextmanager
def tracking(tracker: Tracker, out: Path, recipe: Recipe) -> Iterator[Callable[[Epoch], None]]:
    """Yield a function that reports an epoch. TensorBoard's events go to ``tensorboard/`` beside the run."""
    figures = ("train_loss", "train_top1", "val_loss", "val_top1", "lr", "images_per_s")
    if tracker == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(out.parent / "tensorboard" / out.name)) as writer:

            def to_tensorboard(epoch: Epoch) -> None:
                for name in figures:
                    writer.add_scalar(name, getattr(epoch, name), epoch.epoch)

            yield to_tensorboard
    elif tracker == "mlflow":
        import mlflow

        with mlflow.start_run(run_name=out.name):
            mlflow.log_params(recipe.model_dump(exclude_none=True))
            yield lambda epoch: mlflow.log_metrics({name: getattr(epoch, name) for name in figures}, step=epoch.epoch)
    elif tracker == "wandb":
        import wandb

        run = wandb.init(project="tlexport", name=out.name, config=recipe.model_dump(exclude_none=True))
        try:
            yield lambda epoch: run.log({name: getattr(epoch, name) for name in figures}, step=epoch.epoch)
        finally:
            run.finish()
    else:
        yield lambda epoch: None

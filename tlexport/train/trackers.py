"""Experiment tracking with TensorBoard, MLflow or Weights & Biases, beside history.jsonl."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Literal

from tlexport.errors import MissingDependency, StepFailed
from tlexport.recipe import Recipe
from tlexport.train.loop import Epoch

Tracker = Literal["auto", "none", "tensorboard", "mlflow", "wandb"]
PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}


def choose_tracker(asked: Tracker) -> Tracker:
    """``auto`` means TensorBoard if it is installed, otherwise none.

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
    """Yield a function that reports an epoch. TensorBoard's events go to ``tensorboard/`` beside the run.

    Raises:
        StepFailed: the tracker cannot be reached; nothing was trained yet.
    """
    figures = ("train_loss", "train_top1", "val_loss", "val_top1", "lr", "images_per_s")
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(sys.stderr))  # MLflow prints the address of a run, but standard output is for results
        try:
            log = _open(tracker, out, recipe, stack)
        except _errors(tracker) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise StepFailed(f"--tracker {tracker} cannot be started: {reason}", "mend that, or use --tracker none") from None

        def report(epoch: Epoch) -> None:
            log({name: getattr(epoch, name) for name in figures}, epoch.epoch)

        yield report


def _errors(tracker: Tracker) -> tuple[type[Exception], ...]:
    """The errors of a tracker that cannot be reached or cannot write."""
    if tracker == "mlflow":
        from mlflow.exceptions import MlflowException

        return (OSError, MlflowException)
    if tracker == "wandb":
        from wandb.errors import Error

        return (OSError, Error)
    return (OSError,)


def _open(tracker: Tracker, out: Path, recipe: Recipe, stack: ExitStack) -> Callable[[dict[str, float], int], object]:
    """A function that logs the figures of an epoch; closed with the stack."""
    asked = recipe.model_dump(exclude_none=True)
    if tracker == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter

        writer = stack.enter_context(SummaryWriter(str(out.parent / "tensorboard" / out.name)))
        return lambda figures, epoch: [writer.add_scalar(name, value, epoch) for name, value in figures.items()]
    if tracker == "mlflow":
        import mlflow

        stack.enter_context(mlflow.start_run(run_name=out.name))
        mlflow.log_params(asked)
        return lambda figures, epoch: mlflow.log_metrics(figures, step=epoch)
    if tracker == "wandb":
        import wandb

        run = stack.enter_context(wandb.init(project="tlexport", name=out.name, config=asked))
        return lambda figures, epoch: run.log(figures, step=epoch)
    return lambda figures, epoch: None

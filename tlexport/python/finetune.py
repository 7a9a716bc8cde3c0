"""``tlexport.finetune``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tlexport import arguments
from tlexport.errors import UsageError
from tlexport.python import values
from tlexport.python.result import ClassScore, Result, class_scores, per_class_table, plain
from tlexport.python.tables import Table, percent
from tlexport.python.values import OnError, PathLike
from tlexport.storage.machine_errors import expect_usable, machine_errors

if TYPE_CHECKING:
    from tlexport.api.finetune import Trained


@dataclass(frozen=True, repr=False)
class FinetuneResult(Result):
    """A checkpoint, and how good it is on the validation images."""

    path: Path  # the checkpoint directory
    metrics: dict[str, float]
    n: int  # validation images
    top1: float  # 0..1
    per_class: dict[str, ClassScore]
    seconds: float
    sessions: int  # more than 1 where the run was resumed
    frozen_stages: tuple[str, ...]
    frozen_parameters: int
    advice: tuple[str, ...]

    def _shown(self) -> Sequence[Table | str]:
        figures = f"validation top-1 {percent(self.top1)} of {self.n} images, {self.seconds:.1f} s"
        return [per_class_table(self.per_class), figures, f"checkpoint: {self.path}", *self.advice]


def finetune(
    data: PathLike,
    *,
    recipe: PathLike | None = None,
    backbone: str | None = None,
    weights: PathLike | None = None,
    strategy: Literal["head", "partial", "gradual", "full"] | None = None,
    freeze: str | int | None = None,
    image_size: int | None = None,
    epochs: int | None = None,
    head: Literal["solved", "trained"] | None = None,
    head_epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | Literal["auto"] | None = None,
    fine_lr: float | None = None,
    stage_decay: float | None = None,
    schedule: Literal["cosine", "one-cycle", "constant"] | None = None,
    clip: float | None = None,
    ema: float | None = None,
    optimizer: Literal["adamw", "sgd"] | None = None,
    weight_decay: float | None = None,
    label_smoothing: float | None = None,
    patience: int | None = None,
    balance: Literal["none", "weights", "sampler"] | None = None,
    augment: Literal["none", "light", "medium", "strong"] | None = None,
    views: int | None = None,
    flip: bool | None = None,
    val_fraction: float | None = None,
    background: str | tuple[int, int, int] | None = None,
    teacher: PathLike | None = None,
    seed: int | None = None,
    resume: bool = False,
    restart: bool = False,
    cache: Literal["on", "off"] = "on",
    tracker: Literal["auto", "none", "tensorboard", "mlflow", "wandb"] = "auto",
    target: PathLike | None = None,
    on_error: OnError | None = None,
    device: str = "auto",
    threads: int | None = None,
    out: PathLike | None = None,
    verbose: bool = False,
    quiet: bool = False,
) -> FinetuneResult:
    """Fine-tune an image classifier and write a checkpoint directory, as ``tlx finetune`` does.

    Args:
        data: a folder of class folders, a folder with train/ val/ test/ of that shape, a .csv or .jsonl table with
            path,label[,split], or ``"demo:digits"``.
        recipe: a recipe.toml to start from; the other arguments take precedence.
        backbone: a name from ``tlx backbones``; None: the recipe's, else mobilenet_v3_small.
        weights: ``"pretrained"`` (default), ``"embedded"``, ``"none"``, or a .safetensors or .pth file.
        strategy: what is trained: the head (default), then the top stages, stage by stage, or everything at once.
        freeze: this stage and all below stay frozen.
        image_size: pixels; None: what the weights were trained at.
        epochs: of all phases together; None: 20.
        head: how the classifier's phase is computed: ``"solved"`` (logistic regression) or ``"trained"``; None: solved, unless another
            argument requires epochs.
        head_epochs: of the first phase (partial, gradual); None: a third.
        batch_size: None: 32.
        lr: peak learning rate, or ``"auto"`` for a range test; None: 0.005, for strategy full 0.001.
        fine_lr: peak rate of the second phase (partial, gradual); None: lr / 3.
        stage_decay: a stage's rate over that of the stage above; None: 1.
        schedule: of the rate after the warm-up; None: cosine.
        clip: largest norm of the gradient; None: no clipping.
        ema: decay of a moving average of the weights; None: no average.
        optimizer: None: adamw.
        weight_decay: None: 0.01.
        label_smoothing: None: 0.05.
        patience: epochs without a better validation loss before a phase stops; None: 8.
        balance: for imbalanced classes: weigh the loss, or draw classes evenly.
        augment: None: no augmentation.
        views: augmented views of each image that frozen stages compute; None: 4.
        flip: whether augmentation may mirror images; None: yes.
        val_fraction: share of the images kept for validation; None: 0.2.
        background: RGB colour behind transparent pixels; None: white.
        teacher: distil from this checkpoint, trained on the same classes.
        seed: None: 0.
        resume: continue an interrupted run: the one of ``out``, else the latest under runs/.
        restart: discard the state of an interrupted run of ``out`` and start again.
        cache: keep decoded images and features for the next run.
        tracker: where epochs are reported; ``"auto"``: TensorBoard if it is installed.
        target: warn if the backbone cannot fit the budget of this profile.
        on_error: images that cannot be read: leave them out, or stop. None: leave out up to 5 %, else stop.
        device: ``"auto"``, ``"cpu"`` or ``"cuda[:N]"``.
        threads: CPU threads; None: one for each usable core.
        out: the checkpoint directory; None: a new one under runs/.
        verbose: report the time of each step.
        quiet: no progress and no notes.

    Raises:
        TlxError: see :mod:`tlexport.errors`.
        KeyboardInterrupt: interrupted. After the first epoch the best weights are in the checkpoint directory, which a note names.
    """
    asked = {
        "backbone": backbone,
        "weights": None if weights is None else values.text("weights", weights),
        "strategy": strategy,
        "freeze": str(freeze) if isinstance(freeze, Integral) else freeze,
        "image_size": image_size,
        "epochs": epochs,
        "head": head,
        "head_epochs": head_epochs,
        "batch_size": batch_size,
        "lr": values.parsed_or_none("lr", lr, arguments.rate),
        "fine_lr": fine_lr,
        "stage_decay": stage_decay,
        "schedule": schedule,
        "clip": None if clip is None else values.real("clip", clip, 0, 1e6),
        "ema": ema,
        "optimizer": optimizer,
        "weight_decay": weight_decay,
        "label_smoothing": label_smoothing,
        "patience": patience,
        "balance": balance,
        "augment": augment,
        "views": views,
        "flip": flip,
        "val_fraction": val_fraction,
        "background": values.parsed_or_none("background", background, arguments.colour),
        "teacher": None if teacher is None else values.text("teacher", teacher),
        "seed": seed,
    }
    values.flags(resume=resume, restart=restart)
    with machine_errors():
        from tlexport.loading.run_request import requested_recipe, size_budget
        from tlexport.python.notebook import reporter

        progress = reporter(verbose, quiet)
        source = values.text("data", data)
        expect_usable([source])
        options = _recipe_options(asked)
        place = values.place("out", out)
        settings: dict[str, Any] = {
            "device": values.parsed("device", device, arguments.device),
            "threads": values.threads(threads),
            "on_error": values.choice_or_none("on_error", on_error, "skip", "fail"),
            "cache": values.choice("cache", cache, "on", "off") == "on",
            "tracker": values.choice("tracker", tracker, "auto", "none", "tensorboard", "mlflow", "wandb"),
            "budget_bytes": size_budget(None if target is None else values.text("target", target)),
            "resume": resume,
            "restart": restart,
        }
        start = values.path_or_none("recipe", recipe)
        base, request = requested_recipe(place, start, options, resume=resume, restart=restart)
        # what imports torch, which takes seconds, comes after the checks that need none
        from tlexport.api.finetune import FinetuneSettings
        from tlexport.api.finetune import finetune as train
        from tlexport.loading.runs import interrupted_run

        if resume:
            place, request = interrupted_run(source, place, base, options)
        trained = train(source, request, place, FinetuneSettings(**settings), progress=progress)
        if trained.checkpoint.interrupted:
            epochs_done = trained.checkpoint.metrics["epochs"]
            progress.note(f"interrupted: the best of {epochs_done:.0f} epochs was kept in {trained.path}")
            raise KeyboardInterrupt
        return _result(trained)


def _recipe_options(asked: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, checked by the record that holds them. Raises UsageError, which names each wrong one."""
    from tlexport.recipe import Recipe

    given = {name: _number(value) for name, value in asked.items() if value is not None}
    checked = Recipe.check(given)
    if not isinstance(checked, Recipe):
        raise UsageError("\n".join(f"{mistake}" for mistake in checked), "see: help(tlexport.finetune)")
    return given


def _number(value: Any) -> Any:
    """Numbers of numpy as Python's own, which JSON holds."""
    if isinstance(value, bool):
        return value
    return int(value) if isinstance(value, Integral) else float(value) if isinstance(value, Real) else value


def _result(trained: Trained) -> FinetuneResult:
    frozen, scores = trained.checkpoint.frozen, trained.scores
    return FinetuneResult(
        plain(trained.to_json()),
        path=trained.path,
        metrics=dict(trained.checkpoint.metrics),
        n=scores.n,
        top1=scores.top1,
        per_class=class_scores(scores),
        seconds=trained.seconds,
        sessions=trained.sessions,
        frozen_stages=tuple(frozen.stages),
        frozen_parameters=frozen.parameters,
        advice=trained.advice,
    )

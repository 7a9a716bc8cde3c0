"""``tlx finetune``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlexport import arguments
from tlexport.cli import options
from tlexport.cli.output import echo, echo_path, percent, print_json, print_table, progress

if TYPE_CHECKING:
    from tlexport.api.finetune import Trained
    from tlexport.recipe import Recipe


@click.command(
    epilog=options.examples(
        "tlx finetune demo:digits --weights embedded --no-flip",
        "tlx finetune photos/ --backbone mobilenet_v2 --strategy partial --freeze stage4 --epochs 20",
    )
)
@click.argument("data")
@click.option("--recipe", type=click.Path(path_type=Path), help="A recipe.toml to start from; the other options go over it.")
@click.option("--backbone", help="A name from `tlx backbones`; default mobilenet_v3_small.")
@click.option("--weights", help="imagenet (default), embedded, none, or a .safetensors or .pth file.")
@click.option(
    "--strategy",
    type=click.Choice(["head", "partial", "gradual", "full"]),
    help="What is trained: the head (default); then the top stages; then stage by stage while it helps; all at once.",
)
@click.option("--freeze", metavar="STAGE", help="This stage and all below stay frozen; a name or number from `tlx backbones NAME`.")
@click.option("--image-size", type=click.IntRange(32, 1024), help="Pixels; default: what the weights were trained at.")
@click.option("--epochs", type=click.IntRange(1, 10_000), help="All phases together; default 20.")
@click.option("--head-epochs", type=click.IntRange(1), help="With partial, gradual: epochs of the first phase; default a third.")
@click.option("--batch-size", type=click.IntRange(2, 65_536), help="Default 32.")
@click.option("--lr", type=options.rate, help="Peak learning rate, or auto: found by a range test; default 0.005, for strategy full 0.001.")
@click.option(
    "--fine-lr",
    type=options.Number(0, 10, min_open=True, max_open=True),
    help="With partial, gradual: peak rate of the second phase; default lr / 3.",
)
@click.option("--stage-decay", type=options.Number(0, 1, min_open=True), help="A stage's rate over that of the stage above; default 1.")
@click.option("--schedule", type=click.Choice(["cosine", "one-cycle", "constant"]), help="Of the rate, after its warm-up; default cosine.")
@click.option("--clip", type=options.Number(0, 1e6), help="Largest norm of the gradient; default 0: not clipped.")
@click.option("--ema", type=options.Number(0, 1, max_open=True), help="Decay of a moving average of the weights; default 0: none.")
@click.option("--optimizer", type=click.Choice(["adamw", "sgd"]), help="Default adamw.")
@click.option("--weight-decay", type=options.Number(0, 1, max_open=True), help="Default 0.01.")
@click.option("--label-smoothing", type=options.Number(0, 1, max_open=True), help="Default 0.05.")
@click.option("--patience", type=click.IntRange(1), help="Epochs without a better validation loss before a phase stops; default 8.")
@click.option(
    "--balance", type=click.Choice(["none", "weights", "sampler"]), help="For imbalanced classes: weigh the loss, or draw evenly."
)
@click.option(
    "--augment",
    type=click.Choice(["none", "light", "medium", "strong"]),
    help="Crop and flip; also TrivialAugment; RandAugment, erasing and mixup. Default none.",
)
@click.option("--views", type=click.IntRange(1, 1000), help="Augmented views of each image that frozen stages compute; default 4.")
@click.option("--flip/--no-flip", default=None, help="Whether augmentation may mirror images; not for text or digits.")
@click.option("--val-fraction", type=options.Number(0, 1, min_open=True, max_open=True), help="Share kept for validation; default 0.2.")
@click.option(
    "--background",
    callback=options.checked(arguments.colour),
    metavar="R,G,B",
    help="Colour behind transparent pixels; default 255,255,255.",
)
@click.option("--teacher", metavar="CHECKPOINT", help="Distil from this checkpoint, trained on the same classes.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Default 0.")
@click.option("--resume", is_flag=True, help="Continue a run that was killed: the one of --out, else the latest under runs/.")
@click.option("--restart", is_flag=True, help="Discard the state of an interrupted run of --out, and begin anew.")
@click.option(
    "--cache", type=click.Choice(["on", "off"]), default="on", show_default=True, help="Keep decoded images and features for the next run."
)
@click.option(
    "--tracker",
    type=click.Choice(["auto", "none", "tensorboard", "mlflow", "wandb"]),
    default="auto",
    show_default=True,
    help="Where epochs are reported; auto: TensorBoard where it is installed.",
)
@click.option("-t", "--target", metavar="PROFILE", help="Say beforehand if the backbone cannot fit this device's budget.")
@options.on_error
@options.device
@options.threads
@options.out
@options.as_json
@options.verbosity
def command(
    data: str,
    recipe: Path | None,
    resume: bool,
    restart: bool,
    cache: str,
    tracker: Any,
    target: str | None,
    on_error: Any,
    device: str,
    threads: int | None,
    out: Path | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    **asked: Any,
) -> int:
    """Adapt a pretrained network to the images of DATA; writes a checkpoint directory, whose path is the last line.

    DATA is a folder of class folders, a folder with train/ val/ test/ of that shape, a .csv or .jsonl table with
    path,label[,split], or demo:digits.
    """
    from tlexport.errors import INTERRUPTED
    from tlexport.loading.model import LATEST
    from tlexport.recipe import Recipe

    if resume and restart:
        raise click.UsageError("--resume and --restart exclude each other")
    if out == LATEST:
        raise click.BadParameter(f"{out} is the link to the newest run; give the run a name of its own", param_hint="--out")
    base = Recipe.read_toml(recipe) if recipe else None
    given = {key: value for key, value in asked.items() if value is not None}
    request = Recipe.parse((base.model_dump() if base else {}) | given, "the recipe asked for")
    budget = _budget(target)
    if not resume:  # a resumed run has a recipe that was checked
        _expect_feasible(request)
    # what imports torch, which takes seconds, comes after the checks that need none
    from tlexport.api.finetune import finetune
    from tlexport.loading.runs import interrupted_run
    from tlexport.train.distributed import place_among_workers
    from tlexport.train.memory import keep_freed_memory

    keep_freed_memory()
    reporter = progress(verbose, quiet)
    place = place_among_workers()
    if place.count > 1 and out is None:
        raise click.UsageError("under torchrun all processes need the same --out")
    if resume:
        out, request = interrupted_run(data, out, base, given)
    trained = finetune(
        data,
        request,
        out,
        device=device,
        threads=threads,
        on_error=on_error,
        cache=cache == "on",
        tracker=tracker,
        budget_bytes=budget,
        resume=resume,
        restart=restart,
        progress=reporter,
    )
    if place.rank > 0:
        return 0  # the first process has written, and speaks for all
    if trained.checkpoint.interrupted:
        reporter.note(f"interrupted: the best of {trained.checkpoint.metrics['epochs']:.0f} epochs was kept")
    _show(trained, as_json)
    return INTERRUPTED if trained.checkpoint.interrupted else 0


def _expect_feasible(request: Recipe) -> None:
    """Refuse a recipe with an unknown name in it, or that contradicts itself."""
    from tlexport.loading.model import load
    from tlexport.train.request import expect_feasible

    expect_feasible(request)
    if request.teacher is not None:
        load(Path(request.teacher))


def _show(trained: Trained, as_json: bool) -> None:
    """Print the result; the checkpoint's path is the last line."""
    if as_json:
        print_json(trained.to_json())
    else:
        scores = trained.scores
        table = [(name, str(row["n"]), _share(row["recall"]), _share(row["precision"])) for name, row in scores.per_class().items()]
        print_table("", ("class", "images", "recall", "precision"), table[:20])
        if len(table) > 20:
            echo(f"... and {len(table) - 20} more classes: tlx evaluate {trained.path} DATA --json")
        sessions = f" in {trained.sessions} sessions" if trained.sessions > 1 else ""
        echo(f"validation top-1 {percent(scores.top1)} of {scores.n} images, {trained.seconds:.1f} s{sessions}")
        echo_path(trained.path)


def _share(value: float | int | None) -> str:
    return "-" if value is None else percent(value)


def _budget(target: str | None) -> int | None:
    """Largest model file of a target, bytes."""
    if target is None:
        return None
    from tlexport.hardware.target import resolve

    return resolve(target).profile.budget.size_bytes

"""``tlx finetune``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlexport import arguments
from tlexport.cli import options
from tlexport.cli.output import echo, echo_path, print_json, print_table, progress
from tlexport.units import format_percent

if TYPE_CHECKING:
    from tlexport.api.finetune import Trained

MOST_ROWS = 20  # classes that the table shows


@dataclass(frozen=True)
class FinetuneOptions:
    """The options of ``tlx finetune``."""

    data: str
    recipe: Path | None
    changes: Mapping[str, Any]  # the options that replace a key of the recipe; None: not given
    resume: bool
    restart: bool
    cache: str
    tracker: Any
    target: str | None
    on_error: Any
    device: str
    threads: int | None
    out: Path | None
    as_json: bool
    verbose: bool
    quiet: bool

    def replaced(self) -> dict[str, Any]:
        """The keys of the recipe that options replace, with their values."""
        return {key: value for key, value in self.changes.items() if value is not None}


@click.command(
    epilog=options.examples(
        "tlx finetune demo:digits --weights embedded --no-flip",
        "tlx finetune photos/ --backbone mobilenet_v2 --strategy partial --freeze stage4 --epochs 20",
    )
)
@click.argument("data")
@click.option("--recipe", type=click.Path(path_type=Path), help="Start from this recipe.toml. Other options override its keys.")
@click.option("--backbone", help="A name from `tlx backbones`. Default: mobilenet_v3_small.")
@click.option(
    "--weights", help="Initial weights: pretrained (default; imagenet is a synonym), embedded, none, or a .safetensors or .pth file."
)
@click.option(
    "--strategy",
    type=click.Choice(["head", "partial", "gradual", "full"]),
    help="Stages to train. head (default): the classifier. partial: the head, then the top stages. "
    "gradual: stage by stage from the top while accuracy improves. full: all at once.",
)
@click.option(
    "--head",
    type=click.Choice(["solved", "trained"]),
    help="The classifier's phase. solved: logistic regression on the features. trained: epochs. Default: solved, unless another option "
    "requires epochs.",
)
@click.option("--freeze", metavar="STAGE", help="Freeze this stage and all below it: a name or number from `tlx backbones NAME`.")
@click.option("--image-size", type=click.IntRange(32, 1024), help="Side of the input, pixels. Default: that of the weights.")
@click.option("--epochs", type=click.IntRange(1, 10_000), help="Epochs of all phases together. Default: 20.")
@click.option("--head-epochs", type=click.IntRange(1), help="Epochs of the first phase (partial, gradual). Default: a third.")
@click.option("--batch-size", type=click.IntRange(2, 65_536), help="Images per optimizer step. Default: 32.")
@click.option(
    "--lr",
    type=options.rate,
    help="Peak learning rate, or auto (learning rate range test). Default: 0.005; for --strategy full 0.001.",
)
@click.option(
    "--fine-lr",
    type=options.Number(0, 10, min_open=True, max_open=True),
    help="Peak learning rate of the second phase (partial, gradual). Default: a third of --lr.",
)
@click.option(
    "--stage-decay",
    type=options.Number(0, 1, min_open=True),
    help="Layer-wise learning rate decay: factor from each stage to the one below. Default: 1.",
)
@click.option(
    "--schedule", type=click.Choice(["cosine", "one-cycle", "constant"]), help="Learning rate schedule after the warm-up. Default: cosine."
)
@click.option("--clip", type=options.Number(0, 1e6), help="Largest norm of the gradient. Default: 0, no clipping.")
@click.option("--ema", type=options.Number(0, 1, max_open=True), help="Decay of a moving average of the weights. Default: 0, none.")
@click.option("--optimizer", type=click.Choice(["adamw", "sgd"]), help="Default: adamw.")
@click.option("--weight-decay", type=options.Number(0, 1, max_open=True), help="Default: 0.01.")
@click.option("--label-smoothing", type=options.Number(0, 1, max_open=True), help="Default: 0.05.")
@click.option("--patience", type=click.IntRange(1), help="Stop a phase after this many epochs without a lower validation loss. Default: 8.")
@click.option(
    "--balance",
    type=click.Choice(["none", "weights", "sampler"]),
    help="For imbalanced classes: weight the loss, or sample all classes equally often. Default: none.",
)
@click.option(
    "--augment",
    type=click.Choice(["none", "light", "medium", "strong"]),
    help="light: crop and flip. medium: also TrivialAugment. strong: also RandAugment, erasing and mixup. Default: none.",
)
@click.option("--views", type=click.IntRange(1, 1000), help="Augmented views of each image that pass the frozen stages. Default: 4.")
@click.option("--flip/--no-flip", default=None, help="Allow augmentation to mirror images. Use --no-flip for text and digits.")
@click.option(
    "--val-fraction",
    type=options.Number(0, 1, min_open=True, max_open=True),
    help="Fraction of the images to hold out for validation. Default: 0.2.",
)
@click.option(
    "--background",
    callback=options.checked(arguments.colour),
    metavar="R,G,B",
    help="Colour behind transparent pixels. Default: 255,255,255.",
)
@click.option("--teacher", metavar="CHECKPOINT", help="Distil from this checkpoint. It must have the same classes.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Default: 0.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run: the one at --out, else the latest under runs/.")
@click.option("--restart", is_flag=True, help="Discard the state of the interrupted run at --out and start again.")
@click.option(
    "--cache",
    type=click.Choice(["on", "off"]),
    default="on",
    show_default=True,
    help="Store decoded images and features for the next run.",
)
@click.option(
    "--tracker",
    type=click.Choice(["auto", "none", "tensorboard", "mlflow", "wandb"]),
    default="auto",
    show_default=True,
    help="Where to log epochs. auto: TensorBoard if it is installed.",
)
@click.option("-t", "--target", metavar="PROFILE", help="Warn before training if the backbone cannot meet this profile's size budget.")
@options.on_error
@options.device
@options.threads
@options.out
@options.as_json
@options.verbosity
@options.collected(FinetuneOptions, rest="changes")
def command(given: FinetuneOptions) -> int:
    """Fine-tune a pretrained network on the images of DATA and write a checkpoint directory.

    DATA is a folder with one folder per class, a folder with train/, val/ and test/ of that form, a .csv or .jsonl table
    with the columns path,label[,split], or demo:digits. The last line of the output is the path of the checkpoint.
    """
    from tlexport.errors import INTERRUPTED
    from tlexport.loading.run_request import requested_recipe, size_budget

    out = given.out
    base, request = requested_recipe(out, given.recipe, given.replaced(), resume=given.resume, restart=given.restart)
    budget = size_budget(given.target)
    # modules that import torch, which takes seconds, come after the checks that need none
    from tlexport.api.finetune import FinetuneSettings, finetune
    from tlexport.loading.runs import interrupted_run
    from tlexport.train.distributed import place_among_workers
    from tlexport.train.memory import keep_freed_memory

    keep_freed_memory()
    reporter = progress(given.verbose, given.quiet)
    place = place_among_workers()
    if place.count > 1 and out is None:
        raise click.UsageError("under torchrun all processes need the same --out")
    if given.resume:
        out, request = interrupted_run(given.data, out, base, given.replaced())
    trained = finetune(
        given.data,
        request,
        out,
        FinetuneSettings(
            device=given.device,
            threads=given.threads,
            on_error=given.on_error,
            cache=given.cache == "on",
            tracker=given.tracker,
            budget_bytes=budget,
            resume=given.resume,
            restart=given.restart,
        ),
        progress=reporter,
    )
    if place.rank > 0:
        return 0  # only the first process prints results
    if trained.checkpoint.interrupted:
        reporter.note(f"interrupted: the best of {trained.checkpoint.metrics['epochs']:.0f} epochs was kept")
    if given.as_json:
        print_json(trained.to_json())
    else:
        _show(trained)
    return INTERRUPTED if trained.checkpoint.interrupted else 0


def _show(trained: Trained) -> None:
    """Print recall and precision of each class, the accuracy, and the path of the checkpoint."""
    scores = trained.scores
    table = [
        (name, str(row["n"]), format_percent(row["recall"]), format_percent(row["precision"])) for name, row in scores.per_class().items()
    ]
    print_table("", ("class", "images", "recall", "precision"), table[:MOST_ROWS])
    if len(table) > MOST_ROWS:
        echo(f"... and {len(table) - MOST_ROWS} more classes: tlx evaluate {trained.path} DATA --json")
    sessions = f" in {trained.sessions} sessions" if trained.sessions > 1 else ""
    echo(f"validation top-1 {format_percent(scores.top1)} of {scores.n} images, {trained.seconds:.1f} s{sessions}")
    echo_path(trained.path)

"""``tlx backbones``."""

from __future__ import annotations

import click

from tlexport.cli import options
from tlexport.cli.output import echo, print_json, print_table
from tlexport.units import format_bytes


@click.command(epilog=options.examples("tlx backbones", "tlx backbones mobilenet_v3_small"))
@click.argument("name", required=False)
@options.as_json
def command(name: str | None, as_json: bool) -> None:
    """List all backbones, or the stages, parameters and weights of one.

    --freeze takes the names and numbers of the stages.
    """
    from tlexport.api.backbones import describe_backbone, list_backbones

    if name is None:
        found = list_backbones()
        if as_json:
            print_json([backbone.to_json() for backbone in found])
        else:
            rows = [(b.name, b.family, "pretrained" + (", embedded" if b.embedded else "")) for b in found]
            print_table("", ("backbone", "family", "weights"), rows)
        return
    detail = describe_backbone(name)
    if as_json:
        print_json(detail.to_json())
        return
    rows = [(f"{number}  {stage.name}", f"{stage.parameters:,}", stage.output) for number, stage in enumerate(detail.stages)]
    print_table(f"{name}, {detail.image_size} pixels", ("stage", "parameters", "output (channels x height x width)"), rows)
    echo(f"{detail.parameters:,} parameters with 1000 classes, {format_bytes(4 * detail.parameters)} in FP32")
    top1 = "top-1 not published" if detail.imagenet_top1 is None else f"top-1 {detail.imagenet_top1:.2f} %"
    echo(f"pretrained weights: {detail.imagenet} ({detail.source}), {top1}, licence {detail.licence or 'not stated'}")
    echo(f"embedded weights: {'yes' if detail.embedded else 'no'}")

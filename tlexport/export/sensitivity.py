"""Shows which blocks lose accuracy in INT8: a table and a plot in the bundle."""

from __future__ import annotations

from pathlib import Path

from tlexport.artifact import Artifact

TABLE, PLOT = "sensitivity.md", "sensitivity.svg"
ABOUT = """# What INT8 does to each block

A block is a weighted node and what follows it up to the next. Its divergence is that of the model's probabilities from those of FP32 with
this block alone in INT8: Kullback-Leibler, in nats, mean over training images that set no ranges.

| block | divergence | it is in |
|---|---|---|
"""


def write_sensitivity(folder: Path, artifact: Artifact) -> None:
    """Write the table and the plot if blocks were ranked.

    Args:
        folder: the bundle.
        artifact: of the INT8 model.
    """
    if artifact.mixed is None:
        return
    ranking, kept = artifact.mixed.ranking, set(artifact.mixed.kept)
    rows = [f"| `{found.block}` | {found.divergence:.6f} | {'float' if found.block in kept else 'INT8'} |\n" for found in ranking]
    (folder / TABLE).write_text(ABOUT + "".join(rows), encoding="utf-8")
    _plot(folder / PLOT, [found.divergence for found in ranking], [found.block in kept for found in ranking])


def _plot(path: Path, divergence: list[float], in_float: list[bool]) -> None:
    import matplotlib
    from matplotlib.figure import Figure  # imported late: most exports draw nothing

    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots()
    for kept, label, colour in ((True, "back in float", "tab:orange"), (False, "INT8", "tab:blue")):
        chosen = [place for place, is_kept in enumerate(in_float) if is_kept == kept]
        axes.bar([place + 1 for place in chosen], [divergence[place] for place in chosen], label=label, color=colour)
    axes.set_yscale("log")
    axes.set_xlabel("block, the most harmed first")
    axes.set_ylabel("divergence with it alone in INT8, nats")
    axes.legend()
    with matplotlib.rc_context({"svg.hashsalt": "tlexport"}):  # the same ranking gives the same file
        figure.savefig(path, format="svg", metadata={"Date": None})

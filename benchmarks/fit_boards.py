"""Fit the boards' figures to published latencies, score them on networks left out, and write both::

    python benchmarks/published_networks.py NETWORKS
    python benchmarks/fit_boards.py --rows latency.csv --networks NETWORKS --write

The table of latencies is not part of the repository, because its licences were not checked. Its columns are device, power_mode, runtime,
network, resolution, precision, latency_ms, source, notes. benchmarks/results/boards.json holds the scores; --write updates the figures in
profiles/*.toml, below a marker line.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import board_scores as scores
from board_figures import BOARDS, Fitted, figures_of, written
from board_model import Amounts, Model, Row, Unit, fit_without
from board_rows import origin_of, read_rows, relatives_of

from tlexport.artifact import PRECISIONS
from tlexport.estimate.boards import NAMES, conditions, work
from tlexport.estimate.cost import cost_of
from tlexport.estimate.graph import fused, read
from tlexport.hardware.board_rates import Conditions
from tlexport.hardware.target import load_profile, profile_path

RESULT = Path(__file__).resolve().parent / "results" / "boards.json"
# Pairs of boards with rows of the same runtime and precision, related like a board without rows and the board it borrows from: the same
# cores or the next generation.
PAIRS = {
    "Jetson Nano": "Jetson TX2",
    "Jetson TX2": "Jetson Nano",
    "Jetson AGX Xavier": "Jetson TX2",
    "Raspberry Pi 3B+": "Raspberry Pi Zero 2 W",
    "Raspberry Pi Zero 2 W": "Raspberry Pi 3B+",
    "Raspberry Pi 5": "RK3588",
    "RK3588": "Raspberry Pi 5",
    "RK3568": "Raspberry Pi 3B+",
}


@dataclass(frozen=True)
class Run:
    """The fits of one runtime. Runtimes share nothing."""

    runtime: str
    rows: Sequence[Row]
    hardware: Mapping[Unit, Conditions]  # of the boards with a profile
    whole: Model
    without: Mapping[str, Model]  # network -> fitted without it
    scored: scores.Scored  # networks left out
    strangers: scores.Scored  # whole architectures left out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True, help="table of published latencies, CSV")
    parser.add_argument("--networks", type=Path, required=True, help="output folder of published_networks.py")
    parser.add_argument("--date", default=datetime.date.today().isoformat(), help="date to record with the figures")
    parser.add_argument("--write", action="store_true", help="write the figures into the profiles")
    options = parser.parse_args()
    rows, others, aside = read_rows(options.rows)
    amounts = amounts_of([*rows, *others], options.networks)
    measured = {row.unit.runtime for row in rows}
    runs = [run_of(name, [row for row in rows if row.unit.runtime == name], amounts) for name in NAMES if name in measured]
    result = {"date": options.date, "rows": len(rows), "aside": dict(aside)} | results(runs, others, amounts)
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: result[key] for key in ("rows", "aside", "left_out", "strangers", "runtimes", "wider")}, indent=1))
    if options.write:
        widths = scores.intervals(scores.joined([run.scored for run in runs]))
        fitted = Fitted({run.runtime: run.whole for run in runs}, rows, widths, options.date)
        for name, figures in figures_of(fitted).items():
            path = profile_path(name)
            path.write_text(written(path.read_text(encoding="utf-8"), figures), encoding="utf-8")
            print(f"{path}: {len(figures)} tables")


def amounts_of(rows: Sequence[Row], folder: Path) -> Amounts:
    """Work of every network in the rows, from its ONNX file."""
    return {name: work(cost_of(fused(read(folder / f"{name}.onnx"), layout=False))) for name in sorted({row.network for row in rows})}


def run_of(runtime: str, rows: Sequence[Row], amounts: Amounts) -> Run:
    """Fit a runtime: to all rows, without each network, and without each architecture."""
    units = {row.unit for row in rows}
    if runtime == "tensorrt":  # some boards have rows in one precision only, or only tuned ones
        units |= {replace(unit, precision=precision, tuned=False) for unit in units for precision in PRECISIONS}
    ordered = sorted(units, key=repr)
    hardware = {}
    for unit in ordered:
        if unit.device in BOARDS:
            hardware[unit] = conditions(load_profile(BOARDS[unit.device]).hardware, unit.precision, unit.threads is None)
    relative_to = hardware if runtime == "tensorrt" else {}  # boards of other runtimes may be unknown
    without = fit_without(rows, ordered, amounts, relative_to, lambda row: origin_of(row.network))
    strange = fit_without(rows, ordered, amounts, relative_to, lambda row: relatives_of(row.network))
    return Run(
        runtime,
        rows,
        hardware,
        Model(ordered, relative_to).fit(rows, amounts),
        without,
        scores.score(rows, without, amounts, lambda row: origin_of(row.network)),
        scores.score(rows, strange, amounts, lambda row: relatives_of(row.network)),
    )


def results(runs: Sequence[Run], others: Sequence[Row], amounts: Amounts) -> dict[str, Any]:
    """The content of the results file: scores only, no published figure."""
    whole = scores.joined([run.scored for run in runs])
    inside = scores.covered(whole)
    strange = scores.joined([run.strangers for run in runs])
    ncnn, tensorrt = (next(run for run in runs if run.runtime == name) for name in ("ncnn", "tensorrt"))
    lent = {"cpu": _lent(ncnn, amounts), "gpu": _lent(tensorrt, amounts)}
    proxies = scores.borrowed(others, {**ncnn.without, "": ncnn.whole}, amounts, {}, lambda unit: unit)
    return {
        "left_out": scores.summary(whole, inside),
        "strangers": scores.summary(strange, scores.covered(strange)),
        "runtimes": scores.table_of(whole, inside, lambda row: NAMES[row.unit.runtime]),
        "boards": [
            {"board": board, "runtime": NAMES[runtime], "precision": precision, **found}
            for (board, runtime, precision), found in scores.table_of(
                whole, inside, lambda row: (row.unit.device, row.unit.runtime, row.unit.precision)
            ).items()
        ],
        "networks": scores.table_of(whole, inside, lambda row: origin_of(row.network)),
        "intervals": {f"{NAMES[group[0]]} {group[1]}": round(factor, 2) for group, factor in scores.intervals(whole).items()},
        "borrowed": {processor: scores.spread(found) for processor, found in lent.items()},
        "proxies": scores.spread(proxies),
        "vulkan_for_tensorrt": scores.spread(_vulkan_for_tensorrt(runs, amounts)),
        "wider": {
            "scaled_cpu": round(scores.excess(lent["cpu"].errors, ncnn.scored.errors), 2),
            "scaled_gpu": round(scores.excess(lent["gpu"].errors, tensorrt.scored.errors), 2),
            "proxy": round(scores.excess(proxies.errors, ncnn.scored.errors), 2),
        },
    }


def _lent(run: Run, amounts: Amounts) -> scores.Scored:
    """Predict rows of boards with the figures that they would borrow without rows of their own."""
    measured = {row.unit for row in run.rows}

    def neighbour(unit: Unit) -> Unit | None:
        other = replace(unit, device=PAIRS.get(unit.device, unit.device))
        return other if other != unit and other in measured and not unit.tuned else None

    return scores.borrowed(run.rows, run.without, amounts, run.hardware, neighbour)


def _vulkan_for_tensorrt(runs: Sequence[Run], amounts: Amounts) -> scores.Scored:
    """Predict TensorRT's rows with ncnn's figures for the same GPU."""
    vulkan, tensorrt = (next(run for run in runs if run.runtime == name) for name in ("ncnn-vulkan", "tensorrt"))
    models = {**vulkan.without, "": vulkan.whole}
    return scores.borrowed(
        tensorrt.rows, models, amounts, {}, lambda unit: replace(unit, runtime="ncnn-vulkan", tuned=False) if not unit.tuned else None
    )


if __name__ == "__main__":
    main()

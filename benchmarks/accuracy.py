"""Top-1 accuracy of the strategies on small image sets, all from the same real ImageNet trunk::

    python benchmarks/accuracy_data.py SOURCES SETS
    python benchmarks/accuracy.py SETS --per-class 20 100 --seeds 1

For each set, a third of the images of each class (at least 10) is held out, and ``--per-class`` of the others are trained on. Wall time is
that of ``finetune`` in one process, from image files to the written checkpoint, without caches of earlier runs. JSON goes to
benchmarks/results/accuracy.json, one record for each run, and a table to standard output.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tlexport.api.finetune import FinetuneSettings, finetune
from tlexport.bench.environment import describe_machine
from tlexport.recipe import Recipe

RESULT = Path(__file__).parent / "results" / "accuracy.json"
METHODS: dict[str, dict[str, Any]] = {
    "head, solved (default)": {"strategy": "head"},
    "head, 20 epochs": {"strategy": "head", "head": "trained"},
    "partial, from the solved head": {"strategy": "partial"},
}


def part(data: Path, per_class: int, seed: int, out: Path) -> Path:
    """The set as OUT/train and OUT/val, of links."""
    rng = np.random.default_rng(seed)
    for folder in sorted(data.iterdir()):
        files = sorted(folder.iterdir())
        order = rng.permutation(len(files))
        held = max(10, len(files) // 3)
        for name, chosen in (("val", order[:held]), ("train", order[held : held + per_class])):
            (out / name / folder.name).mkdir(parents=True)
            for index in chosen:
                (out / name / folder.name / files[index].name).symlink_to(files[index].resolve())
    return out


def run(data: Path, method: str, arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One training. Accuracy and calibration error are of the held-out images."""
    recipe = Recipe(backbone=arguments.backbone, image_size=arguments.image_size, seed=seed, **METHODS[method])
    settings = FinetuneSettings(device="cpu", cache=False, tracker="none", restart=True)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        found = finetune(str(data), recipe, Path(folder) / "run", settings)
        seconds = time.perf_counter() - started
    images = sum(path.is_symlink() for path in (data / "train").rglob("*"))
    return {"method": method, "top1": found.scores.top1, "n": found.scores.n, "ece": found.scores.ece, "images": images, "seconds": seconds}


def show(rows: list[dict[str, Any]]) -> None:
    """A row for each set and number of images: mean top-1 in percent over seeds, and wall time."""
    print("| set | images a class |", " | ".join(METHODS), "|")
    print("|---|---:|" + "---:|" * len(METHODS))
    for name, count in dict.fromkeys((row["set"], row["per_class"]) for row in rows):
        cells = []
        for method in METHODS:
            mine = [row for row in rows if (row["set"], row["per_class"], row["method"]) == (name, count, method)]
            top1 = 100 * np.mean([row["top1"] for row in mine])
            cells.append(f"{top1:.1f} ({np.mean([row['seconds'] for row in mine]):.0f} s)" if mine else "–")
        print(f"| {name} | {count} |", " | ".join(cells), "|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", type=Path)
    parser.add_argument("--per-class", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--image-size", type=int, default=128)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for seed in range(arguments.seeds):
        for per_class in arguments.per_class:
            for data in sorted(arguments.sets.iterdir()):
                with tempfile.TemporaryDirectory() as folder:
                    images = part(data, per_class, seed, Path(folder) / "data")
                    for method in METHODS:
                        row = {"set": data.name, "per_class": per_class, "seed": seed, **run(images, method, arguments, seed)}
                        print(row, file=sys.stderr, flush=True)
                        rows.append(row)
                record = {"backbone": arguments.backbone, "image_size": arguments.image_size, "runs": rows}
                record["environment"] = describe_machine("cpu").model_dump(mode="json")
                RESULT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    show(rows)


if __name__ == "__main__":
    main()

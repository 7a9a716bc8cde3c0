"""Accuracy gained by the embedded trunk: printed letters to handwritten digits, 20 training images per class, five seeds.

Compares, on the same images, a classifier on the frozen embedded trunk, one on a frozen random trunk, and the same network trained from
scratch. As the best case for a random trunk, a linear classifier is fitted to each of its stages, and the stage that scores best on the
validation images counts. Writes benchmarks/results/transfer.json::

    python benchmarks/transfer.py
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tlexport.api.finetune import FinetuneSettings, finetune
from tlexport.bench.environment import describe_machine
from tlexport.contract import Preprocess
from tlexport.data.decode import decode_all
from tlexport.data.demo import digits_folder
from tlexport.data.source import read_source
from tlexport.network import Contract, build
from tlexport.recipe import Recipe

RESULT = Path(__file__).parent / "results" / "transfer.json"
PER_CLASS = 20
COMMON = {"image_size": 64, "flip": False, "batch_size": 32}
RUNS = {
    "embedded trunk, frozen": Recipe(weights="embedded", strategy="head", epochs=60, lr=3e-3, patience=60, **COMMON),
    "random trunk, frozen": Recipe(weights="none", strategy="head", epochs=60, lr=3e-3, patience=60, **COMMON),
    "from scratch": Recipe(weights="none", strategy="full", epochs=60, lr=2e-3, patience=60, **COMMON),
}


def table(digits: Path, seed: int, path: Path) -> None:
    """Write a table with 20 random images per class for training and all others for validation."""
    draw = np.random.default_rng(seed)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "split"])
        for folder in sorted(p for p in digits.iterdir() if p.is_dir()):
            files = sorted(folder.glob("*.png"))
            chosen = set(draw.permutation(len(files))[:PER_CLASS].tolist())
            for index, file in enumerate(files):
                writer.writerow([file, folder.name, "train" if index in chosen else "val"])


def best_random_stage(data: Path, seed: int) -> tuple[str, float]:
    """Validation accuracy of a linear classifier on the best stage of a random trunk."""
    decoded = decode_all(read_source(str(data)), Preprocess(size=64, resize=64), None, 2, lambda _: None)
    labels = np.array([entry.label for entry in decoded.listing.entries])
    train = np.array([entry.part == "train" for entry in decoded.listing.entries])
    torch.manual_seed(seed)
    network, contract = build("mobilenet_v3_small", 10).eval(), Contract(Preprocess(size=64, resize=64))
    features: dict[str, list[np.ndarray]] = {}
    with torch.inference_mode():
        for start in range(0, len(labels), 128):
            tensor = contract(torch.from_numpy(decoded.pixels[start : start + 128]))
            for name, stage in list(network.stages.items())[:-1]:
                tensor = stage(tensor)
                # globally pooled, as for the network's own head
                pooled = tensor.mean((2, 3)) if tensor.dim() == 4 else tensor
                features.setdefault(name, []).append(pooled.numpy())
    scores = {}
    for name, parts in features.items():
        x = np.concatenate(parts)
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            scores[name] = model.fit(x[train], labels[train]).score(x[~train], labels[~train])
    best = max(scores, key=lambda name: scores[name])
    return best, float(scores[best])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    top1: dict[str, list[float]] = {name: [] for name in (*RUNS, "random trunk, its best stage")}
    with tempfile.TemporaryDirectory() as folder:
        digits = digits_folder(Path(folder) / "digits")
        for seed in range(arguments.seeds):
            data = Path(folder) / f"seed{seed}.csv"
            table(digits, seed, data)
            for name, recipe in RUNS.items():
                trained = finetune(
                    str(data), recipe.model_copy(update={"seed": seed}), Path(folder) / "run", FinetuneSettings(device="cpu")
                )
                top1[name].append(trained.scores.top1)
                print(f"seed {seed}, {name}: {100 * trained.scores.top1:.2f} %, {trained.seconds:.0f} s", flush=True)
            stage, value = best_random_stage(data, seed)
            top1["random trunk, its best stage"].append(value)
            print(f"seed {seed}, random trunk, its best stage ({stage}): {100 * value:.2f} %", flush=True)
    result = {
        "what": f"validation top-1 on digits, {PER_CLASS} training images a class, MobileNetV3-small at 64 px",
        "top1": top1,
        "mean": {name: statistics.fmean(values) for name, values in top1.items()},
        "stdev": {name: statistics.stdev(values) for name, values in top1.items() if len(values) > 1},
        "environment": describe_machine().model_dump(),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {RESULT}")


if __name__ == "__main__":
    main()

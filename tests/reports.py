"""Reports of synthetic measurements and validations, with hostile names."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tlexport.accuracy import score
from tlexport.api.bench_report import write_comparison
from tlexport.api.compare import Comparison
from tlexport.artifact import Artifact, Mixed, Sensitivity
from tlexport.bundle.manifest import Golden, Manifest, Model, Rejected
from tlexport.checkpoint import Checkpoint, Frozen
from tlexport.contract import Preprocess, TensorSpec, image_input
from tlexport.hardware.target import load_profile
from tlexport.health.findings import health_json
from tlexport.health.record import DataHealth, DoubtfulLabel, FarImage, Group, LabelCheck, Picture, Sizes
from tlexport.health.section import health_section
from tlexport.loading.bench_request import BenchSettings
from tlexport.measurement import Environment, Interval, Measurement
from tlexport.recipe import Recipe
from tlexport.report.bench import Conditions, Earlier, bench_report
from tlexport.report.health import HealthSection, health_page
from tlexport.report.training import RunTimes, Validated, finetune_report

HOSTILE = (
    "<script>window.hacked = 1</script>",
    '"><img src=x onerror="window.hacked = 2">',
    "</svg></title></style></script><script>window.hacked = 3</script>",
    "{{ 7 * 7 }}{% raw %}",
    "' onmouseover='window.hacked = 4",
    "\u202egnp.elttil \u2066evil",
    "قطة سوداء صغيرة",
    "猫の写真",
    "very-long-" + "x" * 240,
    "$\\frac{$ &amp; &lt;b&gt; #0a0001 url(#a)",
    "a\u200bb\ufeffc",
    "javascript:window.hacked=5",
    "]]> --> <!--",
    "http://example.invalid/x.png",
    "\x1b]0;title\x07\x1b[31mred",
)
# names that no class can have: with control characters, with a space at an end
HOSTILE_CLASSES = tuple(name for name in HOSTILE if name == name.strip() and not set(name) & {"\x0b", "\x1b"})
THOUSAND = tuple(f"class {number:04d} of the thousand" for number in range(1000))
BUILDS = "/home/someone/projects/flowers/build"
LONG_PATHS = tuple(f"{BUILDS}/{day}/flowers-cpu-x86/model.{name}.onnx" for day, name in ((1, "fp32"), (2, "fp32"), (2, "int8")))
LONG_CLASSES = ("Pseudotsuga-menziesii-var-glauca", "a class whose name is a whole sentence of several words", "x" * 120)
FEW = ("cat", "dog", "snail")
SHA = "0123456789abcdef" * 4
LATENCY = {"fp32": 0.9e6, "fp16": 0.8e6, "int8": 0.4e6}  # ns, about


def environment() -> Environment:
    versions = {"onnxruntime": "1.23.0", "numpy": "2.0"}
    return Environment(
        machine="x86_64",
        system="Linux",
        cpu="a CPU",
        cores=2,
        governor=None,
        memory_bytes=8 * 10**9,
        load_1min=0.1,
        python="3.11",
        versions=versions,
    )


def measurement(precision: str = "fp32", runs: int = 400, **changes: Any) -> Measurement:
    """Of a model of :func:`manifest`: log-normal latencies, always the same."""
    random = np.random.default_rng(len(precision) + runs)
    ns = (LATENCY[precision] * random.lognormal(0, 0.05, runs)).astype(int).tolist()
    known: dict[str, Any] = {
        "what": f"bundle/model.{precision}.onnx",
        "artifact_sha256": _sha(precision),
        "precision": precision,
        "runtime": "onnxruntime",
        "provider": "CPUExecutionProvider",
        "threads": 1,
        "batch": 1,
        "warmup_runs": 40,
        "latencies_ns": tuple(ns),
        "load_ns": 10**8,
        "peak_memory_bytes": 90 * 10**6,
        "size_bytes": 3 * 10**6,
        "environment": environment(),
    }
    return Measurement(**(known | changes))


def _sha(precision: str) -> str:
    return precision.encode().hex().ljust(64, "0")


def manifest(classes: tuple[str, ...] = FEW, block: str = "/layer/conv") -> Manifest:
    """Three models for an x86-64 CPU, FP32 chosen, some of INT8's blocks in float, and one model that was not taken."""
    profile = load_profile("cpu-x86")
    preprocess = Preprocess(size=32, resize=32, interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), background=(0, 0, 0))
    ranking = tuple(Sensitivity(block=f"{block}{place}", divergence=0.1 / 3**place) for place in range(6))
    models = []
    for precision, top1, size in (("fp32", 0.97, 6_000_000), ("fp16", 0.969, 3_000_000), ("int8", 0.955, 1_700_000)):
        artifact = Artifact(
            precision=precision,
            opset=17,
            inputs=(image_input(32, "uint8"),),
            outputs=(TensorSpec(name="probabilities", dtype="float32", shape=("batch", len(classes))),),
            preprocess=preprocess,
            classes=classes,
            sha256=_sha(precision),
            size_bytes=size,
            parent_sha256=SHA,
            made_by="a test",
            mixed=Mixed(ranking=ranking, kept=(ranking[0].block,), top1=0.95) if precision == "int8" else None,
        )
        models.append(
            Model(
                file=f"model.{precision}.onnx",
                artifact=artifact,
                top1=top1,
                n=1000,
                drop_points=round(100 * (0.97 - top1), 3),
                parity=1e-5,
                latency=None,
                peak_memory_bytes=None,
                tolerance=0.01,
                golden_outputs=f"golden/{precision}.npy",
                chosen=precision == "fp32",
                reason="fits",
            )
        )
    rejected = Rejected(
        precision="int8", what=f"by {block}", size_bytes=1_500_000, top1=0.9, drop_points=7, latency=None, estimate=None, reason="drop"
    )
    files = {model.file: model.artifact.sha256 for model in models} | {model.golden_outputs: SHA for model in models}
    return Manifest(
        name="made-up",
        target="cpu-x86",
        profile=profile,
        classes=classes,
        preprocess=preprocess,
        models=tuple(models),
        rejected=(rejected,),
        golden=Golden(images=("golden/0.png",), inputs="golden/inputs.npy"),
        files=files | {"golden/0.png": SHA, "golden/inputs.npy": SHA},
        checkpoint_sha256=SHA,
        checkpoint_top1=0.97,
        versions={"tlexport": "0"},
    )


def full(name: str) -> dict[str, Any]:
    """What only some measurements hold, with a name in every place for one."""
    layer = {"name": name, "kind": "Conv", "provider": "CPUExecutionProvider", "us": 120.5, "share": 0.25}
    return {
        "stages": {"decode_ns": [3_000_000, 3_100_000, 2_900_000], "resize_ns": [500_000] * 3, "infer_ns": [900_000] * 3, "images": 3},
        "layers": {"slowest": [layer, layer | {"us": 60.25, "share": 0.125}], "count": 57, "total_us": 482.0, "runs": 20},
        "placement": {"CPUExecutionProvider": 57},
        "watch": {"throttled": False, "watts": 5.5, "temperatures_c": {name: 61.5}},
        "inputs": f"synthetic: {name}",
    }


def checkpoint_record(classes: tuple[str, ...]) -> Checkpoint:
    preprocess = manifest().preprocess
    return Checkpoint(
        recipe=Recipe(weights="embedded", epochs=6),
        classes=classes,
        preprocess=preprocess,
        metrics={"val_top1": 0.9, "best_epoch": 5, "epochs": 6},
        frozen=Frozen(stages=("stem", "stage1"), parameters=900_000, total_parameters=1_500_000),
        weights_sha256=SHA,
        versions={"torch": "2.9"},
    )


def epochs() -> list[dict[str, Any]]:
    keys = ("train_loss", "train_top1", "val_loss", "val_top1")
    made = []
    for number in range(1, 7):
        figures = dict(zip(keys, (1 / number, 1 - 0.4 / number, 1.1 / number, 1 - 0.5 / number), strict=True))
        made.append(
            {"phase": "head" if number < 4 else "+top", "epoch": number, "lr": 0.003, "images_per_s": 800.0, "seconds": 1.25} | figures
        )
    return made


def validated(classes: tuple[str, ...], images: int = 120) -> Validated:
    """Answers of which about one in five is wrong."""
    random = np.random.default_rng(7)
    labels = random.integers(0, len(classes), images)
    logits = random.normal(0, 1, (images, len(classes)))
    logits[np.arange(images), labels] += np.where(random.random(images) < 0.8, 6, -2)
    outputs = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)
    pixels = np.broadcast_to(random.integers(0, 256, (images, 1, 1, 3)), (images, 32, 32, 3)).astype(np.uint8)  # each of one colour
    files = [f"{classes[label]}/{place}.png" for place, label in enumerate(labels)]
    return Validated(score(outputs, labels.tolist(), classes), outputs, labels.tolist(), files, lambda index: pixels[index])


def _three() -> list[Measurement]:
    return [measurement(precision) for precision in LATENCY]


def _hostile_bench() -> str:
    evil = HOSTILE[2]
    strangers = [measurement(what=f"models/{i}-{name}.onnx", artifact_sha256=f"{i:064x}", **full(name)) for i, name in enumerate(HOSTILE)]
    known = manifest(HOSTILE_CLASSES, evil)
    return bench_report(evil, [*_three(), *strangers], known, conditions=Conditions(host=evil, notes=HOSTILE))


def _sweep() -> str:
    measurements = [measurement(batch=batch, threads=threads) for batch in (1, 4) for threads in (1, 2)]
    return bench_report("bundle", measurements, manifest(), conditions=Conditions(on_target=True, real_images=True))


def _full_bench() -> str:
    measurements = [measurement(precision, **full("conv")) for precision in LATENCY]
    return bench_report("bundle", measurements, manifest(), conditions=Conditions(on_target=True, notes=["a noisy machine"]))


def _against() -> str:
    """A model that became slower on another machine, and one that is as it was."""
    slower, same = (
        Earlier(0.8, Interval(1.125, 1.1, 1.15), ("cpu was x, is y",)),
        Earlier(0.4, Interval(1.0, 0.99, 1.01), ()),
    )
    measurements = [measurement(), measurement("int8")]
    return bench_report("bundle", measurements, manifest(), earlier=[slower, same], conditions=Conditions(on_target=True))


def comparisons(names: tuple[str, ...]) -> list[Comparison]:
    """Each model a tenth slower than the one before it; the first one's name is the first."""
    random = np.random.default_rng(3)
    taken = [
        [(tuple((1e6 * 1.1**place * random.lognormal(0, 0.01, 20)).astype(int).tolist()),) for _ in range(10)]
        for place in range(len(names))
    ]
    pairs = [tuple(zip(taken[0], others, strict=True)) for others in taken[1:]]
    return [Comparison(names[0], name, rounds, environment()) for name, rounds in zip(names[1:], pairs, strict=True)]


def _compare(names: tuple[str, ...]) -> str:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "compare.html"
        write_comparison(file, comparisons(names), BenchSettings(threads=1))
        return file.read_text(encoding="utf-8")


def health(classes: tuple[str, ...], source: str = "photos") -> DataHealth:
    """Every kind of finding, with the classes' names in every place for a name."""
    images = [Picture(f"{name}/{row}.png", name, ("train", "val", "left out")[row % 3], row) for row, name in enumerate(classes)]
    groups = [Group((images[0], images[1])), Group((images[1], images[2])), Group((images[0], images[0]))]
    doubtful = tuple(DoubtfulLabel(one, classes[0], 0.9, 0.05) for one in images[1:])
    return DataHealth(
        source=source,
        images=len(images),
        input_size=32,
        classes={name: {"train": 3 * row, "val": row} for row, name in enumerate(classes, 1)},
        unreadable=tuple((f"{name}/bad.jpg", f"damaged: {name}") for name in classes),
        groups=tuple(groups),
        sizes=Sizes((8, 20, 4000), (8, 16, 3000), (images[0],), (images[1],), 0),
        labels=LabelCheck(len(images), 0.93, doubtful),
        far=tuple(FarImage(one, 3.5) for one in images),
        far_skipped="",
        notes=tuple(f"a note on {name}" for name in classes),
        unsplit=f"{source}: no images",
        features="mobilenet_v3_small, embedded",
    )


def _section(found: DataHealth) -> HealthSection:
    return health_section(found, lambda row: np.full((32, 32, 3), row % 256, np.uint8))


def _data(classes: tuple[str, ...], source: str = "photos") -> str:
    found = health(classes, source)
    return health_page(source, _section(found), health_json(found))


def _finetune(classes: tuple[str, ...], images: int, source: str = "photos") -> str:
    steps = [("reading images", 0.3), ("training head", 3.2), (source, 0.1)]
    section = _section(health(classes, source))
    return finetune_report(checkpoint_record(classes), source, epochs(), validated(classes, images), RunTimes(steps, 12.5), (), section)


_PAGES: dict[str, Callable[[], str]] = {
    "bench": lambda: bench_report("bundle", _three(), manifest(), conditions=Conditions(on_target=True, real_images=True)),
    "bench-sweep": _sweep,
    "bench-full": _full_bench,
    "bench-checkpoint": lambda: bench_report("runs/1", [measurement()], checkpoint_record(FEW)),
    "bench-foreign": lambda: bench_report("resnet.onnx", [measurement(runs=1)]),
    "bench-thousand": lambda: bench_report("bundle", _three(), manifest(THOUSAND), conditions=Conditions(on_target=True)),
    "bench-hostile": _hostile_bench,
    "bench-against": _against,
    "compare": lambda: _compare(("a.onnx", "b.onnx")),
    "compare-long": lambda: _compare(LONG_PATHS),
    "compare-hostile": lambda: _compare(HOSTILE),
    "data": lambda: _data(FEW),
    "data-long": lambda: _data(LONG_CLASSES, LONG_PATHS[0]),
    "data-thousand": lambda: _data(THOUSAND),
    "data-hostile": lambda: _data(HOSTILE_CLASSES, HOSTILE[2]),
    "finetune-few": lambda: _finetune(FEW, 120),
    "finetune-long": lambda: _finetune(LONG_CLASSES, 120, LONG_PATHS[0]),
    "finetune-thousand": lambda: _finetune(THOUSAND, 3000),
    "finetune-hostile": lambda: _finetune(HOSTILE_CLASSES, 200, HOSTILE[2]),
}
NAMES = sorted(_PAGES)


@cache
def page(name: str) -> str:
    """One of NAMES, made once."""
    return _PAGES[name]()


def downloads(page: str) -> list[Any]:
    """What the page's download links hold."""
    found = re.findall(r'<a download="[\w.]+" href="data:application/json;base64,([A-Za-z0-9+/=]+)"', page)
    return [json.loads(base64.b64decode(text)) for text in found]

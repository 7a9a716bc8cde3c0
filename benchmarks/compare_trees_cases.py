"""The commands that compare_trees.py runs with each tree: trainings, exports, and what reads their results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from safetensors.numpy import load_file, save_file

Compared = Literal["values", "keys", "code"]  # of JSON: all but measured values; the keys alone; nothing but the exit code

ELSEWHERE = "x86-elsewhere.toml"  # as cpu-x86, but fits no machine
ONE_THREAD = ("--threads", "1")
EMBEDDED = ("--weights", "embedded", "--no-flip", "--image-size", "48", "--epochs", "3")
# backbone, options of the training, targets of its exports
TRAININGS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    (
        "mobilenet_v3_small",
        EMBEDDED,
        ("jetson-nano", "jetson-xavier-nx", "jetson-orin-nano", "jetson-agx-thor", "raspberry-pi-4", ELSEWHERE),
    ),
    ("resnet18", ("--strategy", "full", "--augment", "light", "--ema", "0.9", "--schedule", "one-cycle"), ("jetson-orin-nano", ELSEWHERE)),
    ("efficientnet_b0", ("--strategy", "partial", "--augment", "medium", "--epochs", "2"), ("jetson-xavier-nx", "raspberry-pi-4")),
    ("shufflenet_v2_x0_5", ("--strategy", "gradual", "--epochs", "3", "--augment", "strong"), ("jetson-nano", "raspberry-pi-4")),
    ("squeezenet1_1", ("--lr", "auto", "--balance", "weights"), ("jetson-orin-nano", "raspberry-pi-4")),
    ("regnet_y_400mf", ("--optimizer", "sgd", "--clip", "1", "--balance", "sampler"), ("jetson-xavier-nx",)),
    ("mobilenet_v2", ("--teacher", "{before}/checkpoints/resnet18"), ("raspberry-pi-4",)),
    ("mnasnet0_5", ("--freeze", "stage2", "--strategy", "partial", "--epochs", "2"), (ELSEWHERE,)),
    ("googlenet", (), ("jetson-orin-nano",)),
    ("inception_v3", ("--image-size", "80"), ("raspberry-pi-4",)),
    ("convnext_tiny", ("--image-size", "32"), ("jetson-orin-nano",)),
    ("vgg11_bn", ("--image-size", "32"), ("jetson-orin-nano",)),
)
READ = {"mobilenet_v3_small": "raspberry-pi-4", "resnet18": "x86-elsewhere"}  # bundles that every command reads, not verify alone
SHOWN = ("jetson-nano:5w", "jetson-orin-nano", "raspberry-pi-4", "cpu-x86", "cuda-gpu", "rk3588")


@dataclass(frozen=True)
class Case:
    """One command line. ``{before}`` in it is the folder where BEFORE wrote; other paths are relative to the tree's own folder."""

    name: str
    argv: tuple[str, ...]
    compared: Compared = "values"
    runner: bool = False  # a bundle's own run.py, and no command of the tree

    @property
    def out(self) -> str:
        """Name of the folder that it writes; empty where it writes none."""
        return Path(self.argv[self.argv.index("--out") + 1]).name if "--out" in self.argv else ""

    @property
    def group(self) -> str:
        """Row of the table that its output counts in."""
        if self.name.startswith("old "):
            return "files of BEFORE, read by AFTER"
        return "a bundle's own run.py" if self.runner else self.argv[0]


def make_data(folder: Path, embedded: Path) -> None:
    """Write what the commands read: images, weights, a key, and a profile.

    Args:
        folder: gets 280 images of four classes, PNG and JPEG.
        embedded: weights of mobilenet_v3_small. A copy gets channels of uneven ranges, so that INT8 loses accuracy and each step of its
            recovery runs.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    draw = np.random.default_rng(0)
    y, x = np.mgrid[:40, :48]
    for label in range(4):
        (folder / "images" / f"class{label}").mkdir(parents=True)
        for number in range(70):
            wave = 127 + 90 * np.sin((label + 1) * x / 7 + draw.uniform(0, 6)) * np.cos((4 - label) * y / 9)
            pixels = np.clip(wave[..., None] + draw.normal(0, 40, (40, 48, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"class{label}" / f"{number:02}.{'png' if number % 2 else 'jpg'}")
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "key.pem").write_bytes(secret)
    (folder / "key.pub").write_bytes(public)
    weights = load_file(embedded)
    draw = np.random.default_rng(0)
    for name in [name for name, weight in weights.items() if name.endswith(".weight") and weight.ndim == 1]:  # of BatchNorm
        factors = np.exp(draw.normal(0, 1.5, weights[name].shape)).astype(np.float32)
        for changed in (name, name.removesuffix("weight") + "bias"):
            weights[changed] = weights[changed] * factors
    save_file(weights, folder / "uneven.safetensors")
    profile = 'extends = "cpu-x86"\nname = "x86-elsewhere"\ntitle = "another x86-64"\n[match]\ncpu = "a processor that no machine has"\n'
    (folder / "x86-elsewhere.toml").write_text(profile)


def finetunes() -> Iterator[Case]:
    for backbone, options, _ in TRAININGS:
        weights = () if "--weights" in options else ("--weights", "none")
        size = () if "--image-size" in options else ("--image-size", "64")
        epochs = () if "--epochs" in options else ("--epochs", "1")
        rest = ("--backbone", backbone, *ONE_THREAD, "--tracker", "none", "--out", f"checkpoints/{backbone}", "--json")
        yield Case(f"finetune {backbone}", ("finetune", "{data}/images", *options, *weights, *size, *epochs, *rest))
    ending = (*ONE_THREAD, "--tracker", "none", "--json", "--out")
    yield Case("finetune digits", ("finetune", "demo:digits", *EMBEDDED, *ending, "checkpoints/digits"))
    uneven = ("--weights", "{data}/uneven.safetensors", "--no-flip", "--image-size", "48", "--epochs", "6")
    yield Case("finetune uneven", ("finetune", "{data}/images", *uneven, *ending, "checkpoints/uneven"))


def _export(backbone: str, target: str, out: str, *options: str, compared: Compared = "values") -> Case:
    target = f"{{data}}/{target}" if target.endswith(".toml") else target
    argv = ("export", f"{{before}}/checkpoints/{backbone}", "--target", target, *ONE_THREAD, "--out", f"bundles/{out}", "--json")
    return Case(f"export {out}", (*argv, *options), compared)


def exports() -> Iterator[Case]:
    """Every export is of the checkpoint that BEFORE wrote, so that a difference in training shows in trainings alone."""
    for backbone, _, targets in TRAININGS:
        for target in targets:
            options = ("--precision", "int8") if backbone == "vgg11_bn" else ()
            yield _export(backbone, target, f"{backbone}-{target.removesuffix('.toml')}", *options)
    small, smallest = "mobilenet_v3_small", "squeezenet1_1"
    yield _export("uneven", "raspberry-pi-4", "recovered", "--precision", "int8")
    yield _export("uneven", "jetson-xavier-nx", "trained", "--shrink", "-y", "--precision", "int8")
    yield _export(small, "raspberry-pi-4", "pruned", "--max-size", "1500kB", "-y", "--precision", "int8")
    yield _export("resnet18", "raspberry-pi-4", "smaller", "--max-latency", "20ms", "-y", "--precision", "fp16")
    yield _export(small, "jetson-nano", "too-slow", "--max-latency", "0.9ms", "-y")
    yield _export(smallest, "raspberry-pi-4", "signed", "--sign", "{data}/key.pem", "--with-c")
    yield _export(smallest, "jetson-xavier-nx:10w-2core", "archive.zip", "--precision", "fp16")
    yield _export(smallest, "cuda-gpu", "cuda-gpu")
    yield _export(smallest, "cpu-x86", "here-fp32", "--precision", "fp32")
    yield _export(smallest, "cpu-x86", "here-fp16", "--precision", "fp16")
    yield _export(smallest, "cpu-x86", "here-int8", "--precision", "int8", compared="code")  # its form is decided by timing
    yield _export(smallest, "jetson-nano", "impossible-int8", "--precision", "int8")
    yield _export(smallest, "raspberry-pi-4", "too-large", "--max-size", "20kB", "--no-train")
    yield _export(smallest, "no-such-board", "no-such-board")


def readers() -> Iterator[Case]:
    """What reads the results; the names of those that read what BEFORE wrote begin with "old"."""
    bundles = [f"{backbone}-{target.removesuffix('.toml')}" for backbone, _, targets in TRAININGS for target in targets]
    for old, root in (("", ""), ("old ", "{before}/")):
        for bundle in [*bundles, "recovered", "trained", "pruned", "smaller", "cuda-gpu", "here-fp32", "archive.zip"]:
            yield Case(f"{old}verify {bundle}", ("verify", f"{root}bundles/{bundle}", "--json"))
        yield Case(f"{old}verify signed", ("verify", f"{root}bundles/signed", "--key", "{data}/key.pub", "--json"))
        for backbone, target in READ.items():
            if not old or backbone == "mobilenet_v3_small":
                yield from _reads(f"{old}{backbone}", f"{root}bundles/{backbone}-{target}", f"{root}checkpoints/{backbone}")
    yield from _bare()


def _reads(name: str, bundle: str, checkpoint: str) -> Iterator[Case]:
    image = "{data}/images/class1/01.png"
    for what, path in (("checkpoint", checkpoint), ("bundle", bundle), ("onnx", f"{bundle}/model.fp16.onnx")):
        yield Case(f"{name} predict {what}", ("predict", path, image, "{data}/images/class0", *ONE_THREAD, "--json"))
        yield Case(f"{name} estimate {what}", ("estimate", path, "--target", "raspberry-pi-4", "-t", "jetson-nano:5w", "--json"))
        few = (*ONE_THREAD, "--runs", "10", "--seconds", "0.1", "--json")
        yield Case(f"{name} bench {what}", ("bench", path, *few), "keys")
    yield Case(f"{name} evaluate checkpoint", ("evaluate", checkpoint, "{data}/images", *ONE_THREAD, "--json"))
    yield Case(f"{name} evaluate int8", ("evaluate", bundle, "{data}/images", "--precision", "int8", *ONE_THREAD, "--json"))
    yield Case(f"{name} estimate all", ("estimate", bundle, "--all", "--max-size", "3MB", "--json"))
    yield Case(f"{name} layers", ("bench", bundle, *ONE_THREAD, "--runs", "10", "--seconds", "0.1", "--layers", "--json"), "keys")
    run = f"{bundle}/run.py"
    yield Case(f"{name} run.py verify", (run, "verify", "--json"), runner=True)
    yield Case(f"{name} run.py predict", (run, "predict", image, "--precision", "fp32", "--json"), runner=True)
    yield Case(f"{name} run.py info", (run, "info", "--json"), runner=True)
    yield Case(f"{name} run.py bench", (run, "bench", *ONE_THREAD, "--json"), "keys", runner=True)


def _bare() -> Iterator[Case]:
    """Commands that need no results, and wrong uses."""
    yield Case("backbones", ("backbones", "--json"))
    for backbone, _, _ in TRAININGS:
        yield Case(f"backbones {backbone}", ("backbones", backbone, "--json"))
    yield Case("profiles list", ("profiles", "list", "--json"))
    yield Case("profiles schema", ("profiles", "schema", "--json"))
    yield Case("profiles check", ("profiles", "check", "{data}/x86-elsewhere.toml", "--json"))
    yield Case("profiles new", ("profiles", "new", "mine", "--from", "jetson-nano:5w", "--out", "profiles-new", "--json"))
    yield Case("doctor", ("doctor", "--json"), "keys")
    for name in SHOWN:
        yield Case(f"profiles show {name}", ("profiles", "show", name, "--json"))
        options = ("--max-drop", "1", "--max-size", "2MB", "--shrink") if name == "raspberry-pi-4" else ()
        argv = ("export", "{before}/checkpoints/resnet18", "--target", name, "--dry-run", *options, "--json")
        yield Case(f"dry run {name}", argv)
    few = (*ONE_THREAD, "--runs", "10", "--seconds", "0.1", "--json")
    pair = [f"{{before}}/bundles/resnet18-x86-elsewhere/model.{precision}.onnx" for precision in ("fp32", "fp16")]
    yield Case("compare", ("bench", pair[0], "--compare", pair[1], *few), "keys")
    yield Case("several", ("bench", pair[0], "--batch", "1,2", "--threads", "1,2", *few[2:]), "keys")
    for wrong in (
        ("finetune", "demo:digits", "--backbone", "no-such"),
        ("finetune", "no-such-folder"),
        ("export", "no-such", "--target", "jetson"),
        ("bench", "{data}/images"),
        ("bench", pair[0], "--runtime", "tensorrt"),
        ("evaluate", "{data}/key.pem", "{data}/images"),
        ("predict", pair[0], "{data}/key.pem"),
        ("verify", "{data}"),
        ("estimate", pair[0], "--target", "no-such"),
        ("profiles", "show", "no-such"),
        ("backbones", "no-such"),
        ("bench", pair[0], "--no-such-option"),
        ("no-such-command",),
    ):
        yield Case(f"wrong: {' '.join(wrong)}", wrong, "code")

"""Bundles of a hand-written classifier for the strongest of red, green and blue. Fast to make, and a few kB each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tlexport.artifact import Artifact, Precision
from tlexport.bundle.manifest import MANIFEST, Golden, Manifest, Model
from tlexport.contract import Preprocess, image_input, probabilities_output
from tlexport.device.inputs.image import prepare
from tlexport.export.write_bundle import GOLDEN_INPUTS, GoldenImages, write_bundle
from tlexport.hardware.target import resolve
from tlexport.ports import RunOptions
from tlexport.runtimes.onnxruntime import open_model
from tlexport.storage.files import sha256_of

CLASSES = ("red", "green", "blue")
SIZE = 8


def classifier(precision: Precision) -> onnx.ModelProto:
    """uint8 (batch, height, width, channel) -> the mean colour -> softmax of 20 times its share of the whole range."""
    kind, dtype = (TensorProto.FLOAT16, np.float16) if precision == "fp16" else (TensorProto.FLOAT, np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], "cast", to=kind),
        helper.make_node("ReduceMean", ["pixels"], ["colour"], "mean", axes=[1, 2], keepdims=0),
        helper.make_node("Gemm", ["colour", "weight"], ["scores"], "classifier"),
        helper.make_node("Cast", ["scores"], ["float_scores"], "back", to=TensorProto.FLOAT),
        helper.make_node("Softmax", ["float_scores"], ["probabilities"], "softmax", axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", len(CLASSES)])],
        [numpy_helper.from_array((np.eye(3) * 20 / 255).astype(dtype), "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def images(folder: Path) -> list[Path]:
    """Four pictures of each class."""
    folder.mkdir(parents=True, exist_ok=True)
    random, paths = np.random.default_rng(0), []
    for label, name in enumerate(CLASSES):
        for number in range(4):
            pixels = random.integers(0, 120, (12, 10 + number, 3), dtype=np.uint8)
            pixels[:, :, label] += 100
            paths.append(folder / f"{name}-{number}.png")
            Image.fromarray(pixels).save(paths[-1])
    return paths


def tiny_bundle(path: Path, target: str = "cpu-x86", precisions: tuple[Precision, ...] = ("fp32", "fp16"), **more: Any) -> Path:
    """Write one through the product's own writer.

    Args:
        path: a directory that is not there yet; its parent also takes what the bundle is made of.
        target: name of the profile that it is for.
        precisions: of its models; the first is chosen.
        more: further keys of the manifest.
    """
    parts = path.parent / f"{path.name}-parts"
    files = images(parts / "images")
    contract = Preprocess(size=SIZE, resize=SIZE)
    pixels = np.stack([prepare(file, contract.model_dump()) for file in files[::2]])
    profile = resolve(target).profile
    sources, models, outputs = [], [], []
    for precision in precisions:
        file = f"model.{precision}.onnx"
        source = parts / file
        source.write_bytes(classifier(precision).SerializeToString(deterministic=True))
        with open_model(source, RunOptions(threads=1)) as runner:
            outputs.append(np.concatenate([runner.run({"image": image[None]})["probabilities"] for image in pixels]))
        artifact = Artifact(
            precision=precision,
            opset=17,
            inputs=(image_input(SIZE, "uint8"),),
            outputs=(probabilities_output(len(CLASSES)),),
            preprocess=contract,
            classes=CLASSES,
            sha256=sha256_of(source),
            size_bytes=source.stat().st_size,
            parent_sha256="0" * 64,
            made_by="by hand",
        )
        models.append(
            Model(
                file=file,
                artifact=artifact,
                top1=1.0,
                n=len(files),
                drop_points=0.0,
                parity=0.0,
                latency=None,
                peak_memory_bytes=None,
                tolerance=1e-3 if precision == "fp32" else 0.02,
                golden_outputs=f"golden/outputs.{precision}.npy",
                chosen=precision == precisions[0],
                reason="by hand",
            )
        )
        sources.append(source)
    draft = Manifest.model_construct(
        name="colours",
        target=target,
        profile=profile,
        classes=CLASSES,
        preprocess=contract,
        models=tuple(models),
        golden=Golden(images=(), inputs=GOLDEN_INPUTS),
        files={},
        checkpoint_sha256="0" * 64,
        checkpoint_top1=1.0,
        versions={"tlexport": "0"},
        **more,
    )
    write_bundle(path, draft, sources, GoldenImages(tuple(files[::2]), pixels), outputs)
    return path


def read(bundle: Path) -> dict[str, Any]:
    """The manifest as plain data."""
    data: dict[str, Any] = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
    return data


def rewrite(bundle: Path, data: dict[str, Any]) -> None:
    """Put another manifest in."""
    (bundle / MANIFEST).write_text(json.dumps(data), encoding="utf-8")


def fix_hashes(bundle: Path) -> None:
    """Update every hash in the manifest to the current files, as a forger would."""
    data = read(bundle)
    data["files"] = {name: sha256_of(bundle / name) for name in data["files"]}
    for model in data["models"]:
        model["artifact"]["sha256"] = data["files"][model["file"]]
    rewrite(bundle, data)

"""The verb ``export``: a checkpoint in, a bundle for a target out. Every guarantee about a model is checked here."""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from tlexport import __version__, plugins
from tlexport.accuracy import Probabilities, probabilities, score
from tlexport.api.evaluate import BATCH
from tlexport.api.expected import Expected, estimated, measured, plan
from tlexport.api.quantize import Quantization, Quantized
from tlexport.artifact import Artifact, Precision
from tlexport.bundle import Golden, Manifest, Model
from tlexport.checkpoint import Checkpoint, read_checkpoint, read_dataset
from tlexport.contract import image_input, probabilities_output
from tlexport.data.decode import decode_files
from tlexport.dataset import Dataset, Sample
from tlexport.errors import InvalidFile
from tlexport.export.checks import check_fp32_agreement, check_graph
from tlexport.export.engine import trtexec_command
from tlexport.export.tensorrt_rules import check_tensorrt
from tlexport.export.to_onnx import to_onnx
from tlexport.export.write_bundle import GOLDEN_INPUTS, GoldenImages, check_place, golden_positions, write_bundle
from tlexport.files import new_file, sha256_of
from tlexport.measurement import Measurement
from tlexport.network import load_network
from tlexport.plan import Step, Wishes, choose
from tlexport.ports import Pixels, Progress, RunOptions, Runtime, Silent
from tlexport.profile import Profile
from tlexport.runtimes.torch import TorchRunner
from tlexport.target import Target

TIMING = {"measure": "measuring", "estimate": "estimating"}
LIBRARIES = ("torch", "onnx", "onnxscript", "numpy", "pillow")
# how far another machine's arithmetic may be from this one's, in probability: FP32 differs by the order of sums; FP16 by whether
# the chip computes in half precision or widens; INT8 by one quantization step here and there, which a softmax can amplify
TOLERANCES: dict[Precision, float] = {"fp32": 1e-3, "fp16": 0.02, "int8": 0.1}


@dataclass(frozen=True)
class Exported:
    """What ``export`` answers."""

    path: Path
    manifest: Manifest
    measurements: tuple[Measurement | None, ...]  # one for each model of the manifest

    def to_json(self) -> dict[str, object]:
        """As cli.md has it."""
        models = [
            {
                "precision": m.artifact.precision,
                "path": str(self.path / m.file),
                "size_bytes": m.artifact.size_bytes,
                "top1": m.top1,
                "drop_points": m.drop_points,
                "latency_ms": m.latency_json(),
                "peak_memory_bytes": m.peak_memory_bytes,
                "memory_bytes": m.estimate.memory_bytes if m.estimate else None,
                "chosen": m.chosen,
                "reason": m.reason,
            }
            for m in self.manifest.models
        ]
        chosen = self.manifest.model().artifact.precision
        return {"bundle": str(self.path), "target": self.manifest.target, "chosen": chosen, "models": models}


def export(
    checkpoint_path: Path, target: Target, wishes: Wishes, out: Path, *, data_root: Path | None = None, progress: Progress | None = None
) -> Exported:
    """Convert, quantize, check, measure and choose; write a bundle.

    Args:
        checkpoint_path: a checkpoint directory.
        target: the device.
        wishes: precision and limits.
        out: the bundle directory to write; an earlier bundle there is replaced.
        data_root: where the images lie now, if not where they lay when the checkpoint was trained.
        progress: where to tell what happens.

    Raises:
        TlxError: see errors.py; OverBudget when nothing fits. Nothing is written then.
    """
    progress = progress or Silent()
    check_place(out)
    steps = plan(target, wishes)
    with tempfile.TemporaryDirectory(prefix="tlx-export-") as folder:
        return _Export(checkpoint_path, target, wishes, data_root, Path(folder), progress, steps).run(out)


@dataclass(frozen=True)
class _Made:
    """A model file and what was found out about it."""

    artifact: Artifact
    path: Path
    outputs: Probabilities  # on the validation part
    parity: float
    top1: float
    expected: Expected


class _Export:
    """One run of the verb: what its steps share."""

    def __init__(
        self, path: Path, target: Target, wishes: Wishes, data_root: Path | None, folder: Path, progress: Progress, steps: Sequence[Step]
    ) -> None:
        self.steps = steps
        self.checkpoint: Checkpoint = read_checkpoint(path)
        self.path, self.target, self.wishes, self.folder, self.progress = path, target, wishes, folder, progress
        self.profile: Profile = target.profile
        dataset = read_dataset(path)
        self.dataset: Dataset = dataset if data_root is None else dataset.model_copy(update={"root": str(data_root.absolute())})
        self.preprocess = self.checkpoint.preprocess
        self.inputs = (image_input(self.preprocess.size, self.profile.input_dtype.value),)
        self.outputs = (probabilities_output(len(self.checkpoint.classes)),)

    def run(self, out: Path) -> Exported:
        wanted = [step.precision for step in self.steps if step.action == "check" and step.precision]
        network = load_network(self.path, self.checkpoint)
        self.val = self.dataset.part("val")
        self.val_pixels = self._pixels(self.val)
        with TorchRunner(network, self.preprocess, RunOptions()) as runner:
            self.reference = probabilities(runner, self.val_pixels, BATCH, self.progress, "checkpoint on the validation images")
        with self.progress.task("converting to ONNX", 1) as advance:
            graph = to_onnx(network, self.preprocess, self.profile.input_dtype.value, self.profile.opset.value)
            advance(1)
        how = f"torch {importlib.metadata.version('torch')} exporter, opset {self.profile.opset.value}"
        made = [self._checked(Quantized(graph, how), "fp32", self.checkpoint.weights_sha256)]
        if lower := [precision for precision in wanted if precision != "fp32"]:
            seed = self.checkpoint.recipe.seed
            drop = self.wishes.limits(self.profile.budget).drop_points
            quantization = Quantization(graph, self.profile, self.dataset, seed, self._pixels, drop, self.folder, self.progress)
            made += [self._checked(quantization.quantized(precision), precision, made[0].artifact.sha256) for precision in lower]
        return self._write(made, out)

    def _pixels(self, samples: Sequence[Sample]) -> Pixels:
        """Decode samples, whose files must be the ones that the checkpoint was trained with."""
        files = [self.dataset.file(sample) for sample in samples]
        changed = [f for f, s in zip(files, samples, strict=True) if not f.is_file() or sha256_of(f) != s.sha256]
        if changed:
            raise InvalidFile(
                f"{len(changed)} of {len(files)} images of the checkpoint's data are missing or have changed, such as {changed[0]}",
                "export needs them to calibrate and to check accuracy; give the folder that holds them now with --data",
            )
        return decode_files(files, self.preprocess)[0]

    def _checked(self, found: Quantized, precision: Precision, parent: str) -> _Made:
        """Save a model, and hold it against its declaration and against the checkpoint."""
        check_graph(found.model, precision, self.inputs, self.outputs)
        if self.profile.runtime == "tensorrt" and precision == "int8":
            check_tensorrt(found.model)
        path = self.folder / f"model.{precision}.onnx"
        with new_file(path) as temporary:
            temporary.write_bytes(found.model.SerializeToString(deterministic=True))
        artifact = Artifact(
            precision=precision,
            opset=self.profile.opset.value,
            inputs=self.inputs,
            outputs=self.outputs,
            preprocess=self.preprocess,
            classes=self.checkpoint.classes,
            sha256=sha256_of(path),
            size_bytes=path.stat().st_size,
            parent_sha256=parent,
            made_by=found.how,
            calibration=found.calibration,
            mixed=found.mixed,
        )
        # a TensorRT graph is evaluated here by computing its Q/DQ pairs as they are written
        options = RunOptions(simulate_quantization=self.profile.runtime == "tensorrt" and precision == "int8")
        with cast(Runtime, plugins.load("runtimes", "onnxruntime")).open_model(path, options) as runner:
            outputs = probabilities(runner, self.val_pixels, BATCH, self.progress, f"{precision} on the validation images")
        if precision == "fp32":
            check_fp32_agreement(self.reference, outputs)
        top1 = score(outputs, [sample.label for sample in self.val], self.checkpoint.classes).top1
        return _Made(artifact, path, outputs, float(np.abs(outputs - self.reference).max()), top1, self._expected(artifact, path))

    def _expected(self, artifact: Artifact, path: Path) -> Expected:
        """Latency and memory on the target, as the plan has it."""
        what, threads = f"{self.path.name} {artifact.precision}", self.wishes.threads
        action = next((step.action for step in self.steps if step.precision == artifact.precision and step.action in TIMING), None)
        if action is None:
            return Expected()
        with self.progress.task(f"{TIMING[action]} {artifact.precision}", 1) as advance:
            if action == "measure":
                found = measured(artifact, path, self.target, threads, what, self.val_pixels[:64])
            else:
                found = estimated(artifact, path, self.target, threads, what)
            advance(1)
        return found

    def _write(self, made: Sequence[_Made], out: Path) -> Exported:
        checkpoint_top1 = score(self.reference, [sample.label for sample in self.val], self.checkpoint.classes).top1
        drops = [round(100 * (checkpoint_top1 - m.top1), 4) for m in made]
        verdicts = choose(
            [m.expected.candidate(m.artifact, drop) for m, drop in zip(made, drops, strict=True)],
            self.wishes.limits(self.profile.budget),
            self.wishes.precision,
        )
        positions = golden_positions([sample.label for sample in self.val])
        golden = GoldenImages(tuple(self.dataset.file(self.val[p]) for p in positions), self.val_pixels[positions])
        models = tuple(
            Model(
                file=m.path.name,
                artifact=m.artifact,
                top1=m.top1,
                n=len(self.val),
                drop_points=drop,
                parity=m.parity,
                latency=m.expected.latency,
                peak_memory_bytes=m.expected.peak_memory_bytes,
                estimate=m.expected.estimate,
                tolerance=TOLERANCES[m.artifact.precision],
                golden_outputs=f"golden/outputs.{m.artifact.precision}.npy",
                chosen=verdict.chosen,
                reason=verdict.reason,
                build=trtexec_command(self.profile, m.path.name, m.artifact.precision, self.preprocess.size)
                if self.profile.runtime == "tensorrt"
                else (),
            )
            for m, drop, verdict in zip(made, drops, verdicts, strict=True)
        )
        draft = Manifest.model_construct(
            format=1,
            name=self.path.resolve().name,
            target=self.profile.target,
            profile=self.profile,
            classes=self.checkpoint.classes,
            preprocess=self.preprocess,
            models=models,
            golden=Golden(images=(), inputs=GOLDEN_INPUTS),
            files={},
            checkpoint_sha256=self.checkpoint.weights_sha256,
            checkpoint_top1=checkpoint_top1,
            versions={"tlexport": __version__} | {name: importlib.metadata.version(name) for name in LIBRARIES},
        )
        manifest = write_bundle(out, draft, [m.path for m in made], golden, [m.outputs[positions] for m in made])
        return Exported(out, manifest, tuple(m.expected.measurement for m in made))

"""The verb ``export``: a checkpoint in, a bundle for a target out. Every guarantee about a model is checked here."""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from tlexport import __version__, plugins
from tlexport.accuracy import Probabilities, probabilities, score
from tlexport.api.evaluate import BATCH
from tlexport.artifact import Artifact, Calibration, Precision
from tlexport.bench.process import BenchRequest, measure
from tlexport.bundle import Golden, Latency, Manifest, Model
from tlexport.checkpoint import Checkpoint, read_checkpoint, read_dataset
from tlexport.contract import image_input, probabilities_output
from tlexport.data.decode import decode_files
from tlexport.dataset import Dataset, Sample
from tlexport.errors import InvalidFile, Unsupported
from tlexport.export.calibration import FEW, IMAGES, calibration_sample, provenance
from tlexport.export.checks import check_fp32_agreement, check_graph
from tlexport.export.engine import trtexec_command
from tlexport.export.to_onnx import to_onnx
from tlexport.export.write_bundle import GOLDEN_INPUTS, GoldenImages, check_place, golden_positions, write_bundle
from tlexport.files import new_file, sha256_of
from tlexport.measurement import Measurement
from tlexport.network import load_network
from tlexport.plan import Candidate, Step, Wishes, choose, plan_export
from tlexport.ports import Pixels, Progress, Quantizer, QuantizeRequest, RunOptions, Runtime, Silent
from tlexport.profile import Profile
from tlexport.runtimes.torch import TorchRunner
from tlexport.target import Target

if TYPE_CHECKING:
    import onnx

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
                "latency_ms": m.latency.model_dump() if m.latency else None,
                "peak_memory_bytes": m.peak_memory_bytes,
                "chosen": m.chosen,
                "reason": m.reason,
            }
            for m in self.manifest.models
        ]
        chosen = self.manifest.model().artifact.precision
        return {"bundle": str(self.path), "target": self.manifest.target, "chosen": chosen, "models": models}


def plan(target: Target, wishes: Wishes) -> tuple[Step, ...]:
    """What :func:`export` would do, without doing it.

    Raises:
        Unsupported: the target cannot do the precision, or a latency limit cannot be checked here.
    """
    measured = _measurable(target)
    if wishes.max_latency_ms is not None and not measured:
        engine = target.profile.runtime == "tensorrt"
        why = "its engines are built from the bundle, after the export" if engine else "this machine is not one"
        raise Unsupported(
            f"--max-latency cannot be held against {target.profile.target}: {why}",
            f"leave it out, copy the bundle to the device and run there: {'sh build_engine.sh' if engine else 'tlx bench BUNDLE --check'}",
        )
    return plan_export(target.profile, wishes.precision, measured)


def _measurable(target: Target) -> bool:
    """Whether the latency of an exported graph on the target can be measured now."""
    return target.here and target.profile.runtime == "onnxruntime"


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
        return _Export(checkpoint_path, target, wishes, data_root, Path(folder), progress).run(steps, out)


@dataclass(frozen=True)
class _Made:
    """A model file and what was found out about it."""

    artifact: Artifact
    path: Path
    outputs: Probabilities  # on the validation part
    parity: float
    top1: float
    measurement: Measurement | None


class _Export:
    """One run of the verb: what its steps share."""

    def __init__(self, path: Path, target: Target, wishes: Wishes, data_root: Path | None, folder: Path, progress: Progress) -> None:
        self.checkpoint: Checkpoint = read_checkpoint(path)
        self.path, self.target, self.wishes, self.folder, self.progress = path, target, wishes, folder, progress
        self.profile: Profile = target.profile
        dataset = read_dataset(path)
        self.dataset: Dataset = dataset if data_root is None else dataset.model_copy(update={"root": str(data_root.absolute())})
        self.preprocess = self.checkpoint.preprocess
        self.inputs = (image_input(self.preprocess.size, self.profile.input_dtype.value),)
        self.outputs = (probabilities_output(len(self.checkpoint.classes)),)

    def run(self, steps: Sequence[Step], out: Path) -> Exported:
        wanted = [step.precision for step in steps if step.action == "check" and step.precision]
        network = load_network(self.path, self.checkpoint)
        self.val = self.dataset.part("val")
        self.val_pixels = self._pixels(self.val)
        with TorchRunner(network, self.preprocess, RunOptions()) as runner:
            self.reference = probabilities(runner, self.val_pixels, BATCH, self.progress, "checkpoint on the validation images")
        with self.progress.task("converting to ONNX", 1) as advance:
            graph = to_onnx(network, self.preprocess, self.profile.input_dtype.value, self.profile.opset.value)
            advance(1)
        made: list[_Made] = []
        for precision in wanted:
            model, how, calibration = self._model(graph, precision)
            made.append(
                self._checked(model, precision, how, calibration, made[0].artifact.sha256 if made else self.checkpoint.weights_sha256)
            )
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

    def _model(self, graph: onnx.ModelProto, precision: Precision) -> tuple[onnx.ModelProto, str, Calibration | None]:
        """The graph in a precision, how it was made, and on what it was calibrated."""
        if precision == "fp32":
            return graph, f"torch {importlib.metadata.version('torch')} exporter, opset {self.profile.opset.value}", None
        name = self.profile.int8.quantizer if precision == "int8" and self.profile.int8 else precision
        quantizer = cast(Quantizer, plugins.load("quantizers", name))
        samples: tuple[Sample, ...] = ()
        if quantizer.NEEDS_SAMPLES:
            samples = calibration_sample(self.dataset, IMAGES, self.checkpoint.recipe.seed)
            if len(samples) < FEW:
                self.progress.note(f"only {len(samples)} training images to calibrate INT8 with; {FEW} or more give steadier ranges")
        pixels = self._pixels(samples) if samples else self.val_pixels[:0]
        activations = self.profile.int8.activations if self.profile.int8 else "uint8"
        with self.progress.task(f"quantizing to {precision}", 1) as advance:
            model = quantizer.quantize(QuantizeRequest(graph, pixels, self.preprocess, activations))
            advance(1)
        return model, f"{name}: {quantizer.METHOD}", provenance(samples, quantizer.METHOD) if samples else None

    def _checked(self, model: onnx.ModelProto, precision: Precision, how: str, calibration: Calibration | None, parent: str) -> _Made:
        """Save a model, and hold it against its declaration and against the checkpoint."""
        check_graph(model, precision, self.inputs, self.outputs)
        path = self.folder / f"model.{precision}.onnx"
        with new_file(path) as temporary:
            temporary.write_bytes(model.SerializeToString(deterministic=True))
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
            made_by=how,
            calibration=calibration,
        )
        # a TensorRT graph is evaluated here by computing its Q/DQ pairs as they are written
        options = RunOptions(simulate_quantization=self.profile.runtime == "tensorrt" and precision == "int8")
        with cast(Runtime, plugins.load("runtimes", "onnxruntime")).open_model(path, options) as runner:
            outputs = probabilities(runner, self.val_pixels, BATCH, self.progress, f"{precision} on the validation images")
        if precision == "fp32":
            check_fp32_agreement(self.reference, outputs)
        top1 = score(outputs, [sample.label for sample in self.val], self.checkpoint.classes).top1
        return _Made(artifact, path, outputs, float(np.abs(outputs - self.reference).max()), top1, self._measured(artifact, path))

    def _measured(self, artifact: Artifact, path: Path) -> Measurement | None:
        if not _measurable(self.target):
            return None
        np.save(images := self.folder / "bench.npy", self.val_pixels[:64].astype(self.profile.input_dtype.value), allow_pickle=False)
        with self.progress.task(f"measuring {artifact.precision}", 1) as advance:
            measurement = measure(
                BenchRequest(
                    what=f"{self.path.name} {artifact.precision}",
                    path=path,
                    runtime="onnxruntime",
                    device="cuda:0" if self.profile.device else "cpu",
                    threads=self.wishes.threads,
                    artifact_sha256=artifact.sha256,
                    precision=artifact.precision,
                    size_bytes=artifact.size_bytes,
                    inputs=images,
                )
            )
            advance(1)
        return measurement

    def _write(self, made: Sequence[_Made], out: Path) -> Exported:
        checkpoint_top1 = score(self.reference, [sample.label for sample in self.val], self.checkpoint.classes).top1
        drops = [round(100 * (checkpoint_top1 - m.top1), 4) for m in made]
        verdicts = choose(
            [_candidate(m, drop) for m, drop in zip(made, drops, strict=True)],
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
                latency=_latency(m.measurement),
                peak_memory_bytes=m.measurement.peak_memory_bytes if m.measurement else None,
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
        return Exported(out, manifest, tuple(m.measurement for m in made))


def _candidate(made: _Made, drop: float) -> Candidate:
    latency, m = _latency(made.measurement), made.measurement
    p50, p95 = (latency.p50, latency.p95) if latency else (None, None)
    return Candidate(made.artifact.precision, made.artifact.size_bytes, drop, p50, p95, m.peak_memory_bytes if m else None)


def _latency(m: Measurement | None) -> Latency | None:
    if m is None:
        return None
    p50, p95 = round(m.percentile_ms(50), 4), round(m.percentile_ms(95), 4)
    return Latency(kind="measured", p50=p50, p95=p95, runtime=m.runtime, provider=m.provider, threads=m.threads)

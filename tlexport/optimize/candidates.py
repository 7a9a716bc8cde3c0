"""The models that an export makes from one checkpoint, each checked against its declaration and the checkpoint."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tlexport import plugins
from tlexport.accuracy import BATCH, Probabilities, probabilities, score
from tlexport.artifact import Artifact, Precision, Shrunk
from tlexport.bundle.manifest import Rejected
from tlexport.checkpoint import Checkpoint
from tlexport.contract import Preprocess, image_input, probabilities_output
from tlexport.data.decode import decode_files
from tlexport.dataset import Dataset, Sample
from tlexport.errors import InvalidFile, TlxError, UsageError
from tlexport.export.calibration import MAX_TRAINING_IMAGES, calibration_sample
from tlexport.export.checks import check_fp32_agreement, check_graph, check_probabilities
from tlexport.export.compact import compact
from tlexport.export.tensorrt_rules import check_tensorrt
from tlexport.export.to_onnx import to_onnx
from tlexport.network import Network, load_network
from tlexport.optimize.cost_on_target import Expected, estimated, measured
from tlexport.optimize.job import Job, Training
from tlexport.optimize.pairwise_timing import PairwiseTiming
from tlexport.optimize.quantize import Quantization, QuantizationSettings, Quantized
from tlexport.ports import Pixels, RunOptions
from tlexport.runtimes.torch import TorchRunner
from tlexport.storage.files import new_file, sha256_of
from tlexport.train.recover import EPOCHS, Examples, RecoverySettings, logits_of, quantization_aware, recover
from tlexport.train.shrink import parameters
from tlexport.train.training_time import seconds_for

if TYPE_CHECKING:
    import onnx

# faults of the machine, the data or the user: they do not depend on the precision
NOT_OF_A_PRECISION = (OSError, MemoryError, InvalidFile, UsageError)
SHRUNK_LR = 1e-3

NOT_YET = Expected()


@dataclass(frozen=True)
class Made:
    """A model file with its accuracy and its cost on the target."""

    artifact: Artifact
    path: Path
    outputs: Probabilities  # on the validation part
    parity: float  # largest difference in probability from the checkpoint
    top1: float
    expected: Expected = NOT_YET


@dataclass(frozen=True)
class Source:
    """A checkpoint that was read, with its dataset."""

    path: Path
    checkpoint: Checkpoint
    dataset: Dataset

    def pixels(self, samples: Sequence[Sample], preprocess: Preprocess) -> Pixels:
        """Decode samples to uint8 (image, height, width, channel). The files must be those that the checkpoint was trained with.

        Raises:
            InvalidFile: images are missing or have changed since training.
        """
        files = [self.dataset.file(sample) for sample in samples]
        changed = [f for f, s in zip(files, samples, strict=True) if not f.is_file() or sha256_of(f) != s.sha256]
        if changed:
            raise InvalidFile(
                f"{len(changed)} of {len(files)} images of the checkpoint's data are missing or have changed, such as {changed[0]}",
                "export needs these images for calibration and accuracy; give their folder with --data",
            )
        return decode_files(files, preprocess)[0]


class Candidates:
    """Makes the models of one export. They share the network, the target, the validation images and the network's outputs."""

    def __init__(self, source: Source, preprocess: Preprocess, job: Job, folder: Path) -> None:
        self.source, self.preprocess, self.job, self.folder = source, preprocess, job, folder
        self.progress, self.profile = job.progress, job.target.profile
        self.inputs = (image_input(preprocess.size, self.profile.input_dtype.value),)
        self.outputs = (probabilities_output(len(source.checkpoint.classes)),)
        self.network = load_network(source.path, source.checkpoint)
        self.val = source.dataset.part("val")
        self.val_pixels = source.pixels(self.val, preprocess)
        self.reference = self._reference(self.network, "checkpoint on the validation images")
        self.failed: list[Rejected] = []  # precisions that failed to convert or did not pass their checks

    def all(self) -> list[Made]:
        """Make one model of each precision in the plan, FP32 first. A failed precision is rejected unless the user requested it.

        Raises:
            VerificationFailed: the FP32 graph disagrees with the checkpoint.
            TlxError: the requested precision failed.
        """
        wanted = [step.precision for step in self.job.steps if step.action == "check" and step.precision]
        graph = self._graph(self.network)
        made = [self._checked(Quantized(graph, _exporter(self.profile.opset.value)), "fp32", self.source.checkpoint.weights_sha256)]
        check_fp32_agreement(self.reference, made[0].outputs)
        if lower := [precision for precision in wanted if precision != "fp32"]:
            quantization = self._quantization(graph, self.network)
            quantization.read_images()
            for precision in lower:
                made += self._lowered(quantization, precision, made[0].artifact.sha256)
        return self.timed(made)

    def _lowered(self, quantization: Quantization, precision: Precision, parent: str) -> list[Made]:
        """The model of one precision, or an empty list if it failed and another precision may be chosen."""
        try:
            return [self._checked(quantization.quantized(precision), precision, parent)]
        except Exception as error:  # a quantizer is a plug-in and may raise any exception
            if self._rejects(precision, error):
                return []
            raise

    def _rejects(self, precision: Precision, error: Exception) -> bool:
        """Whether the export continues without a failed precision. If so, the reason is reported and recorded."""
        if precision == "fp32" or self.job.constraints.precision != "auto" or isinstance(error, NOT_OF_A_PRECISION):
            return False
        reason = error.message if isinstance(error, TlxError) else f"{type(error).__name__}: {error}"
        self.progress.note(f"{precision} is rejected: {reason}")
        self.failed.append(Rejected.failed(precision, reason))
        return True

    def timed(self, made: Sequence[Made]) -> list[Made]:
        """Add the cost on the target to each model, as planned: all models measured in turn, or each estimated.

        A model that fails while it is measured is rejected, unless the user requested its precision.
        """
        actions = {step.precision: step.action for step in self.job.steps if step.action in ("measure", "estimate")}
        name = self.source.path.name
        timed = [m for m in made if actions.get(m.artifact.precision) == "measure"]
        expected = self._measured(timed) if timed else {}
        made = [m for m in made if m.path in expected or m not in timed]
        for m in made:
            if actions.get(m.artifact.precision) == "estimate":
                with self.progress.task(f"estimating {m.artifact.precision}", 1) as advance:
                    what, threads = f"{name} {m.artifact.precision}", self.job.constraints.threads
                    expected[m.path] = estimated(m.artifact, m.path, self.job.target, threads, what)
                    advance(1)
        return [replace(m, expected=expected.get(m.path, NOT_YET)) for m in made]

    def _measured(self, made: Sequence[Made]) -> dict[Path, Expected]:
        """Measurements by file. If measuring fails, each model is measured alone to find the ones that fail."""
        try:
            return dict(zip((m.path for m in made), self._in_turn(made), strict=True))
        except TlxError:
            bad = [m for m in made if self._fails(m)]
            if not bad:
                raise
        return self._measured([m for m in made if m not in bad])

    def _in_turn(self, made: Sequence[Made]) -> list[Expected]:
        return measured(self.job, [(m.artifact, m.path) for m in made], self.source.path.name, self.val_pixels)

    def _fails(self, made: Made) -> bool:
        """Whether a model fails when measured alone and is rejected. Raises the error if its precision cannot be rejected."""
        try:
            self._in_turn([made])
        except TlxError as error:
            if self._rejects(made.artifact.precision, error):
                return True
            raise
        return False

    def size_bytes(self, network: Network, precision: Precision) -> int:
        """Size in bytes of the model file that a network exports to. It does not depend on the values of the weights."""
        graph = self._graph(network)
        return graph.ByteSize() if precision == "fp32" else self._quantization(graph, network).size_bytes(precision)

    def shrunk(self, network: Network, precision: Precision, epochs: int) -> Made:
        """Train a smaller network with the checkpoint's network as its teacher, and export it.

        Args:
            network: the pruned network; it is trained in place.
            precision: of the model.
            epochs: of the training.
        """
        before = parameters(self.network)
        samples = calibration_sample(self.source.dataset, MAX_TRAINING_IMAGES, self._seed)
        examples = Examples(self.preprocess, self._pixels(samples), [sample.label for sample in samples])
        teacher = logits_of(self.network, self.preprocess, examples.pixels)
        recover(network, examples, teacher, RecoverySettings(self._seed, epochs, SHRUNK_LR), self.progress)
        graph = self._graph(network)
        how = f"{_exporter(self.profile.opset.value)}; {parameters(network)} of {before} parameters, {epochs} epochs of distillation"
        found = Quantized(graph, how) if precision == "fp32" else self._quantization(graph, network).quantized(precision)
        shrunk = Shrunk(parameters=parameters(network), parameters_before=before, images=len(samples), epochs=epochs)
        return self._checked(found, precision, self.source.checkpoint.weights_sha256, shrunk)

    @property
    def _seed(self) -> int:
        return self.source.checkpoint.recipe.seed

    def _pixels(self, samples: Sequence[Sample]) -> Pixels:
        return self.source.pixels(samples, self.preprocess)

    def _reference(self, network: Network, title: str) -> Probabilities:
        with TorchRunner(network, self.preprocess, RunOptions()) as runner:
            return probabilities(runner, self.val_pixels, BATCH, self.progress, title)

    def _graph(self, network: Network) -> onnx.ModelProto:
        with self.progress.task("converting to ONNX", 1) as advance:
            graph = to_onnx(network, self.preprocess, self.profile.input_dtype.value, self.profile.opset.value)
            advance(1)
        return graph

    def _quantization(self, graph: onnx.ModelProto, network: Network) -> Quantization:
        """Quantization of a network's graph. A pruned network gets no blocks in float for speed: they would enlarge the file."""
        timing = None
        if network is self.network and any(step.action == "measure" for step in self.job.steps):
            image = self.val_pixels[:1].astype(self.profile.input_dtype.value)
            timing = PairwiseTiming(image, self.job.constraints.threads, self.folder)
        drop = self.job.constraints.limits(self.profile.budget).drop_points

        def retrain(pixels: Pixels, labels: Sequence[int]) -> onnx.ModelProto | None:
            """FP32 graph of the network after quantization-aware training; None: the user declined it."""
            kind = self.profile.int8.activations if self.profile.int8 else "uint8"
            training = Training(
                "quantization-aware training for INT8",
                f"{EPOCHS} epochs on {len(pixels):,} images",
                f"INT8 loses more than {drop:g} points of top-1 without it",
                seconds_for(network, self.preprocess, len(pixels), EPOCHS, kind),
            )
            if not self.job.may_begin(training):
                return None
            examples = Examples(self.preprocess, pixels, labels)
            trained = quantization_aware(network, examples, kind, RecoverySettings(self._seed), self.progress)
            return self._graph(trained)

        settings = QuantizationSettings(self.profile, self.source.dataset, self._seed, self._pixels, drop, self.folder, self.progress)
        return Quantization(graph, settings, timing, retrain if self.job.constraints.may_train else None)

    def _checked(self, found: Quantized, precision: Precision, parent: str, shrunk: Shrunk | None = None) -> Made:
        """Save a model, check it against its declaration, and measure its accuracy on the validation images."""
        model = compact(found.model) if precision == "int8" else found.model
        check_graph(model, precision, self.inputs, self.outputs)
        if self.profile.tensorrt is not None:
            check_tensorrt(model, self.profile.tensorrt)
        path = self.folder / f"model.{precision}{'.shrunk' if shrunk else ''}.onnx"
        with new_file(path) as temporary:
            temporary.write_bytes(model.SerializeToString(deterministic=True))
        artifact = Artifact(
            precision=precision,
            opset=self.profile.opset.value,
            inputs=self.inputs,
            outputs=self.outputs,
            preprocess=self.preprocess,
            classes=self.source.checkpoint.classes,
            sha256=sha256_of(path),
            size_bytes=path.stat().st_size,
            parent_sha256=parent,
            made_by=found.how,
            calibration=found.calibration,
            mixed=found.mixed,
            shrunk=shrunk,
            ladder=found.ladder,
        )
        # ONNX Runtime evaluates a TensorRT graph by computing its Q/DQ pairs as written
        options = RunOptions(simulate_quantization=self.profile.runtime == "tensorrt" and precision == "int8")
        with plugins.runtime("onnxruntime").open_model(path, options) as runner:
            outputs = probabilities(runner, self.val_pixels, BATCH, self.progress, f"{precision} on the validation images")
        check_probabilities(precision, outputs)
        return Made(artifact, path, outputs, float(np.abs(outputs - self.reference).max()), self.top1(outputs))

    def top1(self, outputs: Probabilities) -> float:
        """Top-1 accuracy of probabilities float32 (image, class) on the validation part."""
        return score(outputs, [sample.label for sample in self.val], self.source.checkpoint.classes).top1


def _exporter(opset: int) -> str:
    return f"torch {importlib.metadata.version('torch')} exporter, opset {opset}"

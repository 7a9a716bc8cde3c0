"""The verb ``export``: from a checkpoint to a bundle for a target."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tlexport.artifact import Precision
from tlexport.bench.in_turn import Measure, measure_in_turn
from tlexport.bundle.archive import is_archive, pack
from tlexport.bundle.manifest import Golden, Manifest, Model
from tlexport.bundle.signature import read_private_key
from tlexport.checkpoint import Checkpoint, read_checkpoint, read_dataset, snapshot
from tlexport.contract import Preprocess
from tlexport.dataset import Dataset
from tlexport.export.engine import engine_recipe
from tlexport.export.provenance import licences_of, training_of
from tlexport.export.write_bundle import GOLDEN_INPUTS, GoldenImages, check_place, golden_positions, write_bundle
from tlexport.hardware.profile import Profile
from tlexport.hardware.target import Target
from tlexport.loading.open_bundle import check_archive_place
from tlexport.measurement import Measurement
from tlexport.optimize.budget_fallbacks import BudgetFallbacks, Found
from tlexport.optimize.candidates import Candidates, Made, Source
from tlexport.optimize.cost_on_target import plan
from tlexport.optimize.job import Consent, Job, consent_to_all
from tlexport.plan import Constraints, Decision, choose
from tlexport.ports import Progress, Silent
from tlexport.storage.files import new_file, temporary_folder
from tlexport.storage.lock import claim
from tlexport.version import __version__

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

LIBRARIES = ("torch", "onnx", "onnxscript", "numpy", "pillow")
# largest difference in probability between this machine and another: FP32 differs by the order of sums; FP16 by whether the chip
# computes in half precision or widens; INT8 by single quantization steps, which a softmax can amplify
TOLERANCES: dict[Precision, float] = {"fp32": 1e-3, "fp16": 0.02, "int8": 0.1}


@dataclass(frozen=True)
class Exported:
    """The result of ``export``."""

    path: Path
    manifest: Manifest
    measurements: tuple[Measurement | None, ...]  # one for each model of the manifest
    engine: Path | None = None  # of the chosen model, where one was built

    def to_json(self) -> dict[str, object]:
        """For ``--json``."""
        models: list[dict[str, object]] = [
            {
                "precision": m.artifact.precision,
                "path": str(self.path / m.file),
                "size_bytes": m.artifact.size_bytes,
                "top1": m.top1,
                "top1_interval": [round(bound, 6) for bound in m.top1_interval],
                "n": m.n,
                "drop_points": m.drop_points,
                "latency_ms": m.latency_json(),
                "peak_memory_bytes": m.peak_memory_bytes,
                "memory_bytes": m.estimate.memory_bytes if m.estimate else None,
                "chosen": m.chosen,
                "rejected": False,
                "reason": m.reason,
            }
            for m in self.manifest.models
        ]
        unknown = ("path", "size_bytes", "top1", "top1_interval", "n", "drop_points", "latency_ms", "peak_memory_bytes", "memory_bytes")
        models += [
            {"precision": r.precision, **dict.fromkeys(unknown), "chosen": False, "rejected": True, "reason": r.reason}
            for r in self.manifest.rejected
            if r.size_bytes is None
        ]
        chosen = self.manifest.model()
        found: dict[str, object] = {
            "bundle": str(self.path),
            "target": self.manifest.target,
            "chosen": chosen.artifact.precision,
            "budget": {"kept": not chosen.over and not chosen.doubts, "over": list(chosen.over), "doubts": list(chosen.doubts)},
            "models": models,
        }
        return found | ({"engine": str(self.engine)} if self.engine else {})

    def hints(self) -> tuple[str, ...]:
        """What to type where the chosen model is over the profile's budget, or may be."""
        chosen, found = self.manifest.model(), []
        if chosen.over:
            found.append(
                f"over the budget of {self.manifest.target}, which is advisory: {'; '.join(chosen.over)}\n"
                "  to change the network for it: --shrink; for binding limits: --max-size, --max-latency, --max-memory, --max-drop"
            )
        again = f"measure again on a quiet machine: tlx bench {self.path} --check"
        return (*found, *(f"{doubt}; {again}" for doubt in chosen.doubts))


def default_place(checkpoint: Path, target: Target) -> Path:
    """The bundle directory of an export that names none: ``build/NAME-PROFILE``."""
    return Path("build") / f"{checkpoint.resolve().name}-{target.profile.target.replace(':', '-')}"


@dataclass(frozen=True)
class ExportSettings:
    """How an export is carried out."""

    data_root: Path | None = None  # the folder of the images, if they were moved since training
    sign: Path | None = None  # the private key (PEM, Ed25519) to sign with; None: not signed
    with_c: bool = False  # add the C++ example
    consent: Consent = consent_to_all  # called before a training; False declines it
    measure: Measure = measure_in_turn  # measures models on this machine


def export(
    checkpoint_path: Path,
    target: Target,
    constraints: Constraints,
    out: Path,
    *,
    settings: ExportSettings = ExportSettings(),  # immutable
    progress: Progress | None = None,
) -> Exported:
    """Convert, quantize, check, measure and choose; write a bundle.

    Args:
        checkpoint_path: a checkpoint directory.
        target: the device.
        constraints: precision and limits of the user.
        out: the bundle directory to write, or a file that ends in .zip or .tar.gz; an earlier bundle is replaced.
        settings: how to carry it out.
        progress: receives progress and notes.

    Raises:
        TlxError: see errors.py; OverBudget if no model keeps the limits. Nothing is written then.
    """
    progress = progress or Silent()
    key = read_private_key(settings.sign) if settings.sign else None
    check_archive_place(out) if is_archive(out) else check_place(out)
    job = Job(target, constraints, plan(target, constraints), progress, settings.consent, settings.measure)
    with claim(out, "tlx export"), temporary_folder("tlx-export-") as folder:
        source = snapshot(checkpoint_path, folder / "source")  # another process may replace the checkpoint during the export
        return _Export(source, job, settings.data_root, folder, key, settings.with_c).run(out)


class _Export:
    """One run of the verb."""

    def __init__(self, path: Path, job: Job, data_root: Path | None, folder: Path, key: Ed25519PrivateKey | None, with_c: bool) -> None:
        self.path, self.job, self.folder, self.key, self.with_c = path, job, folder, key, with_c
        self.profile: Profile = job.target.profile
        self.checkpoint: Checkpoint = read_checkpoint(path)
        dataset = read_dataset(path)
        self.dataset: Dataset = dataset if data_root is None else dataset.model_copy(update={"root": str(data_root.absolute())})

    def run(self, out: Path) -> Exported:
        candidates = self._candidates(self.checkpoint.preprocess)
        found = Found(candidates, tuple(candidates.all()))
        fallbacks = BudgetFallbacks(self.job, candidates.top1(candidates.reference), self._candidates)
        found = fallbacks.apply(found)
        constraints = self.job.constraints
        limits, yardstick = constraints.binding(), constraints.limits(self.profile.budget)
        if found.changed:  # a changed network still keeps the allowed loss of accuracy
            limits = replace(limits, drop_points=yardstick.drop_points)
        known = [m.expected.candidate(m.artifact, fallbacks.drop(m)) for m in found.made]
        decisions = choose(known, limits, constraints.precision, yardstick)
        return self._write(found, fallbacks, decisions, out)

    def _candidates(self, preprocess: Preprocess) -> Candidates:
        source = Source(self.path, self.checkpoint, self.dataset)
        folder = self.folder / str(preprocess.size)
        folder.mkdir()
        return Candidates(source, preprocess, self.job, folder)

    def _write(self, found: Found, fallbacks: BudgetFallbacks, decisions: Sequence[Decision], out: Path) -> Exported:
        candidates, made = found.candidates, found.made
        positions = golden_positions([sample.label for sample in candidates.val], [sample.path for sample in candidates.val])
        files = tuple(self.dataset.file(candidates.val[p]) for p in positions)
        models = tuple(self._model(m, fallbacks.drop(m), decision, candidates) for m, decision in zip(made, decisions, strict=True))
        draft = Manifest.model_construct(
            name=self.path.resolve().name,
            target=self.profile.target,
            profile=self.profile,
            classes=self.checkpoint.classes,
            preprocess=candidates.preprocess,
            models=models,
            rejected=(*found.rejected, *candidates.failed),
            golden=Golden(images=(), inputs=GOLDEN_INPUTS),
            files={},
            checkpoint_sha256=self.checkpoint.weights_sha256,
            checkpoint_top1=fallbacks.checkpoint_top1,
            versions={"tlexport": __version__} | {name: importlib.metadata.version(name) for name in LIBRARIES},
            training=training_of(self.checkpoint, self.dataset),
            licences=licences_of(self.checkpoint.recipe),
        )
        golden = GoldenImages(files, candidates.val_pixels[positions])
        folder = self.folder / "bundle" if is_archive(out) else out
        outputs = [m.outputs[positions] for m in made]
        manifest = write_bundle(folder, draft, [m.path for m in made], golden, outputs, self.key, self.with_c)
        if folder != out:
            with new_file(out) as archive:
                pack(folder, archive, out.name)
        return Exported(out, manifest, tuple(m.expected.measurement for m in made))

    def _model(self, made: Made, drop: float, decision: Decision, candidates: Candidates) -> Model:
        precision, file = made.artifact.precision, f"model.{made.artifact.precision}.onnx"
        engine = engine_recipe(self.profile, precision, made.artifact.inputs[0]) if self.profile.runtime == "tensorrt" else None
        return Model(
            file=file,
            artifact=made.artifact,
            top1=made.top1,
            n=len(candidates.val),
            drop_points=drop,
            parity=made.parity,
            latency=made.expected.latency,
            peak_memory_bytes=made.expected.peak_memory_bytes,
            estimate=made.expected.estimate,
            tolerance=TOLERANCES[precision],
            golden_outputs=f"golden/outputs.{precision}.npy",
            chosen=decision.chosen,
            reason=decision.reason,
            over=decision.over,
            doubts=decision.doubts,
            engine=engine,
        )

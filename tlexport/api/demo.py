"""The verb ``demo``: all steps on the embedded data and weights, through the verbs that users call."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from tlexport.api.bench import BenchSettings, bench
from tlexport.api.export import Exported, export
from tlexport.api.finetune import FinetuneSettings, Trained, finetune
from tlexport.api.verify import verify
from tlexport.data.demo import digits_folder
from tlexport.device.golden import Check
from tlexport.errors import UsageError, VerificationFailed
from tlexport.hardware.target import Target, profile_names, resolve
from tlexport.measurement import Measurement
from tlexport.plan import Constraints
from tlexport.ports import Progress, Silent
from tlexport.recipe import Recipe
from tlexport.storage.files import DEMO_MARKER, check_replaceable, new_file
from tlexport.storage.lock import claim

FALLBACK = "cpu-x86"  # if no profile describes this machine

# twelve epochs are enough: validation accuracy stops rising after about eight
RECIPE = Recipe(weights="embedded", strategy="partial", epochs=12, lr=3e-3, flip=False)


@dataclass(frozen=True)
class Demonstrated:
    """The result of ``demo``."""

    out: Path
    trained: Trained
    exported: Exported
    measurements: tuple[Measurement, ...]
    checks: tuple[Check, ...]
    seconds: float

    def rows(self) -> list[dict[str, object]]:
        """The table: precision, size, accuracy, latency, memory of each model."""
        return [
            {
                "precision": model.artifact.precision,
                "size_bytes": model.artifact.size_bytes,
                "top1": model.top1,
                "p50_ms": round(measured.percentile_ms(50), 4),
                "p95_ms": round(measured.percentile_ms(95), 4),
                "peak_memory_bytes": measured.peak_memory_bytes,
                "chosen": model.chosen,
            }
            for model, measured in zip(self.exported.manifest.models, self.measurements, strict=True)
        ]

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        return {
            "out": str(self.out),
            "checkpoint": str(self.trained.path),
            "bundle": str(self.exported.path),
            "val_top1": self.trained.scores.top1,
            "n": self.trained.scores.n,
            "models": self.rows(),
            "verified": len(self.checks),
            "environment": self.measurements[0].environment.model_dump(),
            "threads": self.measurements[0].threads,
            "seconds": round(self.seconds, 1),
        }


def demo(out: Path, *, seed: int = 0, threads: int | None = None, progress: Progress | None = None) -> Demonstrated:
    """Fine-tune the embedded trunk on handwritten digits, export for this machine, measure, verify.

    Args:
        out: a directory for the images, the checkpoint and the bundle; an earlier demo there is replaced.
        seed: of the split and of training.
        threads: CPU threads of training; latency is always measured with one.
        progress: receives progress and notes.

    Raises:
        UsageError: ``out`` holds something that is not an earlier demo, or another process is writing it.
        VerificationFailed: the bundle does not verify.
    """
    progress = progress or Silent()
    check_replaceable(out)
    if out.is_dir() and any(out.iterdir()) and not (out / DEMO_MARKER).is_file():
        raise UsageError(f"{out} exists and is not an earlier demo; it was not changed", "choose another --out, or remove it first")
    with claim(out, "tlx demo"):
        return _demo(out, seed, threads, progress)


def _demo(out: Path, seed: int, threads: int | None, progress: Progress) -> Demonstrated:
    """The steps, one after the other."""
    started = time.perf_counter()
    _write(out, {"demo": "handwritten digits", "seed": seed})
    target = _this_machine()
    if not target.here:
        progress.note(f"no profile describes this machine; the bundle is made for {FALLBACK} and measured here")
    digits = digits_folder(out / "digits")
    recipe = RECIPE.model_copy(update={"seed": seed})
    settings = FinetuneSettings(device="cpu", threads=threads, restart=True)
    trained = finetune(str(digits), recipe, out / "checkpoint", settings, progress=progress)
    exported = export(trained.path, target, Constraints(), out / "bundle", progress=progress)
    measurements = bench(exported.path, BenchSettings(threads=1), progress=progress)
    checks = verify(exported.path, device="cpu")
    failed = [check for check in checks if not check.ok]
    if failed:
        raise VerificationFailed(f"the demo's bundle does not verify: {failed[0].name}: {failed[0].detail}", "please report this")
    result = Demonstrated(out, trained, exported, tuple(measurements), tuple(checks), time.perf_counter() - started)
    _write(out, result.to_json())
    return result


def _write(out: Path, said: dict[str, object]) -> None:
    """Write the marker by which a later demo recognizes ``out``; at the end, with the result."""
    with new_file(out / DEMO_MARKER) as file:
        file.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


def _this_machine() -> Target:
    """The profile of this machine if it runs ONNX Runtime on the CPU; otherwise the fallback."""
    found = [target for target in map(resolve, profile_names()) if target.here]
    able = [target for target in found if target.profile.runtime == "onnxruntime" and target.profile.device is None]
    board = [
        target for target in able if target.profile.match.device_tree or target.profile.match.cpu
    ]  # more specific than a processor family
    return next(iter(board or able), None) or resolve(FALLBACK)

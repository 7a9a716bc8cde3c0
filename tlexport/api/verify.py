"""The verb ``verify``: does a bundle still hold what was exported, and does it compute it here?"""

from __future__ import annotations

from pathlib import Path
from typing import cast

from tlexport import plugins
from tlexport.api.subject import device_for
from tlexport.bundle import read_manifest
from tlexport.export.verify import Check, check_decoding, check_files, check_model
from tlexport.ports import Runner, RunOptions, Runtime


def verify(bundle: Path, *, device: str = "auto", threads: int | None = None) -> list[Check]:
    """Check hashes, then replay the golden vectors of every model through ONNX Runtime.

    Nothing is loaded whose hash is wrong: the golden vectors are replayed only when all files are as they should be.

    Raises:
        InvalidFile: not a bundle, or a broken manifest.
        Unsupported: the device is not here.
    """
    manifest = read_manifest(bundle)
    checks = check_files(bundle, manifest)
    if not all(check.ok for check in checks):
        return checks
    checks.append(check_decoding(bundle, manifest))
    runtime = cast(Runtime, plugins.load("runtimes", "onnxruntime"))
    for model in manifest.models:
        simulate = manifest.profile.runtime == "tensorrt" and model.artifact.precision == "int8"
        options = RunOptions(device=device_for("onnxruntime", device), threads=threads, simulate_quantization=simulate)

        def open_model(path: Path, options: RunOptions = options) -> Runner:
            return runtime.open_model(path, options)

        checks.append(check_model(bundle, manifest, model, open_model))
    return checks

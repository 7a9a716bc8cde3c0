"""The verb ``verify``: does a bundle still hold what was exported, and does it compute it here?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from tlexport import plugins
from tlexport.api.open_bundle import open_bundle
from tlexport.api.subject import device_for
from tlexport.bundle import read_manifest
from tlexport.errors import VerificationFailed
from tlexport.export.verify import Check, check_decoding, check_files, check_model
from tlexport.ports import Runner, RunOptions, Runtime
from tlexport.signature import check_signature, read_public_key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def verify(bundle: Path, *, device: str = "auto", threads: int | None = None, key: Path | None = None) -> list[Check]:
    """Check signature and hashes, then replay the golden vectors of every model through ONNX Runtime.

    Nothing is loaded whose hash is wrong: the golden vectors are replayed only when all files are as they should be.

    Args:
        bundle: a directory, or an archive, in which a wrong hash is an error and no failed check: it is not unpacked.
        device: that ONNX Runtime runs on.
        threads: CPU threads of ONNX Runtime.
        key: the public key (PEM, Ed25519) of whoever must have signed it; None: signed or not.

    Raises:
        InvalidFile: not a bundle, or a broken manifest; not a key.
        VerificationFailed: an archive whose files are not those of its manifest.
        MissingDependency: a key was given, and there is no library for it.
        Unsupported: the device is not here.
    """
    public = read_public_key(key) if key else None
    bundle = open_bundle(bundle)
    checks = []
    if public:
        checks.append(_signature(bundle, public))
        if not checks[0].ok:
            return checks
    manifest = read_manifest(bundle)
    checks += check_files(bundle, manifest)
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


def _signature(bundle: Path, public: Ed25519PublicKey) -> Check:
    try:
        check_signature(bundle, public)
    except VerificationFailed as error:
        return Check("signature", False, error.message)
    return Check("signature", True, "")

"""The verb ``verify``: does a bundle still hold what was exported, and does it compute it here?"""

from __future__ import annotations

from pathlib import Path

from tlexport.bundle.device_errors import as_ours
from tlexport.bundle.manifest import SIGNATURE, read_manifest
from tlexport.bundle.signature import check_signature, read_public_key
from tlexport.device import golden
from tlexport.device.choice import Choice
from tlexport.device.golden import Check
from tlexport.device.manifest import Bundle
from tlexport.device.model import open_model
from tlexport.errors import VerificationFailed
from tlexport.loading.model import device_for
from tlexport.loading.open_bundle import open_bundle
from tlexport.ports import Progress, Silent


def verify(
    bundle: Path, *, device: str = "auto", threads: int | None = None, key: Path | None = None, progress: Progress | None = None
) -> list[Check]:
    """Check signature and hashes, then replay the golden vectors of every model through ONNX Runtime, as the bundle's own runner does.

    Nothing is loaded whose hash is wrong: the golden vectors are replayed only when all files are as they should be.

    Args:
        bundle: a directory, or an archive, in which a wrong hash is an error and no failed check: it is not unpacked.
        device: that ONNX Runtime runs on.
        threads: CPU threads of ONNX Runtime.
        key: the public key (PEM, Ed25519) of whoever must have signed it; None: signed or not.
        progress: where to tell of a signature that nobody looked at.

    Raises:
        InvalidFile: not a bundle, or a broken manifest; not a key.
        VerificationFailed: an archive whose files are not those of its manifest.
        MissingDependency: a key was given, and there is no library for it.
        Unsupported: the device is not here.
    """
    bundle = open_bundle(bundle)
    checks = [check_key(bundle, key)] if key else []
    if checks and not checks[0].ok:
        return checks
    if key is None and (bundle / SIGNATURE).is_file():
        (progress or Silent()).note("the bundle is signed, and whose signature it is was not looked at: --key PUBLIC.pem")
    read_manifest(bundle)  # which looks at more than the runner does
    choice = Choice("onnxruntime", device_for("onnxruntime", device), "")
    with as_ours():
        opened = Bundle(bundle)
        return checks + golden.verify(opened, opened.models, lambda record: open_model(opened, record, choice, threads))


def check_key(bundle: Path, key: Path) -> Check:
    """Whether a bundle, a directory or an archive, was signed with the private key of a public one (PEM, Ed25519).

    Raises:
        InvalidFile: not a key, or not a bundle.
        VerificationFailed: an archive whose files are not those of its manifest.
        MissingDependency: there is no library for it.
    """
    public = read_public_key(key)
    try:
        check_signature(open_bundle(bundle), public)
    except VerificationFailed as error:
        return Check("signature", False, error.message)
    return Check("signature", True, "")

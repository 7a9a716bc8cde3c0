"""The verb ``verify``: checks the files of a bundle, and replays its golden vectors here."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True)
class Verified:
    """The checks of a bundle, here or on a board."""

    bundle: Path
    checks: tuple[Check, ...]
    host: str = ""  # the board that ran them; empty: this machine

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that do not hold."""
        return tuple(check for check in self.checks if not check.ok)

    @property
    def verdict(self) -> str:
        """One word for all of them; see :func:`tlexport.device.golden.verdict`."""
        return golden.verdict(list(self.checks))

    def expect_ok(self) -> None:
        """Raises VerificationFailed: a check failed; names the first one and what to do."""
        if failed := self.failed:
            counts = f"{len(failed)} of {len(self.checks)} checks failed ({self.verdict})"
            raise VerificationFailed(f"{counts}, first: {failed[0].name}: {failed[0].detail}", golden.remedy(list(self.checks)))

    def to_json(self) -> dict[str, object]:
        """As cli.md has it."""
        where = {"host": self.host} if self.host else {}
        checks = [check.to_json() for check in self.checks]
        return {"bundle": str(self.bundle), "ok": not self.failed, "verdict": self.verdict, "checks": checks} | where


def verify(
    bundle: Path, *, device: str = "auto", threads: int | None = None, key: Path | None = None, progress: Progress | None = None
) -> list[Check]:
    """Check signature and hashes, then replay the golden vectors of every model through ONNX Runtime, as the bundle's own runner does.

    No file with a wrong hash is loaded: the golden vectors are replayed only if all hashes match.

    Args:
        bundle: a directory, or an archive. A wrong hash in an archive is an error instead of a failed check.
        device: of ONNX Runtime.
        threads: CPU threads of ONNX Runtime.
        key: the public key (PEM, Ed25519) that must match the signature; None: the signature is not checked.
        progress: receives a note if a signature is not checked.

    Raises:
        InvalidFile: not a bundle, or a broken manifest; not a key.
        VerificationFailed: the files of an archive differ from its manifest.
        MissingDependency: a key was given, but the library to check it is missing.
        Unsupported: this machine has no such device.
    """
    bundle = open_bundle(bundle)
    checks = [check_key(bundle, key)] if key else []
    if checks and not checks[0].ok:
        return checks
    if key is None and (bundle / SIGNATURE).is_file():
        (progress or Silent()).note("the bundle is signed, but its signature was not checked: --key PUBLIC.pem")
    read_manifest(bundle)  # checks more than the runner does
    choice = Choice("onnxruntime", device_for("onnxruntime", device), "")
    with as_ours():
        opened = Bundle(bundle)
        return checks + golden.verify(opened, opened.models, lambda record: open_model(opened, record, choice, threads))


def check_key(bundle: Path, key: Path) -> Check:
    """Whether a bundle (a directory or an archive) was signed with the private key that belongs to a public key (PEM, Ed25519).

    Raises:
        InvalidFile: not a key, or not a bundle.
        VerificationFailed: the files of an archive differ from its manifest.
        MissingDependency: the library to check it is missing.
    """
    public = read_public_key(key)
    try:
        check_signature(open_bundle(bundle), public)
    except VerificationFailed as error:
        return Check("signature", False, error.message)
    return Check("signature", True, "")

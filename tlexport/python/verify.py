"""``tlexport.verify``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tlexport import arguments
from tlexport.errors import VerificationFailed
from tlexport.python import values
from tlexport.python.result import Result, plain, with_result
from tlexport.python.tables import Table
from tlexport.python.values import PathLike
from tlexport.storage.machine_errors import expect_usable, machine_errors


@dataclass(frozen=True)
class VerifyCheck:
    """One check of a bundle."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, repr=False)
class VerifyResult(Result):
    """The checks of a bundle."""

    bundle: Path
    ok: bool
    verdict: str
    checks: tuple[VerifyCheck, ...]

    def _shown(self) -> Sequence[Table | str]:
        rows = [(check.name, "ok" if check.ok else "FAILED", check.detail) for check in self.checks]
        return [f"{self.bundle}: {self.verdict}", Table(("check", "result", "detail"), rows, (0, 1, 2))]


def verify(
    bundle: PathLike,
    *,
    key: PathLike | None = None,
    device: str = "auto",
    threads: int | None = None,
    host: str | None = None,
    ssh_option: str | Sequence[str] = (),
    host_python: str | None = None,
) -> VerifyResult:
    """Check the hashes of a bundle and replay its golden vectors, as ``tlx verify`` does.

    Args:
        bundle: a directory, or a .zip or .tar.gz file.
        key: the public key (PEM, Ed25519) of whoever must have signed the bundle.
        device: ``"auto"``, ``"cpu"`` or ``"cuda[:N]"``.
        threads: CPU threads; None: one for each usable core.
        host: verify on this board, which ssh reaches, with the bundle's own runner.
        ssh_option: for ssh's -o, such as ``"Port=2222"``; one or several.
        host_python: Python on the board; None: python3.

    Raises:
        VerificationFailed: a check failed; ``error.result`` is the :class:`VerifyResult`.
        TlxError: see :mod:`tlexport.errors`.
    """
    with machine_errors():
        from tlexport.api.remote import verify_on
        from tlexport.python.notebook import reporter

        path = values.path("bundle", bundle)
        expect_usable([str(path)])
        found = verify_on(
            values.host(host, ssh_option, host_python),
            path,
            device=values.parsed("device", device, arguments.device),
            threads=values.threads(threads),
            key=values.path_or_none("key", key),
            progress=reporter(verbose=False, quiet=False),
        )
        checks = tuple(VerifyCheck(check.name, check.ok, check.detail) for check in found.checks)
        result = VerifyResult(plain(found.to_json()), bundle=path, ok=not found.failed, verdict=found.verdict, checks=checks)
        try:
            found.expect_ok()
        except VerificationFailed as error:
            raise with_result(error, result) from None
        return result

"""Run a bundle on a remote board: copy its files, start its runner, and return the answer or the error."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tlexport.bundle.manifest import MANIFEST, Manifest
from tlexport.errors import (
    InvalidFile,
    MissingDependency,
    OverBudget,
    StepFailed,
    TlxError,
    Unsupported,
    VerificationFailed,
)
from tlexport.hardware.machine import Machine, this_machine
from tlexport.ports import Progress, Task
from tlexport.remote import on_board
from tlexport.remote.host import CommandResult, Host
from tlexport.remote.ssh import Connection
from tlexport.storage.files import temporary_folder
from tlexport.storage.untrusted import parse_json

RUNNER = "run.py"
IMAGES = "images"  # folder beside that of the bundle
ERRORS: dict[int, type[TlxError]] = {
    kind.exit_code: kind for kind in (StepFailed, InvalidFile, MissingDependency, Unsupported, VerificationFailed, OverBudget)
}
KILLED = 137  # exit code of a process ended by SIGKILL: 128 + 9


class Board:
    """A remote board with a copy of the bundle."""

    def __init__(self, connection: Connection, progress: Progress) -> None:
        self._connection = connection
        self._progress = progress
        self._sent: dict[str, Path] = {}
        self.host = connection.host

    def machine(self) -> Machine:
        """The description of the board, in the form used for this machine."""
        about = self._connection.about
        with temporary_folder("tlx-board-") as folder:
            for name in on_board.FACTS:
                if name in about["files"]:
                    file = folder / name
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(about["files"][name].encode())
            return this_machine(Path(folder), about["machine"])

    def send(self, files: Mapping[str, Path]) -> None:
        """Copy files.

        Args:
            files: from the path in the board's folder to the file here.

        Raises:
            StepFailed: a file cannot be read, the board cannot write it, or the connection was lost.
        """
        self._sent |= files
        total = sum(file.stat().st_size for file in files.values())
        with self._progress.task(f"copying to {self.host.name}", total) as advance:
            ended = self._connection.run(
                ("receive", self._connection.folder), lambda stream: _pack(stream, files, advance), lambda line: None
            )
        if ended.code:
            raise StepFailed(
                f"{self.host.name} did not accept the files (exit code {ended.code}): {' '.join(ended.err[-1:])}", "is its disk full?"
            )

    def ask(self, verb: str, *arguments: str, also: tuple[int, ...] = ()) -> Any:
        """Run the bundle's runner.

        Args:
            verb: its command.
            arguments: its arguments.
            also: further exit codes that come with an answer.

        Returns:
            The JSON that it printed.

        Raises:
            TlxError: the error of the runner with its exit code; StepFailed for any other failure.
        """
        words = [verb, *arguments, "--json"]
        ended = self._connection.run(
            ("run", self._connection.folder), lambda stream: stream.write(f"{json.dumps(words)}\n".encode()), self._relay()
        )
        answered = ended.code == 0 or (ended.code in also and ended.out.strip())
        if not answered:
            raise self._error(verb, ended)
        try:
            return parse_json(ended.out, f"{self.host.name} cannot be understood")
        except InvalidFile:
            raise self.odd(verb, ended.out) from None

    def odd(self, verb: str, found: object) -> StepFailed:
        """The error for an answer that this version cannot read."""
        return StepFailed(
            f"{self.host.name}: {RUNNER} {verb} gave an unknown answer: {str(found)[:200]!r}",
            "export the bundle again with this version of tlx",
        )

    def _relay(self) -> Any:
        """Forward the messages of the runner up to its error."""
        failed = False

        def heard(line: str) -> None:
            nonlocal failed
            failed = failed or line.startswith("error: ")
            if line and not failed:
                self._progress.note(f"{self.host.name}: {line.removeprefix('note: ')}")

        return heard

    def _error(self, verb: str, ended: CommandResult) -> TlxError:
        starts = [index for index, line in enumerate(ended.err) if line.startswith("error: ")]
        if not starts or ended.code not in ERRORS:
            hint = "the board may have run out of memory" if ended.code == KILLED else f"check the board: ssh {self.host.name}"
            said = "\n".join(ended.err[-5:]) or "no output"
            return StepFailed(f"{self.host.name}: {RUNNER} {verb} ended with exit code {ended.code}: {said}", hint)
        text = "\n".join(ended.err[starts[-1] :]).removeprefix("error: ")
        for there, here in self._sent.items():  # in errors, files have their names on this machine
            text = text.replace(f"{self._connection.folder}/{there}", str(here)).replace(f"../{there}", str(here))
        message, _, hint = text.partition("\nhint: ")
        return ERRORS[ended.code](f"{self.host.name}: {message}", hint)


@contextmanager
def connected(host: Host, progress: Progress) -> Iterator[Board]:
    """A board within a context; all copied files are removed afterwards.

    Raises:
        TlxError: see :class:`tlexport.remote.ssh.Connection`.
    """
    with Connection(host, lambda line: progress.note(f"ssh: {line}") if line else None) as connection:
        yield Board(connection, progress)


def bundle_files(bundle: Path, manifest: Manifest) -> dict[str, Path]:
    """The existing files of a bundle that its manifest lists, for :meth:`Board.send`.

    The runner reports missing files and links that leave the bundle.

    Raises:
        InvalidFile: the bundle has no runner.
    """
    if RUNNER not in manifest.files:
        raise InvalidFile(f"{bundle} holds no {RUNNER}, which a board needs", "export it again with this version of tlx")
    names = [MANIFEST, *manifest.files]
    inside = [name for name in names if (bundle / name).is_file() and (bundle / name).resolve().is_relative_to(bundle.resolve())]
    return {f"{on_board.BUNDLE}/{name}": bundle / name for name in inside}


def _pack(stream: IO[bytes], files: Mapping[str, Path], advance: Task) -> None:
    with tarfile.open(fileobj=stream, mode="w|") as archive:
        for name, file in files.items():
            try:
                with file.open("rb") as source:
                    member = tarfile.TarInfo(name)
                    member.size = file.stat().st_size
                    archive.addfile(member, source)
            except BrokenPipeError:
                raise
            except OSError as error:
                raise StepFailed(f"{file} cannot be read: {error.strerror or error}", "check the file and run the command again") from None
            advance(member.size)

"""Boards for the tests of `--host`: a real sshd on the loopback, where each key leads to another board."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

SSHD = shutil.which("sshd") or shutil.which("/usr/sbin/sshd")
MISSING = None if SSHD and shutil.which("ssh") else "no sshd or no ssh on this machine (package openssh-server): nothing to log in to"
PATIENCE = 20  # seconds for what takes a fraction of one

CONFIGURATION = """
Port {port}
ListenAddress 127.0.0.1
HostKey "{folder}/host key"
PidFile none
AuthorizedKeysFile "{folder}/authorized_keys"
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
KexAlgorithms curve25519-sha256
SetEnv HOME="{folder}"
"""  # the quickest of the usual key exchanges; and a home without the start-up files of whoever runs the tests
# what the shell of a board starts with; some greet, where they should not
SCRIPT = """#!/bin/sh
echo "welcome to {name}"
PATH={path} TMPDIR={temporary} TLX_BOARD={folder}
export PATH TMPDIR TLX_BOARD
unset PYTHONPATH
exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"
"""
REAL = shlex.quote(sys.executable)
# a Python that reports an older version: the program follows -c
OLD = f"""shift; program=$1; shift
exec {REAL} -c "import platform; platform.python_version = lambda: '3.5.10'
$program" "$@" """
LIAR = 'exec /bin/cat "$TLX_BOARD/greeting"'  # prints the content of a file written by the test
PYTHONS = {"board": f'exec {REAL} "$@"', "bare": None, "old": OLD, "without numpy": f'exec {REAL} -S "$@"', "liar": LIAR}


def wait_until(done: Callable[[], Any]) -> Any:
    """Wait until `done` returns a true value, and return it."""
    end = time.monotonic() + PATIENCE
    while not (found := done()):
        assert time.monotonic() < end, f"it did not come about: {done}"
        time.sleep(0.02)
    return found


class Board:
    """One board, as the tests see it from behind."""

    def __init__(self, name: str, folder: Path, port: int) -> None:
        self.folder, self.key = folder / name, folder / f"{name}.key"
        self.temporary = self.folder / "temporary files"
        self.temporary.mkdir(parents=True)
        programs = self.folder / "programs"
        programs.mkdir()
        if python := PYTHONS[name]:
            _executable(programs / "python3", f"#!/bin/sh\n{python}\n")
        places = {"path": programs, "temporary": self.temporary, "folder": self.folder}
        quoted = {key: shlex.quote(str(path)) for key, path in places.items()}
        _executable(self.folder / "login", SCRIPT.format(name=shlex.quote(name), **quoted))
        _make_key(self.key)
        public = self.key.with_name(f"{self.key.name}.pub").read_text(encoding="utf-8")
        self.authorized = f"command=\"'{self.folder / 'login'}'\",restrict {public}"
        self.host = f"{getpass.getuser()}@127.0.0.1"
        self.settings = {
            "Port": str(port),
            "IdentityFile": f'"{self.key}"',
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": f'"{folder / "known hosts"}"',
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",  # no server is there to answer
        }

    def options(self, **changes: str) -> list[str]:
        """What a user would type to get here."""
        return ["--host", self.host, *(word for option in self.ssh_options(**changes) for word in ("--ssh-option", option))]

    def ssh_options(self, **changes: str) -> tuple[str, ...]:
        """How to get here, for ssh's -o."""
        return tuple(f"{key}={value}" for key, value in (self.settings | changes).items())

    def journal(self) -> list[dict[str, Any]]:
        """The requests that the runner received, in order."""
        file = self.folder / "journal"
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []

    def tell(self, verb: str, **how: object) -> None:
        """How the runner is to behave."""
        (self.folder / f"{verb}.json").write_text(json.dumps(how), encoding="utf-8")

    def waiting(self) -> list[int]:
        """The processes of a runner that waits, once it does."""
        file = self.folder / "waiting"
        found: list[int] = wait_until(lambda: json.loads(file.read_text() or "[]") if file.exists() else [])
        return found

    def is_clean(self) -> bool:
        """Check that no file or process of tlexport remains."""
        return not list(self.temporary.iterdir())

    def forget(self) -> None:
        """As it was before any test."""
        for file in self.folder.iterdir():
            if file.name in ("journal", "waiting") or file.suffix == ".json":
                file.unlink()


class Sshd:
    """The server, with all its boards."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.folder = folder
        self.boards = {name: Board(name, folder, self.port) for name in PYTHONS}
        _make_key(folder / "host key")
        (folder / "authorized_keys").write_text("".join(board.authorized for board in self.boards.values()), encoding="utf-8")
        self.write_known_hosts(folder / "host key.pub")
        (folder / "sshd_config").write_text(CONFIGURATION.format(folder=folder, port=self.port), encoding="utf-8")

    def write_known_hosts(self, public: Path, name: str = "known hosts") -> Path:
        """A known_hosts file with the server's key."""
        kind, key = public.read_text(encoding="utf-8").split()[:2]
        file = self.folder / name
        file.write_text(f"[127.0.0.1]:{self.port} {kind} {key}\n", encoding="utf-8")
        return file

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The server, until the context is left."""
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # compiled in: where it locks itself up; its package's service makes it
        with tempfile.TemporaryFile() as log:
            command = [str(SSHD), "-D", "-e", "-f", str(self.folder / "sshd_config")]
            with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, start_new_session=True) as self.process:
                try:
                    wait_until(lambda: self.process.poll() is not None or self._accepts())
                    log.seek(0)
                    assert self.process.poll() is None, log.read().decode()
                    yield
                finally:
                    self.process.terminate()

    def _accepts(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill_sessions(self) -> None:
        """What a cable that is pulled does to the server's side, without its patience."""
        for session in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in [session, *session.children()]:  # for users but root, the one that has the connection is a child
                    if "sshd" in process.name():
                        process.kill()


def _executable(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


def _make_key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def make_key(path: Path) -> Path:
    """A key pair; the public half."""
    _make_key(path)
    return path.with_name(f"{path.name}.pub")

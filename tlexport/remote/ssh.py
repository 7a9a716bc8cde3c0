"""A connection to a board with the system's OpenSSH: one login, a temporary folder, and commands in it.

ssh handles keys, passwords, host keys, ports and jump hosts with the user's configuration and asks on the terminal. Only the first
ssh logs in; the others share its connection (ControlMaster, with a socket in a private folder). The first runs ``keep`` of on_board.py,
which holds the temporary folder while the connection is open. The folder is therefore also removed if the network fails or this process
is killed.
"""

from __future__ import annotations

import collections
import contextlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from tlexport.errors import InvalidFile, MissingDependency, StepFailed
from tlexport.remote import on_board
from tlexport.remote.host import CommandResult, Host
from tlexport.remote.streams import pipe, read_lines
from tlexport.storage.untrusted import parse_json

OLDEST = (3, 6)  # oldest Python that the runner supports
LONGEST_FOLDER = 60  # characters: the path of a socket may have about 100 (sun_path in unix(7)), and ssh extends it during creation
CLEANING = 20.0  # seconds for the board to remove its folder
ASKING = 0.5  # seconds between two requests to end
LAST_WORDS = 5  # lines of ssh output in an error
# limits on the output of a board, which is untrusted: lines that are shown, bytes of an answer and of a greeting
MOST_LINES = 2000
LARGEST_ANSWER = 64 * 10**6
LARGEST_GREETING = 10**6
# ssh uses the first value of an option: these precede the user's options and configuration ...
FIRST = ("-T", "-a", "-x", "-o", "RemoteCommand=none", "-o", "ControlPersist=no", "-o", "ClearAllForwardings=yes")
# ... and these follow the options: a connection is lost after two minutes without an answer
LAST = ("-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=8")
ABOUT: dict[str, type] = {"folder": str, "python": str, "numpy": bool, "machine": str, "files": dict}  # of a greeting
NOT_FOUND = (126, 127)  # exit codes of a shell that cannot start a program


class Connection:
    """A login to a board and a temporary folder there, within a context.

    Args:
        host: the board.
        heard: receives each line of ssh's own output, such as a warning.

    Raises:
        MissingDependency: no ssh here; no Python there, or one that is too old or has no numpy.
        StepFailed: ssh failed to connect (with its exit code and last lines).
    """

    def __init__(self, host: Host, heard: Callable[[str], None]) -> None:
        self.host = host
        self.about: dict[str, Any] = {}  # the greeting of on_board.about
        self._heard = heard
        self._words: collections.deque[str] = collections.deque(maxlen=MOST_LINES)  # output of the first ssh
        self._stack = contextlib.ExitStack()

    @property
    def folder(self) -> str:
        """The temporary folder on the board."""
        return str(self.about["folder"])

    def __enter__(self) -> Self:
        if shutil.which("ssh") is None:
            raise MissingDependency("there is no ssh on this machine", "install OpenSSH's client, such as: sudo apt install openssh-client")
        with contextlib.ExitStack() as stack:
            within = tempfile.gettempdir()
            private = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="tlx-", dir=within if len(within) < LONGEST_FOLDER else "/tmp")
            )
            self._socket = str(Path(private) / "ssh").replace("%", "%%")  # ssh expands % sequences
            self._keeper = self._start_keeper()
            stack.callback(self._close)
            self.about = self._greeting()
            self._check_python()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def run(self, words: tuple[str, ...], feed: Callable[[IO[bytes]], object], heard: Callable[[str], None]) -> CommandResult:
        """Run on_board.py on the board.

        Args:
            words: its command and arguments.
            feed: writes its standard input.
            heard: receives each line of standard error as it arrives.

        Raises:
            StepFailed: the connection was lost.
        """
        command = ["ssh", "-S", self._socket, *FIRST, *self._options(), *LAST, "--", self.host.name, self._remote(*words)]
        with (
            tempfile.TemporaryFile() as out,
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.PIPE) as process,
        ):
            try:
                with (
                    contextlib.suppress(BrokenPipeError),
                    pipe(process.stdin) as stream,
                ):  # it ended early and reports why
                    feed(stream)
                lines = self._follow(process, out, heard)
                code = process.wait()
            finally:
                process.kill()  # after an interruption; the board ends its own programs
            out.seek(0)
            text = out.read().decode("utf-8", errors="replace")
        if code:
            self._check_alive(code, lines)
        return CommandResult(code, text.partition(f"{on_board.BEGIN}\n")[2], tuple(lines))

    def _follow(self, process: subprocess.Popen[bytes], out: IO[bytes], heard: Callable[[str], None]) -> list[str]:
        """Forward the standard error of a command until it ends; returns its last lines.

        Raises:
            StepFailed: the output exceeds the limit.
        """
        lines: collections.deque[str] = collections.deque(maxlen=MOST_LINES)
        too_much = threading.Event()
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(ASKING):
                if os.fstat(out.fileno()).st_size > LARGEST_ANSWER:
                    too_much.set()
                    process.kill()
                    return

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            for count, line in enumerate(read_lines(pipe(process.stderr))):
                lines.append(line)
                if count < MOST_LINES or line.startswith(("error: ", "hint: ")):
                    heard(line)
        finally:
            ended.set()
            watcher.join()
        process.wait()
        if too_much.is_set() or os.fstat(out.fileno()).st_size > LARGEST_ANSWER:
            raise StepFailed(f"{self.host.name} answered with more than {LARGEST_ANSWER:,} bytes", f"check the board: {self._by_hand()}")
        return list(lines)

    def _start_keeper(self) -> subprocess.Popen[bytes]:
        """The ssh that logs in. Ctrl-C on a terminal reaches every process: this one ignores it, because cleaning up needs it."""
        command = ["ssh", "-M", "-S", self._socket, *FIRST, *self._options(), *LAST, "--", self.host.name, self._remote("keep")]
        piped = subprocess.PIPE
        keeper = subprocess.Popen(["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command], stdin=piped, stdout=piped, stderr=piped)
        self._listener = threading.Thread(target=self._listen, args=(pipe(keeper.stderr),), daemon=True)
        self._listener.start()
        return keeper

    def _listen(self, stream: IO[bytes]) -> None:
        for count, line in enumerate(read_lines(stream)):
            self._words.append(line)
            if count < MOST_LINES:
                self._heard(line)

    def _close(self) -> None:
        """Let the board remove its folder, and end the connection."""
        keeper = self._keeper
        try:
            with contextlib.suppress(BrokenPipeError):
                pipe(keeper.stdin).close()
            if self.about:
                keeper.wait(CLEANING)
            else:
                self._leave()
        except subprocess.TimeoutExpired:
            self._heard(f"{self.host.name} did not confirm the removal of its temporary folder: {self.folder}")
        finally:
            keeper.kill()
            keeper.wait()
            self._listener.join(1)
            pipe(keeper.stdout).close()
            pipe(keeper.stderr).close()

    def _leave(self) -> None:
        """End an ssh that is still connecting. Before a password prompt it may miss a signal; killed during the prompt, it would leave
        the terminal without echo."""
        for _ in range(round(CLEANING / ASKING)):
            self._keeper.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._keeper.wait(ASKING)
                return

    def _greeting(self) -> dict[str, Any]:
        stream = pipe(self._keeper.stdout)
        left = LARGEST_GREETING
        while left > 0 and (line := stream.readline(left)):
            left -= len(line)
            if line.rstrip() == on_board.BEGIN.encode():
                return self._understood(stream.readline(LARGEST_GREETING))
        if left <= 0:
            raise StepFailed(f"{self.host.name} greets with more than {LARGEST_GREETING:,} bytes", f"check the board: {self._by_hand()}")
        code, name = self._keeper.wait(), self.host.name
        self._listener.join(1)
        if code in NOT_FOUND:
            raise MissingDependency(
                f"{name} cannot start {self.host.python}: {self._last_words()}",
                "install it there, sudo apt install python3 python3-numpy; or give its path: --host-python PATH",
            )
        if code == 255:  # ssh's own exit code for any failure before the command runs
            raise StepFailed(f"ssh could not connect to {name} (exit code 255): {self._last_words()}", f"try ssh alone: {self._by_hand()}")
        raise StepFailed(f"{name} could not be prepared (exit code {code}): {self._last_words()}", f"check the board: {self._by_hand()}")

    def _understood(self, line: bytes) -> dict[str, Any]:
        """The greeting of on_board.about, with checked types. Raises StepFailed for any other content."""
        look = f"another program answered; check the board: {self._by_hand()}"
        try:
            about = parse_json(line, "not JSON")
        except InvalidFile as error:
            raise StepFailed(f"the greeting of {self.host.name} is not understood: {error.message}", look) from None
        for key, kind in ABOUT.items():
            found = about.get(key) if isinstance(about, dict) else None
            texts = found.values() if isinstance(found, dict) else ()
            if not isinstance(found, kind) or not all(isinstance(text, str) for text in texts):
                raise StepFailed(f"the greeting of {self.host.name} is not understood: its {key!r} is {str(found)[:60]!r}", look)
        if not re.fullmatch(r"/[\x20-\x7e]{1,200}", about["folder"]) or ".." in about["folder"].split("/"):
            raise StepFailed(f"the greeting of {self.host.name} has no valid folder: {about['folder'][:60]!r}", look)
        return dict(about)

    def _check_python(self) -> None:
        name, python = self.host.name, self.host.python
        version = str(self.about["python"])
        if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < OLDEST:
            wanted = ".".join(map(str, OLDEST))
            raise MissingDependency(
                f"{python} on {name} is Python {version}; the runner of a bundle needs {wanted} or newer",
                "name another: --host-python PATH",
            )
        if not self.about["numpy"]:
            raise MissingDependency(
                f"{python} on {name} has no numpy",
                "install it there, sudo apt install python3-numpy; or name a Python that has it: --host-python venv/bin/python",
            )

    def _check_alive(self, code: int, lines: list[str]) -> None:
        """Raise StepFailed when a command failed because the connection did."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._keeper.wait(1 if code == 255 else 0.1)
        if self._keeper.returncode is None and code >= 0:
            return
        self._listener.join(1)
        words = self._last_words(lines)
        raise StepFailed(
            f"the connection to {self.host.name} was lost (ssh ended with exit code {self._keeper.returncode or code}): {words}",
            "partial results were removed; run the same command again",
        )

    def _last_words(self, more: list[str] | None = None) -> str:
        lines = list(dict.fromkeys(line for line in [*self._words, *(more or ())] if line))
        return "\n".join(lines[-LAST_WORDS:]) or "no output"

    def _options(self) -> list[str]:
        return [word for option in self.host.options for word in ("-o", option)]

    def _remote(self, *words: str) -> str:
        """The command line for the board's shell."""
        program = Path(on_board.__file__).read_text(encoding="utf-8")
        return shlex.join([self.host.python.removeprefix("~/"), "-c", program, *words])

    def _by_hand(self) -> str:
        return shlex.join(["ssh", *self._options(), self.host.name, "true"])

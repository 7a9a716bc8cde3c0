"""`--host` with a broken or hostile board: any answer ends in an error that names the board."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ssh_server
from commands import here
from stand_in_bundle import stand_in_bundle

from tlexport.remote import ssh

pytestmark = pytest.mark.skipif(ssh_server.MISSING is not None, reason=str(ssh_server.MISSING))
ABOUT = {"folder": "/tmp/tlx-x", "python": "3.8.10", "numpy": True, "machine": "aarch64", "files": {}}
BEGIN = "tlx-begin"
GREETINGS: dict[str, tuple[str | bytes, str]] = {
    "no JSON": (f"{BEGIN}\nhello\n", "the greeting of .* is not understood: not JSON"),
    "nothing": (f"{BEGIN}\n", "is not understood"),
    "a list": (f"{BEGIN}\n[]\n", "its 'folder' is 'None'"),
    "deep": (f"{BEGIN}\n{'[' * 100_000}\n", "is not understood"),
    "a long number": (f'{BEGIN}\n{{"folder": {"1" * 5000}}}\n', "is not understood"),
    "no text": (BEGIN.encode() + b"\n\xff\xfe\n", "is not understood"),
    "a long line": (f"{BEGIN}\n{'x' * 1_500_000}", "is not understood"),
    "no end": ("y" * 1_500_000, "greets with more than 1,000,000 bytes"),
    "an escape": (f"{BEGIN}\n{json.dumps(ABOUT | {'folder': chr(27) + '[2J'})}\n", "has no valid folder"),
    "a folder above": (f"{BEGIN}\n{json.dumps(ABOUT | {'folder': '/tmp/../etc'})}\n", "has no valid folder"),
    **{f"without {key}": (f"{BEGIN}\n{json.dumps({**ABOUT, key: None})}\n", f"its '{key}' is 'None'") for key in ABOUT},
    "files of numbers": (f"{BEGIN}\n{json.dumps(ABOUT | {'files': {'proc/cpuinfo': 3}})}\n", "its 'files' is"),
    "the same to everything": (f"{BEGIN}\n{json.dumps(ABOUT)}\n", "gave an unknown answer"),
}
ANSWERS: dict[str, tuple[dict[str, Any], str]] = {
    "no JSON": ({"out": "[" * 50_000}, "gave an unknown answer"),
    "NaN": ({"out": '{"checks": [NaN]}'}, "gave an unknown answer"),
    "no checks": ({"out": "{}"}, "gave an unknown answer"),
    "a number": ({"out": '{"checks": 3}'}, "gave an unknown answer"),
    "too much": ({"out": "x" * 300_000}, "answered with more than 100,000 bytes"),
    "much on stderr": ({"err": "e" * 3_000_000, "code": 1}, "ended with exit code 1"),
    "many lines on stderr": ({"err": "line\n" * 100_000, "code": 9}, "ended with exit code 9"),
    "an odd code": ({"err": "error: \x1b]0;x\x07\nhint: \u202e", "code": 77}, "ended with exit code 77"),
}


@pytest.fixture(scope="module")
def sent(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only."""
    return stand_in_bundle(bundle, tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ssh_server.Sshd]:
    server = ssh_server.Sshd(tmp_path_factory.mktemp("ssh server"))
    with server.running():
        yield server


def verified(capfd: pytest.CaptureFixture[str], bundle: Path, board: ssh_server.Board, said: str) -> None:
    """`tlx verify` fails with the expected message, in few words, without terminal control sequences."""
    ended = here(capfd, "verify", bundle, *board.options())
    assert (ended.code, ended.out) == (1, "")
    assert re.search(said, ended.err), ended.err[-2000:]
    assert "\nhint: " in ended.err
    assert not set(ended.err) & set("\x1b\x07\u202e")
    assert len(ended.err) < 500_000


@pytest.mark.parametrize("name", GREETINGS)
def test_a_greeting_that_is_none(name: str, sent: Path, sshd: ssh_server.Sshd, capfd: pytest.CaptureFixture[str]) -> None:
    board, (greeting, said) = sshd.boards["liar"], GREETINGS[name]
    (board.folder / "greeting").write_bytes(greeting if isinstance(greeting, bytes) else greeting.encode())
    verified(capfd, sent, board, said)


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_that_is_none(
    name: str,
    sent: Path,
    sshd: ssh_server.Sshd,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ssh, "LARGEST_ANSWER", 100_000)
    board, (how, said) = sshd.boards["board"], ANSWERS[name]
    board.forget()
    board.tell("verify", **({"code": 0} | how))
    verified(capfd, sent, board, said)
    ssh_server.wait_until(board.is_clean)

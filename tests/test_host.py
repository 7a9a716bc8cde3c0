"""`tlx bench`, `verify` and `predict` with `--host`: through a real sshd, to boards with a stand-in runner."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ssh_server
from commands import ROOT, Ended, environment, here, start
from exports import Notes
from stand_in_bundle import changed, stand_in_bundle

from tlexport.bundle.manifest import MANIFEST, Manifest, read_manifest
from tlexport.errors import InvalidFile, MissingDependency, OverBudget, StepFailed, Unsupported, UsageError, VerificationFailed
from tlexport.hardware.target import load_profile
from tlexport.measurement import Measurement
from tlexport.remote.board_run import bundle_files, connected
from tlexport.remote.host import Host

needs_sshd = pytest.mark.skipif(ssh_server.MISSING is not None, reason=str(ssh_server.MISSING))
QUICK = ("--runs", "5", "--seconds", "0")


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ssh_server.Sshd]:
    server = ssh_server.Sshd(tmp_path_factory.mktemp("ssh server"))
    with server.running():
        yield server


@pytest.fixture
def board(sshd: ssh_server.Sshd) -> Iterator[ssh_server.Board]:
    """A fully equipped board. After every test, no files may remain on it."""
    board = sshd.boards["board"]
    board.forget()
    yield board
    ssh_server.wait_until(board.is_clean)


@pytest.fixture(scope="module")
def sent(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only."""
    return stand_in_bundle(bundle, tmp_path_factory.mktemp("bundles"))


def words(board: ssh_server.Board, verb: str) -> list[str]:
    """The single request to the runner."""
    [entry] = [entry for entry in board.journal() if entry["verb"] == verb]
    asked: list[str] = entry["asked"]
    return asked


def answer(ended: Ended) -> Any:
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


# --- what comes back --------------------------------------------------------------------------------------------------------


@needs_sshd
def test_bench_brings_back_what_the_board_measured(
    sent: Path, board: ssh_server.Board, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = answer(here(capfd, "bench", sent, *board.options(), *QUICK, "--threads", "3", "--batch", "2", "--json"))
    models = read_manifest(sent).models
    assert [row["precision"] for row in rows] == [model.artifact.precision for model in models]
    for row, model in zip(rows, models, strict=True):
        assert row["host"] == board.host
        assert row["what"] == str(sent / model.file)
        assert row["environment"]["cpu"] == "the board's own processor"
        assert row["board"] == {"module": "a stand-in"}  # the board's own values are kept
        assert (row["threads"], row["batch"], row["latency_ms"]["n"]) == (3, 2, 5)
        assert (
            row["latency_ms"]["mean_low"] <= row["latency_ms"]["mean"] <= row["latency_ms"]["mean_high"]
        )  # derived here, from raw samples
    assert words(board, "bench") == [
        "bench",
        "--threads",
        "3",
        "--batch",
        "2",
        "--runs",
        "5",
        "--seconds",
        "0.0",
        "--precision",
        "all",
        "--json",
    ]
    table = here(capfd, "bench", sent, *board.options(), *QUICK, "--precision", "int8")
    assert board.host in table.out and "the board's own processor" in table.out
    assert f"note: {board.host}: bench begins" in table.err
    assert board.journal()[-1]["asked"][-3:] == ["--precision", "int8", "--json"]


@needs_sshd
def test_only_what_the_bundle_needs_is_sent(sent: Path, tmp_path: Path, board: ssh_server.Board, capfd: pytest.CaptureFixture[str]) -> None:
    copy = Path(shutil.copytree(sent, tmp_path / "bundle"))
    (copy / "notes.txt").write_text("mine", encoding="utf-8")
    (copy / "labels.txt").unlink()
    (copy / "labels.txt").symlink_to("/etc/passwd")  # nor files from other places
    here(capfd, "verify", copy, *board.options())
    [entry] = board.journal()
    expected = {MANIFEST, *read_manifest(sent).files} - {"labels.txt"}
    assert {name for name in entry["found"] if name.startswith("bundle/")} == {f"bundle/{name}" for name in expected}


@needs_sshd
def test_verify_says_what_the_board_found(sent: Path, tmp_path: Path, board: ssh_server.Board, capfd: pytest.CaptureFixture[str]) -> None:
    found = answer(here(capfd, "verify", sent, *board.options(), "--json"))
    assert (found["bundle"], found["host"], found["ok"]) == (str(sent), board.host, True)
    assert {f"hash {name}" for name in read_manifest(sent).files} == {check["name"] for check in found["checks"]}
    copy = Path(shutil.copytree(sent, tmp_path / "bundle"))
    (copy / "labels.txt").write_text("other\n", encoding="utf-8")
    ended = here(capfd, "verify", copy, *board.options(), "--json")
    assert ended.code == 5
    assert [check["name"] for check in json.loads(ended.out)["checks"] if not check["ok"]] == ["hash labels.txt"]
    assert "1 of" in ended.err and "labels.txt" in ended.err


@needs_sshd
def test_predict_sends_images_whatever_they_are_called(
    sent: Path, digits: Path, tmp_path: Path, board: ssh_server.Board, capfd: pytest.CaptureFixture[str]
) -> None:
    names = ["a b.png", 'it\'s $(here) "now".png', "-o.png", "ä\n;.png", *(f"{index}.png" for index in range(7))]
    images = [tmp_path / name for name in names]
    for image, source in zip(images, sorted(digits.rglob("*.png")), strict=False):
        shutil.copy(source, image)
    found = answer(here(capfd, "predict", sent, *images, *board.options(), "--json"))
    classes = read_manifest(sent).classes
    assert [(row["path"], row["host"]) for row in found] == [(str(image), board.host) for image in images]
    assert [row["class"] for row in found] == [classes[sum(image.read_bytes()) % len(classes)] for image in images]
    assert all(row["probabilities"][row["class"]] == row["probability"] == 1 for row in found)
    table = here(capfd, "predict", sent, images[0], *board.options())
    assert table.code == 0 and found[0]["class"] in table.out


@needs_sshd
def test_an_image_that_the_board_cannot_read_has_its_own_name(
    sent: Path, digits: Path, board: ssh_server.Board, capfd: pytest.CaptureFixture[str]
) -> None:
    images = sorted(digits.rglob("*.png"))[:2]
    board.tell("predict", err="note: hm\nerror: these images cannot be read:\n  ../images/1: damaged\nhint: take others", code=2)
    ended = here(capfd, "predict", sent, *images, *board.options())
    assert (ended.code, ended.out) == (2, "")
    assert f"  {images[1]}: damaged\nhint: take others" in ended.err
    gone = here(capfd, "predict", sent, images[0], "not/there.png", *board.options())
    assert gone.code == 2 and "not/there.png" in gone.err
    assert len(board.journal()) == 1


@needs_sshd
@pytest.mark.parametrize(("runtime", "verbs"), [("auto", ["build", "bench"]), ("trtexec", ["build", "bench"]), ("onnxruntime", ["bench"])])
def test_an_engine_is_built_there_first_where_the_target_runs_one(
    sent: Path, tmp_path: Path, board: ssh_server.Board, capfd: pytest.CaptureFixture[str], runtime: str, verbs: list[str]
) -> None:
    copy = Path(shutil.copytree(sent, tmp_path / "bundle"))
    jetson = load_profile("jetson-orin-nano").model_dump()
    changed(copy, runtime="tensorrt", workspace_mb=jetson["workspace_mb"], software=jetson["software"])
    ended = here(capfd, "bench", copy, *board.options(), *QUICK, "--runtime", runtime, "--precision", "fp16", "--json")
    assert answer(ended)["precision"] == "fp16"
    assert [entry["verb"] for entry in board.journal()] == verbs
    chosen = ["--precision", "fp16"] if runtime == "auto" else ["--runtime", runtime, "--precision", "fp16"]
    if "build" in verbs:
        assert words(board, "build") == ["build", *chosen, "--json"]


@needs_sshd
def test_the_budget_is_held_against_the_board(
    sent: Path, tmp_path: Path, board: ssh_server.Board, capfd: pytest.CaptureFixture[str]
) -> None:
    wide = {"size": "1 GB", "latency_p95": "60 s", "memory": "1000 GB"}
    for limits, code in ((wide, 0), (wide | {"latency_p95": "1 ns"}, 6)):
        copy = changed(Path(shutil.copytree(sent, tmp_path / str(code))), budget=limits)
        ended = here(capfd, "bench", copy, *board.options(), *QUICK, "--check", "--json")
        assert ended.code == code, ended.err
        assert json.loads(ended.out)  # every measurement is shown


@needs_sshd
def test_a_board_that_is_not_the_target_has_no_budget(
    sent: Path, tmp_path: Path, board: ssh_server.Board, capfd: pytest.CaptureFixture[str]
) -> None:
    copy = changed(Path(shutil.copytree(sent, tmp_path / "bundle")), match={"device_tree": "NVIDIA Jetson Orin Nano"})
    ended = here(capfd, "bench", copy, *board.options(), *QUICK, "--check")
    assert (ended.code, ended.out) == (4, "")
    assert f"but {board.host} is a" in ended.err
    assert board.journal() == []


def commands_of_the_document() -> list[str]:
    text = (ROOT / "docs/host.md").read_text(encoding="utf-8")
    return [line.strip() for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL) for line in block.splitlines() if "tlx" in line]


@needs_sshd
@pytest.mark.parametrize("command", commands_of_the_document())
def test_the_commands_of_the_document_run(
    command: str, sent: Path, digits: Path, board: ssh_server.Board, capfd: pytest.CaptureFixture[str]
) -> None:
    """With the names of this test for those of the document, and its own options for those of a user's network."""
    names = {"build/digits-jetson-orin-nano": str(sent), "user@board": board.host, "photo.jpg": str(next(digits.rglob("*.png")))}
    typed = [names.get(word, word) for word in shlex.split(command)[1:]]
    assert str(sent) in typed and board.host in typed
    first = typed.index("--host")  # ssh takes the first value of an option
    assert here(capfd, *typed[:first], *board.options(), *typed[first:]).code == 0
    assert len(board.journal()) == 1


# --- errors -----------------------------------------------------------------------------------------------------------------


KINDS = (StepFailed, InvalidFile, MissingDependency, Unsupported, VerificationFailed, OverBudget)
ODD: list[tuple[dict[str, Any], str]] = [
    ({"err": "Traceback\nValueError: oh", "code": 1}, "ValueError: oh"),
    ({"code": 255, "err": "error: odd"}, "exit code 255"),
    ({"code": "killed"}, "exit code 137"),
    ({"code": 0, "out": "no JSON"}, "no JSON"),
]


@needs_sshd
def test_the_errors_of_the_board_are_ours(sent: Path, board: ssh_server.Board) -> None:
    """Over one connection, which a runner that ends with ssh's own exit code, or is killed, does not end."""
    notes = Notes()
    with connected(Host(board.host, board.ssh_options()), notes) as there:
        there.send(bundle_files(sent, read_manifest(sent)))
        for kind in KINDS:
            board.tell("verify", err=f"note: so far\nerror: no {kind.__name__}\nnor more\nhint: get one", code=kind.exit_code)
            with pytest.raises(kind) as error:
                there.ask("verify")
            assert type(error.value) is kind
            assert (error.value.message, error.value.hint) == (f"{board.host}: no {kind.__name__}\nnor more", "get one")
        for how, said in ODD:
            board.tell("verify", **how)
            with pytest.raises(StepFailed) as error:
                there.ask("verify")
            assert said in error.value.message
        board.forget()
        assert there.ask("verify")["ok"]
    assert notes.texts[: len(KINDS)] == [f"{board.host}: so far"] * len(KINDS)


@needs_sshd
def test_an_error_of_the_board_on_the_command_line(sent: Path, board: ssh_server.Board, capfd: pytest.CaptureFixture[str]) -> None:
    board.tell("bench", err="note: so far\nerror: none \x1b[2Jhere\nhint: get one", code=4)
    ended = here(capfd, "bench", sent, *board.options(), *QUICK)
    said = [f"note: {board.host}: so far", f"error: {board.host}: none  [2Jhere", "hint: get one"]  # nothing that steers a terminal
    assert ended == (4, "", "".join(f"{line}\n" for line in said))


@needs_sshd
@pytest.mark.parametrize(("out", "said"), [('[{"what": "x"}]', "precision: missing"), ("[3]", "gave an unknown answer")])
def test_an_answer_that_is_no_measurement(
    sent: Path, board: ssh_server.Board, capfd: pytest.CaptureFixture[str], out: str, said: str
) -> None:
    board.tell("bench", code=0, out=out)
    ended = here(capfd, "bench", sent, *board.options(), *QUICK)
    assert (ended.code, ended.out) == (1, "")
    assert said in ended.err


@needs_sshd
@pytest.mark.parametrize(("name", "said"), [("bare", "python3"), ("old", "3.5.10"), ("without numpy", "python3-numpy")])
def test_a_board_without_what_the_runner_needs(
    sent: Path, sshd: ssh_server.Sshd, capfd: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    other = sshd.boards[name]
    ended = here(capfd, "verify", sent, *other.options())
    assert (ended.code, ended.out) == (3, "")
    assert said in ended.err and "--host-python" in ended.err
    ssh_server.wait_until(other.is_clean)


@needs_sshd
def test_another_python_of_the_board(sent: Path, sshd: ssh_server.Sshd, board: ssh_server.Board, capfd: pytest.CaptureFixture[str]) -> None:
    bare, python = sshd.boards["bare"], board.folder / "programs" / "python3"
    assert answer(here(capfd, "verify", sent, *bare.options(), "--host-python", python, "--json"))["ok"]
    ssh_server.wait_until(bare.is_clean)


@needs_sshd
def test_nobody_listens(sent: Path, board: ssh_server.Board, capfd: pytest.CaptureFixture[str]) -> None:
    ended = here(capfd, "bench", sent, *board.options(Port="1"), *QUICK)
    assert (ended.code, ended.out) == (1, "")
    assert "exit code 255" in ended.err and "Connection refused" in ended.err
    assert f"{board.host} true" in ended.err  # how to run it alone


@needs_sshd
def test_another_host_key(
    sent: Path, sshd: ssh_server.Sshd, board: ssh_server.Board, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    wrong = sshd.write_known_hosts(ssh_server.make_key(tmp_path / "other"), "wrong hosts")
    ended = here(capfd, "verify", sent, *board.options(UserKnownHostsFile=f'"{wrong}"'))
    assert (ended.code, ended.out) == (1, "")
    assert "Host key verification failed" in ended.err
    assert board.journal() == []


def test_without_ssh_here(sent: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    ended = here(capfd, "verify", sent, "--host", "board")
    assert ended.code == 3
    assert "openssh-client" in ended.err


def test_a_bundle_from_before_the_runner(bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    data = read_manifest(copy).model_dump()
    data["files"].pop("run.py", None)
    Manifest.parse(data, "changed").write(copy / MANIFEST)
    ended = here(capfd, "verify", copy, "--host", "board")
    assert ended.code == 2 and "run.py" in ended.err and "export" in ended.err


@pytest.mark.parametrize("name", ["", "-oProxyCommand=x", "a b", "user@-oX", "a;b", "$(a)", "a\nb", "`a`", "a|b", "'a'"])
def test_what_is_no_host(name: str, sent: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError):
        Host(name)
    assert here(capfd, "verify", sent, f"--host={name}").code == 2


@pytest.mark.parametrize("name", ["board", "user@board.local", "me@fe80::1%eth0", "ssh://me@board:2222", "a-b_c"])
def test_what_is_a_host(name: str) -> None:
    assert Host(name).name == name


def test_options_for_a_host_that_is_not_named(sent: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ended = here(capfd, "verify", sent, "--ssh-option", "Port=1")
    assert ended.code == 2 and "--host" in ended.err


# --- connections that end -----------------------------------------------------------------------------------------------------


@pytest.fixture
def private() -> Iterator[Path]:
    """Where `tlx` keeps its socket; a short name, as sockets want it."""
    with tempfile.TemporaryDirectory(prefix="tlx-t") as folder:
        yield Path(folder)


def begin(sent: Path, board: ssh_server.Board, private: Path, monkeypatch: pytest.MonkeyPatch) -> subprocess.Popen[str]:
    """`tlx bench` as a program, at work on the board; in a session of its own, as a terminal would give it."""
    monkeypatch.setenv("TMPDIR", str(private))
    board.tell("bench", wait=True)
    pipe = subprocess.PIPE
    child = start("bench", sent, *board.options(), *QUICK, cwd=private, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    board.waiting()
    return child


def nothing_runs(processes: list[int]) -> bool:
    return not [pid for pid in processes if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


@needs_sshd
def test_a_lost_connection_leaves_nothing_and_can_be_repeated(
    sent: Path,
    sshd: ssh_server.Sshd,
    board: ssh_server.Board,
    private: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with begin(sent, board, private, monkeypatch) as child:
        sshd.kill_sessions()
        out, err = child.communicate(timeout=ssh_server.PATIENCE)
    assert (child.returncode, out) == (1, "")
    assert "was lost" in err and "exit code 255" in err and "closed" in err
    ssh_server.wait_until(board.is_clean)
    ssh_server.wait_until(lambda: nothing_runs(board.waiting()))
    assert not list(private.iterdir())
    board.forget()
    assert len(answer(here(capfd, "bench", sent, *board.options(), *QUICK, "--json"))) == len(read_manifest(sent).models)


@needs_sshd
@pytest.mark.parametrize("how", ["terminal", "one process", "killed"])
def test_ctrl_c_leaves_nothing(sent: Path, board: ssh_server.Board, private: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    with begin(sent, board, private, monkeypatch) as child:
        if how == "terminal":
            os.killpg(child.pid, signal.SIGINT)  # to every process, as a terminal does
        else:
            child.send_signal(signal.SIGKILL if how == "killed" else signal.SIGINT)
        out, err = child.communicate(timeout=ssh_server.PATIENCE)
        if how != "killed":
            assert (child.returncode, out) == (130, "")
            assert err.splitlines()[-1] == "interrupted"
            assert board.is_clean()  # before it ends, not some time after
            assert not list(private.iterdir())
    ssh_server.wait_until(board.is_clean)
    ssh_server.wait_until(lambda: nothing_runs(board.waiting()))


SSH_THAT_MISSES_A_SIGNAL = """#!{python}
import os, signal, sys
caught = []
def handler(number, frame):
    caught.append(number)
    if len(caught) == 2:
        open({told!r}, "w").write("the terminal is as it was")
        os._exit(255)
signal.signal(signal.SIGTERM, handler)
open({asks!r}, "w").close()
while True:
    signal.pause()
"""


def test_ssh_that_misses_a_signal_is_not_killed(sent: Path, tmp_path: Path, private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One between its question and its reading of the answer is lost on ssh; killed, it would leave the terminal without echo."""
    asks, told, ssh = tmp_path / "asks", tmp_path / "told", tmp_path / "ssh"
    ssh.write_text(SSH_THAT_MISSES_A_SIGNAL.format(python=sys.executable, asks=str(asks), told=str(told)), encoding="utf-8")
    ssh.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with start("verify", sent, "--host", "board", cwd=private, start_new_session=True, stderr=subprocess.PIPE, text=True) as child:
        ssh_server.wait_until(asks.exists)
        child.send_signal(signal.SIGINT)
        err = child.communicate()[1]
    assert (child.returncode, err.splitlines()[-1]) == (130, "interrupted")
    assert told.exists()


ON_A_TERMINAL = [
    sys.executable,
    "-P",
    "-c",
    "import fcntl, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\nfrom tlexport.cli.main import main\nmain()",
]


@needs_sshd
@pytest.mark.parametrize(("typed", "code"), [(b"yes\n", 0), (b"\x03", 130)], ids=["yes", "Ctrl-C"])
def test_ssh_asks_on_the_terminal(sent: Path, board: ssh_server.Board, tmp_path: Path, typed: bytes, code: int) -> None:
    """Whether a host is the right one, here; a password goes the same way."""
    import pty

    known = tmp_path / "known hosts"
    ask = {"UserKnownHostsFile": f'"{known}"', "StrictHostKeyChecking": "ask", "BatchMode": "no"}
    reader, terminal = pty.openpty()
    command = [*ON_A_TERMINAL, "verify", str(sent), *board.options(**ask), "--json"]
    streams = {"stdin": terminal, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment(), start_new_session=True, **streams) as child:
        os.close(terminal)
        shown = b""
        while b"yes/no" not in shown:
            shown += os.read(reader, 4096)
        os.write(reader, typed)
        out, err = child.communicate(timeout=ssh_server.PATIENCE)
    os.close(reader)
    assert child.returncode == code, err
    assert bool(out) == known.exists() == (code == 0)


# --- with the runner itself -----------------------------------------------------------------------------------------------------


@needs_sshd
def test_with_the_runner_that_bundles_carry(bundle: Path, digits: Path, board: ssh_server.Board, capfd: pytest.CaptureFixture[str]) -> None:
    if "run.py" not in read_manifest(bundle).files:
        pytest.skip("bundles carry no run.py yet")
    assert answer(here(capfd, "verify", bundle, *board.options(), "--device", "cpu", "--json"))["ok"]
    rows = answer(here(capfd, "bench", bundle, *board.options(), *QUICK, "--device", "cpu", "--threads", "1", "--json"))
    for row in rows if isinstance(rows, list) else [rows]:
        known = {key: value for key, value in row.items() if key in Measurement.model_fields}
        assert known["environment"]["machine"] == platform.machine()
        assert row["latency_ms"]["n"] >= 5
    images = sorted(digits.rglob("*.png"))[::30]
    there = answer(here(capfd, "predict", bundle, *images, *board.options(), "--device", "cpu", "--json"))
    locally = answer(here(capfd, "predict", bundle, *images, "--device", "cpu", "--json"))
    assert [row["class"] for row in there] == [row["class"] for row in locally]
    assert [row["path"] for row in there] == [row["path"] for row in locally]

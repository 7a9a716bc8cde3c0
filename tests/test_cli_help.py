"""`tlx --help`: fast, complete, and with examples that work."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
import shutil
import sys
import tomllib
from pathlib import Path

import click
import pytest
from commands import ROOT, commands, here, process

import tlexport
from tlexport.cli.main import tlx

COMMANDS = commands()
CLI = Path(tlexport.__file__).parent / "cli"
HEAVY = ("torch", "torchvision", "onnx", "onnxruntime", "onnxscript", "matplotlib", "sklearn", "safetensors")
SLOW = (*HEAVY, "rich", "pydantic", "numpy", "PIL")
# runs a command line, then prints the imported modules as the last line of standard error
LOADED = [
    sys.executable,
    "-P",
    "-c",
    "import json, sys\nfrom tlexport.cli.main import run\ncode = run(sys.argv[1:])\n"
    "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})), file=sys.stderr)\nsys.exit(code)",
]
# these work anywhere, on what the package carries
SELF_CONTAINED = ("backbones", "doctor", "profiles")
SLOW_COMMANDS = ("profiles calibrate",)  # minutes of timing; tests/test_calibrate_command.py has it


def loaded(*arguments: str, cwd: Path) -> set[str]:
    ended = process(*arguments, cwd=cwd, program=LOADED)
    assert ended.code == 0, ended.err
    return set(json.loads(ended.err.splitlines()[-1]))


def shown_help(capfd: pytest.CaptureFixture[str], name: str) -> str:
    ended = here(capfd, *name.split(), "--help")
    assert (ended.code, ended.err) == (0, "")
    return ended.out


def examples(text: str) -> list[str]:
    """The command lines under "Examples:", as a reader of the help sees them."""
    _, _, after = text.partition("Examples:\n")
    return [line.strip() for line in after.splitlines() if line.strip()]


def test_help_loads_nothing_slow(tmp_path: Path) -> None:
    assert loaded("--help", cwd=tmp_path).isdisjoint(SLOW)


@pytest.mark.parametrize("line", ["finetune --help", "export --help", "profiles list", "profiles show cpu-x86", "backbones"])
def test_what_needs_no_network_loads_none(line: str, tmp_path: Path) -> None:
    assert loaded(*line.split(), cwd=tmp_path).isdisjoint(HEAVY)


def test_the_list_of_what_is_loaded_is_one(tmp_path: Path) -> None:
    """Without this, the two tests above would pass if `loaded` saw nothing."""
    assert {"tlexport", "pydantic", "click"} <= loaded("profiles", "list", cwd=tmp_path)


def test_the_script_that_pip_installs_is_this_program() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    module, _, function = scripts["tlx"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_the_commands_are_those_promised() -> None:
    promised = {
        "demo",
        "finetune",
        "evaluate",
        "export",
        "bench",
        "estimate",
        "verify",
        "predict",
        "profiles",
        "backbones",
        "doctor",
        "data",
    }
    below = {f"profiles {name}" for name in ("list", "show", "check", "new", "calibrate", "schema")}
    assert promised | below <= set(COMMANDS)


def test_a_command_is_a_file_and_there_is_no_second_list(tmp_path: Path) -> None:
    main = ast.parse((CLI / "main.py").read_text(encoding="utf-8"))
    texts = {node.value for node in ast.walk(main) if isinstance(node, ast.Constant)}
    assert not texts & {name for name in COMMANDS if " " not in name}
    shutil.copytree(CLI.parent, tmp_path / "tlexport", ignore=shutil.ignore_patterns("__pycache__", "embedded"))
    (tmp_path / "tlexport" / "cli" / "hello.py").write_text(
        'import click\n\n\n@click.command()\ndef command() -> None:\n    """Greet."""\n    click.echo("hello")\n', encoding="utf-8"
    )
    search_path = {"PYTHONPATH": str(tmp_path)}
    assert process("hello", cwd=tmp_path, env=search_path) == (0, "hello\n", "")
    assert re.search(r"^  hello +Greet\.$", process("--help", cwd=tmp_path, env=search_path).out, re.MULTILINE)


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_every_option_and_command_is_explained(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    command = COMMANDS[name] if name else tlx
    text = shown_help(capfd, name)
    assert text.startswith(f"Usage: tlx {name}".rstrip())
    assert command.help
    assert " ".join(command.help.split())[:40] in " ".join(text.split())
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, f"{option.opts} has no help"
            assert all(word in text for word in option.opts)
    if isinstance(command, click.Group):
        assert all(inner in text for inner in command.list_commands(click.Context(command)))


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    assert here(capfd, "--version") == (0, f"tlx, version {tlexport.__version__}\n", "")


def test_no_arguments_is_a_question_for_help(capfd: pytest.CaptureFixture[str]) -> None:
    ended = here(capfd)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.rstrip() == shown_help(capfd, "").rstrip()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_answers_in_json(name: str) -> None:
    assert [option for option in COMMANDS[name].params if "--json" in option.opts]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_parse(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    lines = examples(shown_help(capfd, name))
    assert len(lines) >= 2
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "tlx"
        assert words[: len(name.split())] == name.split()
        command: click.Command = tlx
        context = click.Context(tlx, info_name="tlx")
        while isinstance(command, click.Group) and words:
            inner = command.get_command(context, words.pop(0))
            assert inner is not None, line
            command = inner
        command.make_context(line, words, parent=context)  # raises for what the command does not take


@pytest.mark.parametrize("name", [name for name in COMMANDS if name.split()[0] in SELF_CONTAINED and name not in SLOW_COMMANDS])
def test_the_examples_run(name: str, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "profiles", "profiles")
    mine = Path("profiles/cpu-x86.toml").read_text(encoding="utf-8").replace('name = "cpu-x86"', 'name = "my-board"')
    Path("my-board.toml").write_text(mine, encoding="utf-8")
    for line in examples(shown_help(capfd, name)):
        ended = here(capfd, *shlex.split(line)[1:])
        assert ended.code == 0, f"{line}: {ended.err}"
        assert ended.out
        if "--json" in line:
            json.loads(ended.out)


def test_profiles_alone_lists_them(capfd: pytest.CaptureFixture[str]) -> None:
    assert here(capfd, "profiles") == here(capfd, "profiles", "list")
    assert here(capfd, "profiles", "--json") == here(capfd, "profiles", "list", "--json")

"""The documents stay true: generated parts are up to date, links resolve, and commands run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT
from documents import generator

from tlexport.cli.main import run

DOCUMENTS = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_command_reference_is_what_the_commands_say() -> None:
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == generator().cli_reference(), "run: python docs/generate.py"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_tables_are_what_was_measured(document: Path) -> None:
    text, made, name = document.read_text(encoding="utf-8"), generator(), document.relative_to(ROOT).as_posix()
    assert re.findall("<!-- ([a-z]+):begin -->", text) == list(made.TABLES.get(name, {}))
    if name in made.TABLES:
        assert made.with_tables(name) == text, "run: python docs/generate.py"


def anchors_of(document: Path) -> set[str]:
    """The anchors that GitHub makes from the headings of a document."""
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    """Relative links to an existing file, and to one of its headings where they name one."""
    links = re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", document.read_text(encoding="utf-8"))
    broken = []
    for link, anchor in links:
        if not link.startswith("http"):
            target = document.parent / link if link else document
            if not target.exists() or (anchor and anchor not in anchors_of(target)):
                broken.append(f"{link}#{anchor}")
    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_of_the_repository_that_are_named_exist(document: Path) -> None:
    named = set(re.findall(r"`((?:tlexport|tests|benchmarks)/[a-z0-9_/-]+\.[a-z]+)", document.read_text(encoding="utf-8")))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def readme_commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("tlx ")]


def test_the_commands_of_the_readme_run(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the README's order, on a folder called photos, with the embedded weights, which need no network."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(digits, "photos")
    shutil.copy(next(digits.rglob("*.png")), "photo.jpg")  # formats are recognised by content, not by name
    commands = readme_commands()
    assert [command.split()[1] for command in commands[:2]] == ["finetune", "export"]
    for command in commands:
        arguments = shlex.split(command)[1:]
        if arguments[0] == "finetune":
            arguments += ["--weights", "embedded", "--epochs", "3", "--threads", "1"]
        name = Path("runs/latest").resolve().name
        arguments = [argument.replace("NAME", name) for argument in arguments]
        assert run([*arguments, "--threads", "1"] if arguments[0] in ("evaluate", "verify", "predict") else arguments) == 0, command


def test_the_commands_of_the_bundle_s_document_run(bundle: Path, tmp_path: Path) -> None:
    """In a copied bundle, without tlexport. `build` exits with 4: a CPU needs no engine."""
    text = (ROOT / "docs" / "bundle.md").read_text(encoding="utf-8")
    [shell], [program] = re.findall(r"```sh\n(.*?)```", text, re.DOTALL), re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    photo = folder / "photo.jpg"
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for command in shell.splitlines():
        if "photo.jpg" in command:
            shutil.copy(folder / "golden/00.png", photo)
        else:
            photo.unlink(missing_ok=True)  # verification would report it as a stray file
        arguments = [sys.executable, *shlex.split(command)[1:]]
        done = subprocess.run(arguments, cwd=folder, env=clean, capture_output=True, text=True, check=False)
        assert done.returncode == (4 if command.endswith("build") else 0), f"{command}: {done.stderr}"
    shutil.copy(folder / "golden/00.png", photo)
    subprocess.run([sys.executable, "-c", program], cwd=folder, env=clean, stdout=subprocess.DEVNULL, check=True)

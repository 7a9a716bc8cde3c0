"""The layers of docs/architecture.md: imports in the sources, checked against the document's tables."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from commands import ROOT, environment

PACKAGE = ROOT / "tlexport"
DOCUMENT = ROOT / "docs/architecture.md"
SOURCES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {"torch", "torchvision", "onnx", "onnxruntime", "onnxscript", "tensorrt", "matplotlib", "sklearn", "rich", "safetensors"}
# the files that use the heavy libraries, and the verb that passes torch networks on
LEAVES = (
    *("train", "export", "estimate", "quantizers", "runtimes", "network", "api.finetune"),
    *(f"onnx_model.{name}" for name in ("graph", "precision", "structure", "tensors", "external")),
    *(f"device.runtimes.{name}" for name in ("engine_build", "engine_run", "engine_tensors", "tensorrt_log")),
)
STANDALONE = "device"
LONGEST_FILE = 300  # lines
LONGEST_FUNCTION = 60  # lines
MOST_PARAMETERS = 7
MOST_LOOSE_MODULES = 20
MOST_VERBS = 18


class Import(NamedTuple):
    """One imported module."""

    module: str  # dotted, absolute
    top: bool  # at the top of the file, and not only for type checkers
    line: int


def name_of(path: Path) -> str:
    """The dotted name of a source file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def unit_of(module: str) -> str:
    """The file or folder directly in the package that a module belongs to; empty for the package itself."""
    return ".".join(module.split(".")[1:2])


MODULES = {name_of(path): path for path in SOURCES}
UNITS = sorted({unit_of(module) for module in MODULES} - {""})


@cache
def imports_of(path: Path) -> tuple[Import, ...]:
    """Every import in a file, including those inside functions and those for type checkers only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    later = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        for inner in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, node not in later, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = name_of(path).split(".") if path.name == "__init__.py" else name_of(path).split(".")[:-1]
            # only the files of device/ import relatively: the package has another name in a bundle
            assert not node.level or package[1:2] == [STANDALONE], f"{path}:{node.lineno}: write the import absolutely"
            base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])]) if node.level else node.module
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.append(Import(inner if inner in MODULES else str(base), node not in later, node.lineno))
    return tuple(found)


def below(module: str, leaf: str) -> bool:
    """Whether a module is one of the package's files or folders, or inside one."""
    return f"{module}.".startswith(f"tlexport.{leaf}.")


def ours(path: Path) -> list[Import]:
    return [item for item in imports_of(path) if item.module.split(".")[0] == "tlexport"]


@cache
def levels() -> dict[str, int]:
    """Unit -> level, as the tables of docs/architecture.md have them."""
    found: dict[str, int] = {}
    level = None
    for line in DOCUMENT.read_text(encoding="utf-8").partition("## The levels")[2].partition("\n### Apart")[0].splitlines():
        if heading := re.match(r"### Levels? (\d)", line):
            level = int(heading[1])
        elif row := re.match(r"\| (?:([1-9]) \| )?`(\w+)(?:\.py|/)` \|", line):
            assert level is not None, line
            found[row[2]] = int(row[1] or level)
    return found


def test_every_file_and_folder_has_its_place_in_the_document() -> None:
    assert sorted([*levels(), STANDALONE]) == UNITS
    assert {levels()[unit] for unit in ("errors", "ports", "recipe", "storage")} == {0}
    assert [levels()[unit] for unit in ("hardware", "train", "loading", "optimize", "api", "cli")] == [1, 2, 3, 4, 5, 6]


def test_few_loose_modules_and_only_verbs_in_api() -> None:
    assert len([unit for unit in UNITS if (PACKAGE / f"{unit}.py").is_file()]) <= MOST_LOOSE_MODULES
    assert len(list((PACKAGE / "api").glob("*.py"))) <= MOST_VERBS


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_point_downward(path: Path) -> None:
    unit = unit_of(name_of(path))
    if not unit:  # it offers the functions; of the folders with their names it imports the names, see there
        assert {unit_of(item.module) for item in ours(path)} == {"python", "errors", "version", "bench", "estimate", "export"}
        return
    if unit == STANDALONE:
        assert {unit_of(item.module) for item in ours(path)} <= {unit} - {""}
        return
    level = levels()[unit]  # fails for a file that docs/architecture.md does not name
    for item in ours(path):
        other = unit_of(item.module)
        where = f"{path.relative_to(ROOT)}:{item.line} imports {item.module}"
        if other == STANDALONE:
            # level 1 asks it what the machine is, and opens files with it: neither needs a library
            light = item.module in ("tlexport.device.board.description", "tlexport.device.errors", "tlexport.device.regular_file")
            assert level >= (1 if light else 2), where
        elif other and other != unit:
            # files of levels 0 and 1 may import each other; the folders above never do
            assert levels()[other] < level or (levels()[other] == level <= 1), where


def in_circles(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """What is left of a graph when everything outside its circles is taken away: from the leaves up, then from the roots down."""
    while free := {name for name, needed in edges.items() if not needed & set(edges)}:
        edges = {name: needed for name, needed in edges.items() if name not in free}
    while free := set(edges) - {name for needed in edges.values() for name in needed}:
        edges = {name: needed & set(edges) for name, needed in edges.items() if name not in free}
    return edges


def test_no_import_goes_in_a_circle() -> None:
    """Neither between files nor between the package's files and folders, including imports inside functions."""
    files = {module: {item.module for item in ours(path) if item.module in MODULES} - {module} for module, path in MODULES.items()}
    assert in_circles(files) == {}
    units: dict[str, set[str]] = {unit: set() for unit in UNITS}
    for module, needed in files.items():
        if unit := unit_of(module):
            units[unit] |= {unit_of(other) for other in needed} - {unit, ""}
    assert in_circles(units) == {}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_heavy_libraries_are_imported_late(path: Path) -> None:
    at_top = {item.module.split(".")[0] for item in imports_of(path) if item.top}
    if not any(below(name_of(path), leaf) for leaf in LEAVES):
        assert not at_top & HEAVY


def test_the_leaves_do_import_them() -> None:
    """So that the test above is known to see imports, and the list of leaves holds nothing for nothing."""
    for leaf in LEAVES:
        inside = [item for module, path in MODULES.items() if below(module, leaf) for item in imports_of(path) if item.top]
        assert {item.module.split(".")[0] for item in inside} & HEAVY, leaf


def test_the_commands_load_none_of_them() -> None:
    """The import rules also hold at run time: importing every file of the command line loads no heavy library."""
    commands = [module for module in MODULES if unit_of(module) == "cli"]
    code = f"import {', '.join(commands)}, json, sys; print(json.dumps([name.partition('.')[0] for name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, check=True)
    assert set(json.loads(done.stdout)).isdisjoint(HEAVY | {"numpy", "pydantic", "PIL"})


@pytest.mark.parametrize("path", sorted((PACKAGE / STANDALONE).rglob("*.py")), ids=name_of)
def test_what_goes_to_devices_stands_alone(path: Path) -> None:
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 6))  # what the oldest JetPack has
    allowed = set(sys.stdlib_module_names) | {"numpy", "PIL", "tensorrt", "onnxruntime", "cv2", "pillow_heif"}
    assert {item.module.split(".")[0] for item in imports_of(path) if not below(item.module, STANDALONE)} <= allowed


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_files_functions_and_parameter_lists_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            where = f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
            if unit_of(name_of(path)) == "python" and node.name == path.stem:
                # its parameters are the options of a command, each with a line of the docstring; tests/test_python_api.py compares them
                assert (node.end_lineno or 0) - node.body[-1].lineno + 1 <= LONGEST_FUNCTION, where
                continue
            assert (node.end_lineno or 0) - node.lineno + 1 <= LONGEST_FUNCTION, where
            names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            assert len([name for name in names if name not in ("self", "cls")]) <= MOST_PARAMETERS, where


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_input_is_checked_by_assert_and_nothing_untrusted_is_run(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
        assert not isinstance(node, ast.Assert), where
        if isinstance(node, ast.ExceptHandler):
            passed_on = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            assert passed_on or (node.type is not None and ast.unparse(node.type) not in ("Exception", "BaseException")), where
        if isinstance(node, ast.Call):
            called, keywords = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert called not in ("eval", "exec", "pickle.load", "pickle.loads", "os.system"), where
            assert keywords.get("shell") != "True", where
            if called == "np.load":
                assert keywords.get("allow_pickle") == "False", where
            if called == "torch.load":
                assert keywords.get("weights_only") == "True", where


def test_tests_import_no_tests() -> None:
    """Code shared by several test files is in files of its own, so that each test file can run, move and split independently."""
    tests = sorted((ROOT / "tests").glob("test_*.py"))
    assert tests
    for path in tests:
        assert not [item for item in imports_of(path) if item.module.startswith("test_")], path.name

"""Plants faults in modules, one at a time, and counts how many the tests detect. Figures in benchmarks/results/planted_faults.json::

    python benchmarks/planted_faults.py --label after tlexport/units.py=test_units tlexport/plan.py=test_plan,test_ranking

Each argument is a module with the test files that have to detect its faults. A fault is a change of one operator, comparison, constant,
returned value or statement. The same seed plants the same faults as long as the module's code has the same structure. The faults are
planted in a copy of ``--tree``, in a process that has already imported the libraries, so that one fault takes about as long as its tests.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import onnx.parser
import onnxruntime
import pydantic
import pytest
import scipy.optimize
import torch
import torchvision

from tlexport.bench.environment import describe

LIBRARIES = (numpy, onnx, onnxruntime, pydantic, pytest, scipy, torch, torchvision)  # imported once, before any process is forked
RESULT = Path(__file__).parent / "results" / "planted_faults.json"
COPIED = ("tlexport", "tests", "profiles", "docs", "benchmarks", "README.md", "CHANGELOG.md", "pyproject.toml")
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is},
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult}
}
SKIPPED = (ast.AnnAssign, ast.Import, ast.ImportFrom, ast.arg)  # types, which have no effect on what runs
Fault = tuple[int, str, Callable[[], None]]  # line, what it is, and how to plant it in the tree that it was found in


def faults(tree: ast.Module) -> list[Fault]:
    """Every fault that can be planted in a parsed module, in the order of the source."""
    found: list[Fault] = []

    def add(node: ast.AST, what: str, plant: Callable[[], None]) -> None:
        found.append((getattr(node, "lineno", 0), what, plant))

    for node in _code(tree):
        match node:
            case ast.Compare():
                for place, old in enumerate(node.ops):
                    if new := COMPARISONS.get(type(old)):
                        add(node, f"{type(old).__name__} -> {new.__name__}", lambda n=node, p=place, c=new: n.ops.__setitem__(p, c()))
            case ast.BinOp() | ast.AugAssign() if operator := OPERATORS.get(type(node.op)):
                add(node, f"{type(node.op).__name__} -> {operator.__name__}", lambda n=node, c=operator: setattr(n, "op", c()))
            case ast.BoolOp():
                other = ast.Or if isinstance(node.op, ast.And) else ast.And
                add(node, f"{type(node.op).__name__} -> {other.__name__}", lambda n=node, c=other: setattr(n, "op", c()))
            case ast.UnaryOp(op=ast.Not()):
                add(node, "not removed", lambda n=node: setattr(n, "operand", _not(n.operand)))
            case ast.Constant(value=bool() | int() | float() as value):
                changed = (not value) if isinstance(value, bool) else value + 1 if isinstance(value, int) else 2 * value or 1.0
                add(node, f"{value} -> {changed}", lambda n=node, v=changed: setattr(n, "value", v))
            case ast.If() | ast.IfExp() | ast.While():
                add(node, "condition negated", lambda n=node: setattr(n, "test", _not(n.test)))
            case ast.Return(value=ast.expr() as answer) if not (isinstance(answer, ast.Constant) and answer.value is None):
                add(node, "returns None", lambda n=node: setattr(n, "value", ast.Constant(None)))
        for block in (getattr(node, name, None) for name in ("body", "orelse", "finalbody")):
            for place, statement in enumerate(block if isinstance(block, list) else []):
                if isinstance(statement, ast.Raise | ast.AugAssign | ast.Continue | ast.Break) or _calls(statement):
                    add(
                        statement,
                        f"{type(statement).__name__} removed",
                        lambda b=block, p=place: b.__setitem__(p, ast.copy_location(ast.Pass(), b[p])),
                    )
    return sorted(found, key=lambda fault: fault[0])


def _code(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of what runs: neither annotations nor what is for type checkers alone."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, SKIPPED) or child is getattr(tree, "returns", None) or child in getattr(tree, "decorator_list", ()):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _code(child)


def _not(test: ast.expr) -> ast.expr:
    return ast.UnaryOp(ast.Not(), test)


def _calls(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)


def planted(source: str, number: int) -> str:
    """The module with one of its faults."""
    tree = ast.parse(source)
    faults(tree)[number][2]()
    return ast.unparse(ast.fix_missing_locations(tree))


def detected(copy: Path, tests: list[str], seconds: float) -> str | None:
    """What detected the fault that is planted now: the test, or "timeout"; None: the tests passed."""
    answer, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        _test(copy, tests, writer)
    os.close(writer)
    deadline = time.monotonic() + seconds
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "timeout"
        time.sleep(0.02)
    with os.fdopen(answer) as file:
        return file.read() or None


def _test(copy: Path, tests: list[str], writer: int) -> None:
    """Run the tests and write the first that fails, in the forked process, which ends here."""
    failed: list[str] = []

    class First:
        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.failed:
                failed.append(report.nodeid)

        def pytest_collectreport(self, report: Any) -> None:
            if report.failed:
                failed.append(report.nodeid)

    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy)
    sys.path.insert(0, str(copy))
    for name in [name for name in sys.modules if name.partition(".")[0] == "tlexport"]:
        del sys.modules[name]
    code: int = 99
    try:
        code = pytest.main(["-x", "-n", "0", "--hypothesis-seed=0", *(f"tests/{name}.py" for name in tests)], [First()])
    finally:
        if code:
            os.write(writer, (failed or [f"exit code {code}"])[0].encode())
        os._exit(0)


def count(copy: Path, module: str, tests: list[str], number: int, seed: int) -> dict[str, Any]:
    """Plant ``number`` faults in a module of the copy; how many were detected, and those that were not."""
    file = copy / module
    source = file.read_text(encoding="utf-8")
    began = time.monotonic()
    if (failing := detected(copy, tests, 600)) is not None:
        sys.exit(f"without a fault, the tests of {module} fail: {failing}")
    limit = 20 + 5 * (time.monotonic() - began)
    everything = faults(ast.parse(source))
    chosen = sorted(random.Random(f"{seed} {file.name}").sample(range(len(everything)), min(number, len(everything))))
    survivors = []
    for place in chosen:
        _write(file, planted(source, place))
        if detected(copy, tests, limit) is None:
            line, what, _ = everything[place]
            survivors.append(f"{line}: {what}: {source.splitlines()[line - 1].strip()[:100]}")
    _write(file, source)
    seconds = round(time.monotonic() - began, 1)
    return {"planted": len(chosen), "detected": len(chosen) - len(survivors), "tests": tests, "seconds": seconds, "survivors": survivors}


def _write(file: Path, source: str) -> None:
    """Change a module, and remove what was compiled of it: Python compares time and size alone, in which two faults can be equal."""
    file.write_text(source, encoding="utf-8")
    for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*"):
        compiled.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="+", metavar="MODULE=TEST[,TEST...]")
    parser.add_argument("--tree", type=Path, default=Path(__file__).parent.parent, help="where the modules and their tests are")
    parser.add_argument("--label", default="now", help="the figures' key in the result")
    parser.add_argument("--faults", type=int, default=40, help="of each module")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args()
    modules: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        for name in COPIED:
            source, target = asked.tree / name, Path(folder) / name
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)
        for argument in asked.modules:
            module, _, tests = argument.partition("=")
            found = count(Path(folder), module, tests.split(","), asked.faults, asked.seed)
            modules[Path(module).name] = found
            print(f"{module}: {found['detected']} of {found['planted']} detected, {found['seconds']:.0f} s", flush=True)
    earlier = json.loads(asked.out.read_text(encoding="utf-8")) if asked.out.exists() else {}
    known = earlier.get(asked.label, {}).get("modules", {})
    environment = describe().model_dump(mode="json")
    result = earlier | {asked.label: {"seed": asked.seed, "environment": environment, "modules": known | modules}}
    asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

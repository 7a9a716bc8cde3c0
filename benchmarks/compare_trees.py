"""Do two states of the source give the same results? Runs the same commands with both, and compares what they write::

    git worktree add --detach ../before COMMIT
    python benchmarks/compare_trees.py ../before . --cache /tmp/compare

BEFORE runs once for each --cache. Weights, graphs and golden arrays are compared by their bytes; records, manifests and JSON field by
field. Not compared: the runner in a bundle and its hashes, measured times and memory, messages. A text that is meant for people may
differ ("reworded"), a key or a value may not. ``compare_trees.py BEFORE BEFORE`` shows what varies by itself.

On a CPU that is the target, the form of an INT8 model is decided by timing. So INT8 is compared on boards that are not here, one of which
is a copy of cpu-x86 that fits no machine; of INT8 for this machine the exit code alone. The table goes to standard output, JSON to
benchmarks/results/compare_trees.json, one record for each AFTER.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx
from compare_trees_cases import Case, exports, finetunes, make_data, readers
from compare_trees_worker import Ended, Worker

from tlexport.bench.environment import describe_machine

RESULT = Path(__file__).parent / "results" / "compare_trees.json"
# measured by whatever runs; the rest of a path is a key in it
ALWAYS_MEASURED = r"seconds|images_per_s|wait_share|environment|versions/tlexport"
MEASURED = re.compile(rf"(^|/)({ALWAYS_MEASURED})(/|$)")
HERE = re.compile(rf"(^|/)({ALWAYS_MEASURED}|latency|latency_ms|peak_memory_bytes|doubts|over|reason)(/|$)")
TEXT = re.compile(r"(^|/)(reason|made_by|basis|note|notes|cause|detail|advice|source|over|doubts|description|title|hint|warnings?)(/|$)")
NOT_COMPARED = re.compile(
    r"^files/(tlx/.*|run\.py|MODEL_CARD\.md|cpp/.*)$|^cpp/|^(tlx/.*|run\.py|manifest\.json\.sig|report\.html|.*\.pyc)$"
)
RUNNER_CHECK = re.compile(r"hash (tlx/|run\.py)")
PROSE = (".md", ".html", ".png", ".toml")  # files of bundles and checkpoints for people, and those with comments
MISSING = "(missing)"


@dataclass
class Row:
    """A row of the table."""

    compared: int = 0
    equal: int = 0
    reworded: int = 0
    different: list[str] = field(default_factory=list)
    texts: dict[str, int] = field(default_factory=dict)  # which reworded fields, and how many of each


class Table:
    """All rows; each comparison counts in one."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}

    def add(self, group: str, where: str, before: object, after: object, *, text: bool = False) -> None:
        row = self.rows.setdefault(group, Row())
        row.compared += 1
        if before == after:
            row.equal += 1
        elif text and MISSING not in (before, after):
            row.reworded += 1
            key = re.sub(r"/\d+(?=/|$)", "", where.partition(": ")[2])
            row.texts[key] = row.texts.get(key, 0) + 1
        else:
            row.different.append(f"{where}: {_short(before)} -> {_short(after)}")

    def fields(self, group: str, where: str, before: object, after: object, measured: re.Pattern[str], *, keys: bool = False) -> None:
        """Compare JSON values field by field; of measured fields, and with ``keys`` of all, that they are there."""
        old, new = (dict(_flat(value, measured, keys)) for value in (before, after))
        for path in sorted(old.keys() | new.keys()):
            if not NOT_COMPARED.search(path):
                self.add(group, f"{where}: {path}", old.get(path, MISSING), new.get(path, MISSING), text=bool(TEXT.search(path)))

    def text(self) -> str:
        lines = ["| | compared | equal | reworded | different |", "|---|---:|---:|---:|---:|"]
        total = Row()
        for name, row in self.rows.items():
            lines.append(f"| {name} | {row.compared:,} | {row.equal:,} | {row.reworded:,} | {len(row.different):,} |")
            total.compared, total.equal, total.reworded = (
                total.compared + row.compared,
                total.equal + row.equal,
                total.reworded + row.reworded,
            )
            total.different += row.different
        lines.append(f"| **all** | {total.compared:,} | {total.equal:,} | {total.reworded:,} | {len(total.different):,} |")
        return "\n".join(lines)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _flat(value: object, measured: re.Pattern[str], keys: bool, path: str = "") -> Iterator[tuple[str, object]]:
    """Each leaf with its path; a measured one without its value, and those of a list under one path."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, measured, keys, f"{path}/{key}" if path else str(key))
    elif isinstance(value, list) and value:
        bare = keys or measured.search(path)
        for number, inner in enumerate(value):
            yield from _flat(inner, measured, keys, f"{path}/{'*' if bare else number}" if path else str("*" if bare else number))
    else:
        yield path, "(value)" if keys or measured.search(path) else value


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def graph_difference(before: Path, after: Path) -> str:
    """Which parts of two ONNX files differ."""
    old, new = (onnx.load(path) for path in (before, after))
    parts = [name for name in ("ir_version", "opset_import", "producer_name", "producer_version", "metadata_props", "doc_string")]
    found = [name for name in parts if getattr(old, name) != getattr(new, name)]
    inner = ("name", "input", "output", "initializer", "node", "value_info", "metadata_props", "doc_string")
    found += [f"graph.{name}" for name in inner if getattr(old.graph, name) != getattr(new.graph, name)]
    return ", ".join(found) or "serialization alone"


def _loads(path: Path, folders: Sequence[Path]) -> object:
    """Read a record; in its paths, the folders that the trees write to become a dot."""
    text = path.read_text(encoding="utf-8")
    for folder in folders:
        text = text.replace(str(folder), ".")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    return tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)


def compare_folders(table: Table, name: str, before: Path, after: Path, kind: str, here: bool) -> None:
    """Compare all files of a checkpoint or bundle."""
    names = {path.relative_to(root).as_posix() for root in (before, after) for path in root.rglob("*") if path.is_file()}
    roots = (before.parents[1], after.parents[1])
    for file in sorted(names):
        old, new = before / file, after / file
        if not (old.is_file() and new.is_file()):
            if not NOT_COMPARED.search(file):
                table.add(f"{kind}: other files", f"{name}: {file}", old.is_file() or MISSING, new.is_file() or MISSING)
        elif file.endswith((".json", ".jsonl", "recipe.toml")) and not NOT_COMPARED.search(file):
            label = "manifests" if file == "manifest.json" else f"{kind}: records"
            table.fields(label, f"{name}/{file}", _loads(old, roots), _loads(new, roots), HERE if here else MEASURED)
        elif file.endswith(".onnx"):
            same = sha256(old) == sha256(new)
            group = f"graphs, {file.split('.')[-2].upper()}"
            table.add(group, f"{name}/{file}", "bytes", "bytes" if same else f"other bytes: {graph_difference(old, new)}")
        elif not NOT_COMPARED.search(file) or file.startswith("cpp/"):
            group = f"{kind}: weights" if file.endswith(".safetensors") else f"{kind}: other files"
            prose = file.endswith(PROSE) or file.startswith("cpp/")
            table.add(group, f"{name}: {file}", sha256(old), sha256(new), text=prose)


def compare_output(table: Table, case: Case, before: Ended, after: Ended) -> None:
    table.add("exit codes", case.name, before.code, after.code)
    if case.compared == "code" or before.code != after.code:
        return
    try:
        old, new = (json.loads(ended.out) if ended.out.strip() else None for ended in (before, after))
    except ValueError as error:
        table.add(case.group, case.name, "JSON", f"no JSON: {error}")
        return
    for value in (old, new):
        if isinstance(value, dict) and "checks" in value:  # of verify, one for each file
            value["checks"] = [check for check in value["checks"] if not RUNNER_CHECK.match(check["name"])]
    here = HERE if "cpu-x86" in case.argv else MEASURED
    table.fields(case.group, case.name, old, new, here, keys=case.compared == "keys")


class Tree:
    """A source tree, and the folder that its commands write into."""

    def __init__(self, source: Path, cache: Path, label: str) -> None:
        self.source, self.folder = source.resolve(), cache / label
        self.data, self.before = cache / "data", cache / "before"
        git = ["git", "-C", str(self.source)]
        self.commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "tlexport", "profiles"], check=True, capture_output=True, text=True).stdout
        self.commit += " and changes" if changed else ""

    def run(self, cases: Sequence[Case], note: Callable[[str], None], finished: bool) -> dict[str, Ended]:
        """How each command ended; what has run in this folder before with the same commit is not run again.

        Args:
            cases: the commands.
            note: prints progress.
            finished: run nothing; return the commands that have run.
        """
        kept, stamp = self.folder / "ended", self.folder / "commit"
        if self.folder.exists() and not (stamp.is_file() and stamp.read_text() == self.commit):
            shutil.rmtree(self.folder)
        kept.mkdir(parents=True, exist_ok=True)
        stamp.write_text(self.commit)
        found: dict[str, Ended] = {}
        with Worker(self.source, self.folder) as worker:
            for number, case in enumerate(cases, 1):
                argv = [text.format(before=self.before, data=self.data) for text in case.argv]
                file = kept / (hashlib.sha256(json.dumps(argv).encode()).hexdigest()[:20] + ".json")
                if file.is_file():
                    found[case.name] = Ended(**json.loads(file.read_text()))
                if finished or file.is_file():
                    continue
                ended = worker.run(argv, case.runner)
                text = ended.out.replace(str(self.source), "TREE").replace(str(self.folder), ".").replace(str(self.before), ".")
                found[case.name] = ended = Ended(ended.code, text, ended.err, ended.seconds)
                file.write_text(json.dumps(asdict(ended)))
                note(f"{self.folder.name} {number}/{len(cases)} {case.name}: exit code {ended.code}, {ended.seconds:.1f} s")
        return found


def compare(before: Tree, after: Tree, cases: Sequence[Case], note: Callable[[str], None], finished: bool) -> tuple[Table, int]:
    """The table, and how many commands it compares."""
    old, new = (tree.run(cases, note, finished) for tree in (before, after))
    table, both = Table(), [case for case in cases if case.name in old and case.name in new]
    for case in both:
        compare_output(table, case, old[case.name], new[case.name])
    written = {case.out for case in both if case.compared == "values"}
    for kind in ("checkpoints", "bundles"):
        for path in sorted((before.folder / kind).iterdir()):
            if path.is_dir() and path.name in written:
                compare_folders(table, path.name, path, after.folder / kind / path.name, kind, path.name.startswith("here-"))
    return table, len(both)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="a source tree")
    parser.add_argument("after", type=Path, help="another, or the same")
    parser.add_argument("--cache", type=Path, required=True, help="folder for what the commands write (about 5 GB); BEFORE's is used again")
    parser.add_argument("--only", default="", help="regular expression: only the commands whose names match")
    parser.add_argument("--finished", action="store_true", help="run nothing; compare the commands that have run with both trees")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    cache = options.cache.resolve()
    if not (cache / "data").exists():
        make_data(cache / "data", options.before / "tlexport" / "embedded" / "mobilenet_v3_small.safetensors")
    cases = [case for case in (*finetunes(), *exports(), *readers()) if re.search(options.only, case.name)]
    before = Tree(options.before, cache, "before")
    after = Tree(options.after, cache, f"after-{options.after.resolve().name}")
    table, count = compare(before, after, cases, lambda text: print(text, file=sys.stderr, flush=True), options.finished)
    print(table.text())
    for row in table.rows.values():
        for text in row.different:
            print(f"different: {text}", file=sys.stderr)
    result: dict[str, Any] = {"before": before.commit, "after": after.commit, "commands": count}
    result["rows"] = {name: asdict(row) for name, row in table.rows.items()}
    result["environment"] = describe_machine().model_dump()
    known = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else []
    runs = [run for run in known if run["after"] != after.commit] + [result]
    options.out.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
    if any(row.different for row in table.rows.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()

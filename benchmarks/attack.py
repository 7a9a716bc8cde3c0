"""Inject faults into `tlx` and give it hostile input. Writes benchmarks/results/attack.json::

    python benchmarks/attack.py                        # everything: about 15 minutes on two cores
    python benchmarks/attack.py --groups kills --tries 5 --seed 1 --out /tmp/kills.json

Groups: ``kills`` (SIGKILL and Ctrl-C at random times in finetune, export and bench), ``disk`` (each write of each command fails with
ENOSPC), ``pairs`` (two concurrent commands), and hostile files: ``bundles``, ``archives``, ``checkpoints``, ``onnx``, ``images``,
``tables``, ``profiles``, ``measurements``. A trial passes if the exit code is documented and comes with a message, there is no traceback,
the limits of time and memory hold, nothing from the file was executed, and no partial result, temporary file or process remains. The exit
code is 1 if a trial failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from attack_files import HOSTILE
from attack_ground import Failure, Ground, Group
from attack_runs import disk_faults, kills, pairs

from tlexport.bench.environment import describe_machine

RESULT = Path(__file__).parent / "results" / "attack.json"
DISTURBED: dict[str, Callable[[Ground, int, int], Iterator[tuple[str, Callable[[], Any]]]]] = {
    "kills": kills,
    "disk": disk_faults,
    "pairs": pairs,
}
GROUPS = DISTURBED | HOSTILE
TRIES = {"kills": 20, "disk": 16, "pairs": 24} | dict.fromkeys(HOSTILE, 70)
HEADINGS = ("tries", "held", "traceback", "half-written", "code run", "leftover", "other")


def attack(ground: Ground, names: list[str], tries: int | None, seed: int) -> list[Group]:
    """Run the groups, with as many concurrent trials as there are workers."""
    groups: dict[str, Group] = {}
    for name in names:
        began = time.monotonic()
        running: list[tuple[str, Future[Any]]] = []
        for row, one in GROUPS[name](ground, tries or TRIES[name], seed):
            running.append((row, ground.workers.pool.submit(one)))
        for row, future in running:
            outcome = future.result() if future.exception() is None else [Failure("script", row, repr(future.exception()))]
            for failures in outcome if name == "disk" and future.exception() is None else [outcome]:
                groups.setdefault(row, Group(row)).add(failures)
                for failure in failures:
                    print(f"{row}: {failure.kind}: {failure.case}: {failure.detail}", file=sys.stderr, flush=True)
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return list(groups.values())


def table(rows: list[dict[str, Any]]) -> str:
    """Format the rows of Group.row as Markdown."""
    lines = [
        "| trial | runs | passed | traceback | partial output | code executed | leftovers | other |",
        "|---|" + "---:|" * len(HEADINGS),
    ]
    lines += [f"| {row['group']} | " + " | ".join(str(row[name]) for name in HEADINGS) + " |" for row in rows]
    total = {name: sum(row[name] for row in rows) for name in HEADINGS}
    lines.append("| **all** | " + " | ".join(str(total[name]) for name in HEADINGS) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", default=",".join(GROUPS), help="comma-separated names")
    parser.add_argument("--tries", type=int, help="trials per command or kind of file in each group; the defaults are in TRIES")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    names = given.groups.split(",")
    if unknown := [name for name in names if name not in GROUPS]:
        parser.error(f"unknown groups {unknown}; there are {', '.join(GROUPS)}")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tlx-attack-", ignore_cleanup_errors=True) as folder:
        ground = Ground(Path(folder), given.workers)
        groups = attack(ground, names, given.tries, given.seed)
        ground.close()
    rows = [group.row() for group in groups]
    failures: list[Failure] = [failure for group in groups for failure in group.failures]
    result = {
        "seed": given.seed,
        "seconds": round(time.monotonic() - began),
        "environment": describe_machine("cpu").model_dump(mode="json"),
        "rows": rows,
        "failures": [vars(failure) | {"detail": failure.detail.replace(folder, "...")[-400:]} for failure in failures],
    }
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(rows))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

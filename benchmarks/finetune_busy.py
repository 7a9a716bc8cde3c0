"""Training while another program wants a core: ``tlx finetune`` as it is, and with the waiting of torch's threads as libgomp has it.

    python benchmarks/finetune_busy.py

A thread that waits for another in a loop takes the core that the other needs, where a third program has one of them too. ``tlx`` has
torch's threads let go sooner (tlexport/cli/main.py); what that costs on a machine that does nothing else is measured here as well. Each
is a process of its own, in turn. JSON goes to benchmarks/results/finetune_busy.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tlexport.bench.environment import describe
from tlexport.checkpoint import HISTORY
from tlexport.cli.main import SPINS

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "finetune_busy.json"
RUN_TLX = "import sys; from tlexport.cli.main import run; sys.exit(run(sys.argv[1:]))"
WAITING = {"tlx": SPINS, "libgomp": "300000"}  # GOMP_SPINCOUNT; the second is what libgomp takes where nobody says
WHAT = "images trained a second, medians of the repeats, alone and beside as many busy processes as there are cores"


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """Other programs that want a core each."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def images_per_second(spins: str, options: argparse.Namespace, folder: Path) -> float:
    """Of one epoch of all of a small network, on the demo's digits."""
    words = ["finetune", "demo:digits", "--backbone", options.backbone, "--weights", "none", "--strategy", "full", "--epochs", "1"]
    words += ["--image-size", str(options.size), "--tracker", "none", "--out", str(folder / "checkpoint")]
    env = os.environ | {"PYTHONPATH": str(ROOT), "GOMP_SPINCOUNT": spins}
    subprocess.run([sys.executable, "-c", RUN_TLX, *words], env=env, check=True, capture_output=True)
    [epoch] = [json.loads(line) for line in (folder / "checkpoint" / HISTORY).read_text(encoding="utf-8").splitlines()]
    return float(epoch["images_per_s"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="mobilenet_v3_small")
    parser.add_argument("--size", type=int, default=96, help="side of the image, pixels")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    cores = os.cpu_count() or 1
    found: dict[str, dict[str, list[float]]] = {state: {name: [] for name in WAITING} for state in ("alone", "busy")}
    for state, others in (("alone", 0), ("busy", cores)):
        for _ in range(options.repeats):
            for name, spins in WAITING.items():
                with busy(others), tempfile.TemporaryDirectory() as folder:
                    found[state][name].append(images_per_second(spins, options, Path(folder)))
                print(state, name, found[state][name][-1], file=sys.stderr, flush=True)
    medians = {state: {name: round(statistics.median(rates), 2) for name, rates in rows.items()} for state, rows in found.items()}
    about = {"what": WHAT, "backbone": options.backbone, "size": options.size, "repeats": options.repeats, "spins": WAITING}
    result = {**about, "environment": describe("cpu").model_dump(), "images_per_s": medians}
    options.result.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {options.result}")


if __name__ == "__main__":
    main()

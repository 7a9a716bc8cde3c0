"""Run ``tlx demo`` in a separate process and store its figures in benchmarks/results/demo.json::

python benchmarks/demo.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

RESULT = Path(__file__).parent / "results" / "demo.json"
RUN = "import sys; from tlexport.cli.main import run; sys.exit(run(sys.argv[1:]))"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", RUN, "demo", "--out", f"{folder}/tlx-demo", "--json"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result = json.loads(done.stdout)
    for key in ("out", "checkpoint", "bundle"):
        del result[key]  # paths of this machine
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {RESULT}")


if __name__ == "__main__":
    main()

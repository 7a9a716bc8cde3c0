"""Compares what `run.py predict --json` answered on two machines: ``compare_predictions.py MANIFEST PRECISION HERE THERE``.

The same images must have the same classes, and probabilities within the tolerance of the model's golden vectors.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def read(path: str) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def difference(here: dict[str, Any], there: dict[str, Any]) -> float:
    """Largest difference in probability of one image."""
    if here["probabilities"].keys() != there["probabilities"].keys():
        return float("inf")
    return max(abs(p - there["probabilities"][name]) for name, p in here["probabilities"].items())


def compare(manifest: dict[str, Any], precision: str, here: list[dict[str, Any]], there: list[dict[str, Any]]) -> tuple[bool, str]:
    """Whether they agree, and a line that says how well."""
    [tolerance] = [model["tolerance"] for model in manifest["models"] if model["artifact"]["precision"] == precision]
    if not here or [Path(p["path"]).name for p in here] != [Path(p["path"]).name for p in there]:
        return False, f"{precision}: {len(here)} images here and {len(there)} there, which are not the same"
    other = [
        f"{Path(p['path']).name} ({p['class']}, there {q['class']})" for p, q in zip(here, there, strict=True) if p["class"] != q["class"]
    ]
    worst = max(difference(p, q) for p, q in zip(here, there, strict=True))
    ok = not other and worst <= tolerance
    text = f"{len(here)} images, of another class: {', '.join(other) or 'none'}; largest difference {worst:.2g} (allowed {tolerance:g})"
    return ok, f"{'ok    ' if ok else 'FAILED'} {precision}: {text}"


if __name__ == "__main__":
    agreed, line = compare(read(sys.argv[1]), sys.argv[2], read(sys.argv[3]), read(sys.argv[4]))
    sys.stdout.write(line + "\n")
    sys.exit(0 if agreed else 1)

"""Measurements as CSV for a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from tlexport.measurement import Measurement
from tlexport.storage.files import new_file


def write_csv(path: Path, measurements: Sequence[Measurement]) -> None:
    """Write one row for each measurement, with one column for each figure. Column names end in the unit."""
    rows = [_csv_row(m) for m in measurements]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    with new_file(path) as file:
        file.write_text(text.getvalue(), encoding="utf-8", newline="")


def _csv_row(m: Measurement) -> dict[str, object]:
    latency = m.latency()
    stages = m.stages.medians_ms() if m.stages else {}
    return {
        "what": _plain(m.what),
        **m.model_dump(include={"precision", "runtime", "provider", "threads", "batch"}),
        "n": latency.pop("n"),
        **{f"{name}_ms": value for name, value in latency.items()},
        "variation": round(m.variation, 4),
        "images_per_s": round(m.throughput_per_s, 2),
        "load_ms": round(m.load_ns / 1e6, 3),
        "first_inference_ms": None if m.first_inference_ns is None else round(m.first_inference_ns / 1e6, 3),
        **m.model_dump(include={"size_bytes", "peak_memory_bytes", "gpu_memory_bytes"}),
        "energy_mj_per_image": m.energy_mj_per_image,
        **{f"{name}_ms": stages.get(name) for name in ("decode", "resize", "infer", "total")},
        "cpu": _plain(m.environment.cpu),
        "governor": m.environment.governor,
        "artifact_sha256": m.artifact_sha256,
    }


def _plain(text: str) -> str:
    """Quote text that a spreadsheet would evaluate as a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text

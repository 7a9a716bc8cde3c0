"""A tiny classifier, and a request for the shortest possible measurement of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tlexport.bench.process import BenchRequest
from tlexport.storage.files import sha256_of

CLASSIFIER = """
<ir_version: 8, opset_import: ["": 17]>
classifier (uint8[batch,8,8,3] image) => (float[batch,3] probabilities) {
  pixels = Cast<to=1>(image)
  means = ReduceMean<axes=[1,2], keepdims=0>(pixels)
  probabilities = Softmax<axis=-1>(means)
}
"""


def request(path: Path, **changes: Any) -> BenchRequest:
    """25 runs of a model file, with other fields of the request in ``changes``."""
    quick = BenchRequest(
        what="tiny",
        path=path,
        runtime="onnxruntime",
        artifact_sha256=sha256_of(path) if path.is_file() else "",
        precision="fp32",
        size_bytes=path.stat().st_size if path.is_file() else 1,
        min_runs=25,
        max_runs=25,
        min_seconds=0,
        warmup_seconds=0.05,
    )
    return BenchRequest.parse(quick.model_dump(mode="json") | changes, "the request")

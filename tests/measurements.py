"""A measurement with given latencies, and its machine."""

from __future__ import annotations

from tlexport.measurement import Environment, Measurement

MS = 1_000_000  # ns
ENVIRONMENT = Environment(
    machine="x86_64",
    system="Linux",
    cpu="a processor",
    cores=4,
    governor="performance",
    memory_bytes=8 * 10**9,
    load_1min=0.25,
    python="3.11.9",
    versions={"numpy": "2.0.0"},
)


def of(latencies: list[int], batch: int = 1) -> Measurement:
    return Measurement(
        what="model.onnx",
        artifact_sha256="0" * 64,
        precision="fp32",
        runtime="onnxruntime",
        provider="CPUExecutionProvider",
        threads=2,
        batch=batch,
        warmup_runs=20,
        latencies_ns=tuple(latencies),
        load_ns=5 * MS,
        peak_memory_bytes=80_000_000,
        size_bytes=2_000_000,
        environment=ENVIRONMENT,
    )

"""Convert a measurement by trtexec to a Measurement."""

from __future__ import annotations

from tlexport.device.runtimes.trtexec import Bench, measured
from tlexport.errors import Unsupported
from tlexport.measurement import Environment, Measurement


def measurement(
    found: Bench, *, what: str, artifact_sha256: str, precision: str, size_bytes: int, batch: int, environment: Environment
) -> Measurement:
    """The record of a run of trtexec; ``mode`` says whether copies are counted and how the runs were launched.

    Args:
        found: the measurement.
        what: the user's name of the model.
        artifact_sha256: hash of the ONNX file that the engine was built from.
        precision: precision of that model.
        size_bytes: size of the engine.
        batch: images in one run.
        environment: the machine; the GPU and TensorRT version from trtexec's log are filled in here.

    Raises:
        Unsupported: the peak memory of trtexec is not available, as on Windows.
    """
    figures = measured(found)
    if figures["peak_memory_bytes"] is None:
        raise Unsupported("this system does not report the memory use of trtexec", "measure on Linux")
    gpu = f"{found.log.device}, compute capability {found.log.compute_capability}"
    versions = environment.versions | {"tensorrt": str(found.log.tensorrt)}
    return Measurement.parse(
        {
            **figures,
            "what": what,
            "artifact_sha256": artifact_sha256,
            "precision": precision,
            "size_bytes": size_bytes,
            "batch": batch,
            "environment": environment.model_copy(update={"accelerator": gpu, "versions": versions}).model_dump(mode="json"),
        },
        "what trtexec measured",
    )

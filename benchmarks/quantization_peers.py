"""INT8 models by NNCF and OpenVINO, and accuracy and latency of all models; started by ``benchmarks/quantization.py``::

    python benchmarks/quantization_peers.py JOB.json OUTCOME.json

Needs onnxruntime, and nncf and openvino for their rows. It imports neither tlexport nor torch. All models of all networks are open at once,
with one thread and batch 1. They are timed in turn, in a new order each round, so that drift and disturbances affect all of them.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import logging
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

LIBRARIES = ("onnxruntime", "onnxruntime-gpu", "openvino", "nncf", "numpy")
Run = Callable[[np.ndarray], np.ndarray]  # one image in the model's input format -> its output, (1, class)


@dataclass
class Form:
    """One opened model of one network."""

    run: Run
    inputs: list[np.ndarray]  # of each validation image, in the model's input format
    planes: bool  # whether the model takes normalised planes and returns logits; otherwise pixels and probabilities
    size_bytes: int
    rounds_ms: list[list[float]] = field(default_factory=list)


def with_onnxruntime(file: str) -> Run:
    """Open a model with one thread and a fixed batch size, so that the runtime can plan for it."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_free_dimension_override_by_name("batch", 1)
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(image: np.ndarray) -> np.ndarray:
        output: np.ndarray = session.run(None, {name: image})[0]
        return output

    return run


def with_openvino(model: Any, precision: str | None) -> Run:
    """Open a model with one thread, for latency. ``precision``: of float operations; None: OpenVINO's default for the processor."""
    import openvino as ov

    # not pinned, as in ONNX Runtime: on a shared core, a pinned thread waits many times its own work
    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
    if precision is not None:
        config["INFERENCE_PRECISION_HINT"] = precision
    model.reshape([1, *model.inputs[0].partial_shape[1:]])
    request = ov.Core().compile_model(model, "CPU", config).create_infer_request()

    def run(image: np.ndarray) -> np.ndarray:
        output: np.ndarray = request.infer([image], share_inputs=True, share_outputs=True)[0]
        return output

    return run


def openvino_forms(network: Mapping[str, Any], calibration: list[np.ndarray], val: list[np.ndarray]) -> dict[str, Form]:
    """The network in FP32, and in INT8 with NNCF's defaults for a CPU, from the same ONNX file."""
    import nncf
    import openvino as ov

    nncf.set_log_level(logging.ERROR)
    core, folder = ov.Core(), Path(network["plain"]).parent
    data = nncf.Dataset(calibration)
    made = nncf.quantize(core.read_model(network["plain"]), data, subset_size=len(calibration), target_device=nncf.TargetDevice.CPU)
    forms = {}
    for name, model, precision in (("openvino_fp32", core.read_model(network["plain"]), "f32"), ("nncf", made, None)):
        file = folder / f"{name}.xml"
        ov.save_model(model, file, compress_to_fp16=name == "nncf")  # OpenVINO's default, disabled for FP32
        size = file.stat().st_size + file.with_suffix(".bin").stat().st_size
        forms[name] = Form(with_openvino(core.read_model(file), precision), val, True, size)
    return forms


def open_network(network: Mapping[str, Any], peers: bool) -> dict[str, Form]:
    """Open every form of a network. The peers' planes are normalised beforehand, outside their latency."""
    pixels = {part: list(np.load(network[part])) for part in ("calibration", "val")}
    normalise = normalisation(network)
    planes = {part: [normalise(image) for image in images] for part, images in pixels.items()}
    raw = [image[None] for image in pixels["val"]]
    forms = {}
    for name, form in network["forms"].items():
        inputs = planes["val"] if form["planes"] else raw
        forms[name] = Form(with_onnxruntime(form["file"]), inputs, form["planes"], Path(form["file"]).stat().st_size)
    return forms | (openvino_forms(network, planes["calibration"], planes["val"]) if peers else {})


def normalisation(network: Mapping[str, Any]) -> Run:
    """From pixels (height, width, channel) to normalised planes (1, channel, height, width), as usual in numpy."""
    mean, std = np.float32(network["mean"]), np.float32(network["std"])

    def normalise(image: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(((image.astype(np.float32) / 255 - mean) / std).transpose(2, 0, 1))[None]

    return normalise


def probabilities(form: Form) -> np.ndarray:
    """Probabilities of every validation image, float64 (image, class)."""
    rows = np.concatenate([form.run(image).astype(np.float64) for image in form.inputs])
    if not form.planes:
        return rows
    raised = np.exp(rows - rows.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def time_in_turn(forms: list[Form], rounds: int, seconds: float) -> None:
    """For each form in each round: warm-up runs, then timed runs for a given duration, at least five."""
    draw = random.Random(0)
    gc.disable()
    for _ in range(rounds):
        for form in draw.sample(forms, len(forms)):
            begin = time.perf_counter()
            for image in form.inputs:
                form.run(image)
                if time.perf_counter() - begin > seconds / 3:
                    break
            found: list[float] = []
            end = time.perf_counter() + seconds
            while len(found) < 5 or time.perf_counter() < end:
                image = form.inputs[len(found) % len(form.inputs)]
                started = time.perf_counter_ns()
                form.run(image)
                found.append((time.perf_counter_ns() - started) / 1e6)
            form.rounds_ms.append(found)
    gc.enable()


def median_ms(form: Form) -> float:
    """Median over all runs."""
    return statistics.median([ms for found in form.rounds_ms for ms in found])


def figures(form: Form, outputs: np.ndarray, reference: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The figures of a form for the results file."""
    p, q = np.maximum(reference, 1e-9), np.maximum(outputs, 1e-9)
    medians = [statistics.median(found) for found in form.rounds_ms]
    return {
        "top1": float((outputs.argmax(axis=1) == labels).mean()),
        "divergence": float((p * np.log(p / q)).sum(axis=1).mean()),
        "size_bytes": form.size_bytes,
        "p50_ms": median_ms(form),
        "fastest_round_ms": min(medians),
        "slowest_round_ms": max(medians),
        "runs": sum(map(len, form.rounds_ms)),
    }


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    skipped = {}
    try:
        import nncf  # noqa: F401
        import openvino  # noqa: F401
    except ImportError as error:
        skipped = dict.fromkeys(("openvino_fp32", "nncf"), str(error))
    networks = {}
    for name, network in job["networks"].items():
        networks[name] = open_network(network, peers=not skipped)
        print(f"{name}: {', '.join(networks[name])}", file=sys.stderr, flush=True)
    preparing = {n: Form(normalisation(network), list(np.load(network["val"])), False, 0) for n, network in job["networks"].items()}
    models = [form for forms in networks.values() for form in forms.values()]
    time_in_turn([*models, *preparing.values()], job["rounds"], job["seconds"])
    answer = {}
    for name, forms in networks.items():
        outputs = {form: probabilities(found) for form, found in forms.items()}
        labels = np.array(job["networks"][name]["labels"])
        answer[name] = {form: figures(found, outputs[form], outputs["fp32"], labels) for form, found in forms.items()}
    known = {library.metadata["Name"]: library.version for library in importlib.metadata.distributions()}
    versions = {library: known[library] for library in LIBRARIES if library in known}
    planes = {name: median_ms(form) for name, form in preparing.items()}
    outcome = {"networks": answer, "planes_ms": planes, "skipped": skipped, "versions": versions}
    Path(sys.argv[2]).write_text(json.dumps(outcome), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Overhead of a bundle's runner over the runtime: resize, start-up and prediction::

    python benchmarks/runner.py BUNDLE

Resize: Pillow and numpy in turn, a 1080p frame to 224 pixels. Start-up: ``run.py predict`` of a golden image, minus a Python process that
imports the same libraries and runs the same model on one array. Predict: ``Model.predict`` on prepared pixels, minus the session's own
run. All figures are medians with one thread, measured alternately, so that a disturbance affects both.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
from PIL import Image

from tlexport.bench.environment import describe_machine
from tlexport.device.inputs.image import resize_and_crop
from tlexport.device.model import Model

RESULT = Path(__file__).parent / "results" / "runner.json"
FRAME = (1080, 1920, 3)
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# the minimum for any runner: the libraries, the decoded image, the model opened and run
BARE = """
import sys, numpy, onnxruntime
from PIL import Image
options = onnxruntime.SessionOptions(); options.intra_op_num_threads = 1; options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
feed = session.get_inputs()[0]
Image.open(sys.argv[2]).convert("RGB")
session.run(None, {feed.name: numpy.zeros([1, *feed.shape[1:]], sys.argv[3])})
"""


def by_turns(runs: int, *calls: Callable[[], object]) -> list[float]:
    """Median seconds of each call, alternating, after one uncounted round."""
    samples: list[list[float]] = [[] for _ in calls]
    for number in range(runs + 1):
        for call, own in zip(calls, samples, strict=True):
            begin = perf_counter()
            call()
            if number:
                own.append(perf_counter() - begin)
    return [statistics.median(own) for own in samples]


def resize(runs: int = 40) -> dict[str, dict[str, float]]:
    frame = np.random.default_rng(0).integers(0, 256, FRAME, dtype=np.uint8)
    image = Image.fromarray(frame)
    found = {}
    for interpolation in ("bilinear", "bicubic"):
        settings = (256, 224, interpolation)
        pillow, ours = by_turns(runs, partial(resize_and_crop, image, *settings), partial(resize_and_crop, frame, *settings))
        found[interpolation] = {
            "pillow_ms": round(pillow * 1e3, 3),
            "numpy_ms": round(ours * 1e3, 3),
            "ratio": round(ours / pillow, 3),
        }
    return found


def start(bundle: Path, model: Model, runs: int = 12) -> dict[str, float]:
    def process(*command: str) -> None:
        subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)

    image, file = str(bundle / model.bundle.data["golden"]["images"][0]), str(bundle / model.record["file"])
    dtype = model.record["artifact"]["inputs"][0]["dtype"]
    bare, ours = by_turns(
        runs, lambda: process("-c", BARE, file, image, dtype), lambda: process(str(bundle / "run.py"), "predict", image, "--threads", "1")
    )
    return {"bare_ms": round(bare * 1e3, 1), "run_py_ms": round(ours * 1e3, 1), "beyond_ms": round((ours - bare) * 1e3, 1)}


def overhead(model: Model, runs: int = 400) -> dict[str, float]:
    [pixels] = np.load(model.bundle.folder / model.bundle.data["golden"]["inputs"])[:1]
    batch = pixels[None]
    feed = batch.astype(model.record["artifact"]["inputs"][0]["dtype"])
    session = model._session._session
    [entry], names = session.get_inputs(), [output.name for output in session.get_outputs()]
    bare, ours = by_turns(runs, lambda: session.run(names, {entry.name: feed}), lambda: model.predict(batch))
    return {"runtime_ms": round(bare * 1e3, 4), "predict_ms": round(ours * 1e3, 4), "overhead": round(ours / bare - 1, 4)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="a bundle for a CPU: tlx export --target cpu-x86")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):  # numpy's BLAS reads these variables when it is loaded
        given = sys.argv[1:] if arguments is None else list(arguments)
        subprocess.run([sys.executable, __file__, *given], env=os.environ | ONE_THREAD, check=True)
        return
    bundle = options.bundle.resolve()
    result: dict[str, object] = {"resize_1080p_to_224": resize(), "environment": describe_machine().model_dump()}
    with Model(bundle, runtime="onnxruntime", device="cpu", threads=1) as model:
        artifact, contract = model.record["artifact"], model.bundle.preprocess
        result["model"] = {"precision": artifact["precision"], "size_bytes": artifact["size_bytes"], "size": contract["size"]}
        result["start"], result["predict"] = start(bundle, model), overhead(model)
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

"""End-to-end latency from an image file to probabilities, per stage."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter, perf_counter_ns

from tlexport.contract import Preprocess
from tlexport.device.inputs.decoding import BadImage
from tlexport.device.inputs.image import decode, resize_and_crop
from tlexport.errors import InvalidFile
from tlexport.measurement import Stages
from tlexport.ports import Runner

FEWEST, MOST = 10, 200  # runs


def time_stages(runner: Runner, images: Sequence[Path], preprocess: Preprocess, seconds: float) -> Stages:
    """Time decoding, resizing and the model for image files in turn, after one uncounted run.

    The files are in the system's cache. The three stages of an image run in sequence, so the model starts with the processor caches
    that decoding and resizing leave behind.

    Args:
        runner: an open model with one input, (1, height, width, channel).
        images: files.
        preprocess: how they enter the model.
        seconds: how long, within FEWEST and MOST images; but each image at least once.

    Raises:
        InvalidFile: an image cannot be decoded.
    """
    _one(runner, images[0], preprocess)
    taken: list[tuple[int, int, int]] = []
    least = max(FEWEST, len(images))
    begin = perf_counter()
    for image in itertools.islice(itertools.cycle(images), max(MOST, least)):
        taken.append(_one(runner, image, preprocess))
        if len(taken) >= least and perf_counter() - begin >= seconds:
            break
    decoded, resized, inferred = zip(*taken, strict=True)
    return Stages(decode_ns=decoded, resize_ns=resized, infer_ns=inferred, images=len(images))


def _one(runner: Runner, path: Path, preprocess: Preprocess) -> tuple[int, int, int]:
    [spec] = runner.inputs
    begin = perf_counter_ns()
    try:
        image = decode(path, preprocess.background)
        decoded = perf_counter_ns()
        pixels = resize_and_crop(image, preprocess.resize, preprocess.size, preprocess.interpolation)
    except BadImage as error:
        raise InvalidFile(f"{path}: {error}") from None
    feed = {spec.name: pixels[None].astype(spec.dtype, copy=False)}
    resized = perf_counter_ns()
    _ = runner.run(feed)
    return decoded - begin, resized - decoded, perf_counter_ns() - resized

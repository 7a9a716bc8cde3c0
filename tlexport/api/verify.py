"""The verb ``verify``: does a bundle still hold what was exported, and does it compute it here?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tlexport import errors
from tlexport.api.subject import device_for
from tlexport.bundle import read_manifest
from tlexport.device import golden
from tlexport.device.choice import Choice
from tlexport.device.errors import DeviceError
from tlexport.device.golden import Check
from tlexport.device.manifest import Bundle
from tlexport.device.model import open_model


def verify(bundle: Path, *, device: str = "auto", threads: int | None = None) -> list[Check]:
    """Check hashes, then replay the golden vectors of every model through ONNX Runtime: what the bundle's own runner does.

    Nothing is loaded whose hash is wrong: the golden vectors are replayed only when all files are as they should be.

    Raises:
        InvalidFile: not a bundle, or a broken manifest.
        Unsupported: the device is not here.
    """
    read_manifest(bundle)  # which looks at more than the runner does
    choice = Choice("onnxruntime", device_for("onnxruntime", device), "")
    with _our_errors():
        opened = Bundle(bundle)
        return golden.verify(opened, opened.models, lambda record: open_model(opened, record, choice, threads))


@contextmanager
def _our_errors() -> Iterator[None]:
    """Turn an error of the device into that of the same name."""
    try:
        yield
    except DeviceError as error:
        raise getattr(errors, type(error).__name__, errors.StepFailed)(error.message, error.hint) from None

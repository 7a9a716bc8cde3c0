"""What `device/` raises, which imports nothing of ours, as the errors of this package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tlexport import errors
from tlexport.device.errors import DeviceError


@contextmanager
def as_ours() -> Iterator[None]:
    """Turn an error of the device into that of the same name; its root is a step that failed."""
    try:
        yield
    except DeviceError as error:
        raise getattr(errors, type(error).__name__, errors.StepFailed)(error.message, error.hint) from error

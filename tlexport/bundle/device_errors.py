"""Converts the errors of `device/`, which imports nothing of this package, to errors of this package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tlexport import errors
from tlexport.device.errors import DeviceError


@contextmanager
def as_ours() -> Iterator[None]:
    """Convert an error of the device to the error of the same name; the base class becomes StepFailed."""
    try:
        yield
    except DeviceError as error:
        raise getattr(errors, type(error).__name__, errors.StepFailed)(error.message, error.hint) from error

"""The errors of the runner, with the exit codes of `tlx`. Python 3.6 syntax: this file is copied into bundles unchanged."""


class DeviceError(Exception):
    """Root of the errors.

    Args:
        message: what happened: the object, what was found, what was expected.
        hint: what to do next, ideally a command to type. May be empty.
    """

    exit_code = 1  # a step of the work failed

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InvalidFile(DeviceError):
    """An invalid file or option."""

    exit_code = 2


class MissingDependency(DeviceError):
    """A library or program is missing on this device."""

    exit_code = 3


class Unsupported(DeviceError):
    """This device or its TensorRT does not support the request."""

    exit_code = 4


class VerificationFailed(DeviceError):
    """Hashes or golden vectors differ."""

    exit_code = 5

"""The errors that a device can meet; the exit codes are those of `tlx`. Python 3.6 syntax: it is copied into bundles as it is."""


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
    """A file, or an option, that is not what it should be."""

    exit_code = 2


class MissingDependency(DeviceError):
    """A library or program that is not on this device."""

    exit_code = 3


class Unsupported(DeviceError):
    """This device, or its TensorRT, cannot do what was asked."""

    exit_code = 4


class VerificationFailed(DeviceError):
    """Hashes or golden vectors do not hold."""

    exit_code = 5

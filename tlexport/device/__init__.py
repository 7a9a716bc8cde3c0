"""The code that runs on the device: Python 3.6 syntax, no imports from tlexport. In a bundle this is the folder ``tlx``."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING or sys.version_info < (3, 7):  # where a module has no __getattr__
    from .model import Model as Model
else:

    def __getattr__(name: str) -> object:
        """``Model``, imported on first access, because the description of a board must not require numpy."""
        if name == "Model":
            from .model import Model

            return Model
        raise AttributeError("module {!r} has no attribute {!r}".format(__name__, name))

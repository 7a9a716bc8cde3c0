"""The newest ONNX Runtime for each Python, so that hints name only installable versions. Python 3.6 syntax.

Sources: the wheels for x86-64 Linux on the Python Package Index, and ONNX Runtime's table of versions and opsets (docs/Versioning.md).
"""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Sequence

# (Python, newest ONNX Runtime for it, largest opset that this reads); 3.9 has what 3.8 has; from 3.11 on the newest of all
NEWEST = (((3, 6), "1.10.0", 15), ((3, 7), "1.14.1", 18), ((3, 8), "1.19.2", 21), ((3, 9), "1.19.2", 21), ((3, 10), "1.23.2", 23))


def install_hint(python: "Sequence[int]" = sys.version_info[:2], installed: str = "") -> str:
    """The command that installs the newest ONNX Runtime for this Python.

    Args:
        python: version of Python.
        installed: the installed version of ONNX Runtime, which is too old; empty: none.
    """
    known = [(newest, opset) for version, newest, opset in NEWEST if version == tuple(python[:2])]
    if not known:
        return "pip install -U onnxruntime" if installed else "pip install onnxruntime"
    newest, opset = known[0]
    name = "{}.{}".format(*python[:2])
    if _numbers(installed) >= _numbers(newest):
        limit = "{} is the newest onnxruntime for Python {} and reads opset {} at most".format(newest, name, opset)
        return limit + ": use a newer Python, or export for an older opset"
    return "pip install onnxruntime=={} (the newest for Python {}; it reads opset {} at most)".format(newest, name, opset)


def _numbers(version: str) -> "list[int]":
    return [int(part) for part in version.split(".") if part.isdigit()]

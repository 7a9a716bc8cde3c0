"""Reads the TensorRT version of an engine from the file's header, without TensorRT.

Python 3.6 syntax: this file is copied into bundles unchanged. Layout of the header: printPlanVersion in
samples/common/sampleEngines.cpp of NVIDIA/TensorRT, equal at the tags v10.3.0 and v11.1.
"""

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Tuple

from ..errors import InvalidFile, Unsupported

if TYPE_CHECKING:
    from typing import Union

_TAG = b"ftrt"
_OLD_TAG = b"ptrt"  # of TensorRT 7 and before
_LENGTH = 28  # bytes: the tag, the layout's number (uint32, little-endian), 16 others, then major, minor, patch and build
_LAYOUT = 0
HEADERS_SINCE = (8, 6)  # the first TensorRT that writes its version there
_REBUILD = "build it again on this device: python3 run.py build"


def read_plan_version(path: "Union[str, Path]") -> Tuple[int, int, int, int]:
    """Major, minor, patch and build of the TensorRT that built an engine.

    Args:
        path: an ``.engine`` file.

    Raises:
        InvalidFile: the file is unreadable, too short, or not an engine.
        Unsupported: an engine without a version in its header: of TensorRT before 8.6, or with an unknown layout.
    """
    try:
        with Path(path).open("rb") as file:
            head = file.read(_LENGTH)
    except OSError as error:
        raise InvalidFile("{} cannot be read: {}".format(path, error.strerror or error), _REBUILD) from None
    if head[:4] not in (_TAG[: len(head)], _OLD_TAG[: len(head)]) or not head:
        text = "{} is not a TensorRT engine: it begins with {!r}; expected {!r}".format(path, head[:4], _TAG)
        raise InvalidFile(text, _REBUILD)
    if len(head) < _LENGTH:
        raise InvalidFile("{} is truncated: {} bytes; the header alone has {}".format(path, len(head), _LENGTH), _REBUILD)
    layout = struct.unpack_from("<I", head, 4)[0]
    major, minor, patch, build = head[24:28]
    if head[:4] == _OLD_TAG or layout != _LAYOUT or (major, minor) < HEADERS_SINCE:
        text = "{} does not state its TensorRT version: it was built before 8.6, or has an unknown layout ({})"
        raise Unsupported(text.format(path, layout), _REBUILD)
    return major, minor, patch, build

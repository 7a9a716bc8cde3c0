"""Captures what C++ libraries write to standard error, because some report reasons of failures only there."""

import os
import re
import sys
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Iterator, List


@contextmanager
def native_log() -> "Iterator[List[str]]":
    """Capture what C++ code writes to file descriptor 2. The list contains the lines after the block."""
    lines = []  # type: List[str]
    try:
        original = os.dup(2)
    except OSError:  # the process has no standard error
        yield lines
        return
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(original, 2)
            os.close(original)
            log.seek(0)
            colours = re.compile(r"\x1b\[[0-9;]*m")
            lines.extend(line for line in colours.sub("", log.read().decode(errors="replace")).splitlines() if line)


def pass_on(lines: "List[str]") -> None:
    """Print captured lines, except ONNX Runtime's own below the level of an error."""
    for line in lines:
        if not re.search(r"\[[VIW]:onnxruntime", line):
            sys.stderr.write(line + "\n")


def plain(text: str) -> str:
    """An error of ONNX Runtime in one line, without its prefix of time, source file, C++ function and error number."""
    text = re.sub(r"^.*?\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text, flags=re.DOTALL)
    text = re.sub(r"Load model from .*? failed: ?", "", text, flags=re.DOTALL)
    found = re.search(r"\S*/onnxruntime/\S*\.(?:cc|h|cpp|hpp|cu):\d+ ", text)
    while found:
        text = text[: found.start()] + _without_signature(text[found.end() :])
        found = re.search(r"\S*/onnxruntime/\S*\.(?:cc|h|cpp|hpp|cu):\d+ ", text)
    text = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(text.split())


def _without_signature(text: str) -> str:
    """The text after a C++ function signature: drops words up to the end of its parameters, then a qualifier and template arguments."""
    word, depth = "", 0
    words = []  # type: List[str]
    for place, character in enumerate(text):
        depth += (character in "(<[") - (character in ")>]")
        if character != " " or depth > 0:
            word += character
            continue
        words.append(word)
        word = ""
        rest = text[place + 1 :]
        if any(one.endswith((")", ")>")) for one in words) and not rest.startswith(("const ", "const]", "[with ", "noexcept ")):
            return rest
    return text

"""Translates ONNX Runtime's reasons for refusing a model into messages for the user."""

from __future__ import annotations

import re

AGAIN = "export the model again, or check it: onnx.checker in Python"


def refusal(text: str, version: str) -> tuple[str, str]:
    """The reason (found and expected values) and a hint.

    Args:
        text: ONNX Runtime's message, without its C++ source line.
        version: ONNX Runtime's version.
    """
    runtime = f"ONNX Runtime {version}"
    update = "pip install --upgrade onnxruntime"
    if found := re.search(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)", text):
        return (
            f"it has the IR version {found[1]}; the newest that {runtime} reads is {found[2]}",
            f"export it with an older version of onnx, or: {update}",
        )
    if found := re.search(r"Opset (\d+) is under development.*?domain (\S+) is till opset (\d+)", text):
        return (
            f"it uses opset {found[1]} of {found[2]}; the newest that {runtime} reads is {found[3]}",
            f"export it with opset {found[3]} or lower, or: {update}",
        )
    return (f"{runtime} refuses it: {text[:300]}", AGAIN)

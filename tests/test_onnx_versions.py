"""The runner's hint names an ONNX Runtime that exists for its Python."""

from __future__ import annotations

import pytest

from tlexport.device.runtimes.onnx_versions import NEWEST, install_hint
from tlexport.hardware.profile import PYTHON_OPSETS


@pytest.mark.parametrize(
    ("python", "installed", "words"),
    [
        ((3, 6, 9), "", ("onnxruntime==1.10.0", "opset 15")),
        ((3, 6, 9), "1.10.0", ("newest onnxruntime for Python 3.6", "newer Python", "opset 15")),
        ((3, 7), "1.9.0", ("onnxruntime==1.14.1", "opset 18")),
        ((3, 8, 10), "1.10.0", ("onnxruntime==1.19.2", "opset 21")),
        ((3, 9), "", ("onnxruntime==1.19.2",)),
        ((3, 10), "1.16.3", ("onnxruntime==1.23.2", "opset 23")),
        ((3, 13), "1.20.0", ("pip install -U onnxruntime",)),
        ((3, 14), "", ("pip install onnxruntime",)),
    ],
)
def test_the_hint_can_be_followed(python: tuple[int, ...], installed: str, words: tuple[str, ...]) -> None:
    hint = install_hint(python, installed)
    assert all(word in hint for word in words)
    assert ("pip install" in hint) == ("newer Python" not in hint)


def test_device_and_profiles_agree() -> None:
    device = {python: (newest.rpartition(".")[0], opset) for python, newest, opset in NEWEST}
    assert device.items() >= {python: (newest, opset) for python, newest, opset in PYTHON_OPSETS if python < (3, 11)}.items()

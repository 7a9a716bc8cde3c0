"""Plug-ins are checked against their protocol and get its defaults."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tlexport.quantizers
from tlexport import plugins
from tlexport.errors import StepFailed, UsageError
from tlexport.ports import Traits


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose files are quantizers."""
    monkeypatch.setattr(tlexport.quantizers, "__path__", [str(tmp_path)])
    monkeypatch.setattr(plugins, "names", lambda kind: tuple(sorted(path.stem for path in tmp_path.glob("*.py"))))
    yield tmp_path
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(f"tlexport.quantizers.{path.stem}", None)


def test_optional_members_have_the_defaults_of_the_protocol(folder: Path) -> None:
    (folder / "int3.py").write_text("PRECISION = 'int3'\nMETHOD = 'rounding'\n\ndef quantize(request): ...\n")
    found = plugins.quantizer("int3")
    assert (found.PRECISION, found.VARIANTS, found.weight_only) == ("int3", ("",), None)


def test_own_members_are_kept() -> None:
    assert plugins.backbone("inception").TRAITS != Traits() == plugins.backbone("resnet").TRAITS
    assert plugins.quantizer("int8_onnxruntime").weight_only is not None


def test_a_missing_member_is_named(folder: Path) -> None:
    (folder / "int5.py").write_text("PRECISION = 'int5'\n")
    with pytest.raises(StepFailed, match="'int5' does not define METHOD, quantize, which a Quantizer requires") as error:
        plugins.quantizer("int5")
    assert "ports.py" in error.value.hint


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no runtime 'onnxruntim'; did you mean 'onnxruntime'\?"):
        plugins.runtime("onnxruntim")

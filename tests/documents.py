"""The script that generates parts of the documents, as a module."""

from __future__ import annotations

import importlib.util
from types import ModuleType

from commands import ROOT


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

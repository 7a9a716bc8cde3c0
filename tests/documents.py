"""docs/generate.py as a module."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

from commands import ROOT


def generator() -> ModuleType:
    if (folder := str(ROOT / "docs")) not in sys.path:
        sys.path.insert(0, folder)  # the script imports result_tables
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

"""The runner refuses a manifest whose classes are not names."""

from __future__ import annotations

from pathlib import Path

import pytest
from bundles import read, rewrite, tiny_bundle

from tlexport.device.errors import InvalidFile
from tlexport.device.manifest import Bundle


def test_classes_that_are_no_names_are_refused(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "colours")
    manifest = read(bundle)
    for classes in ([], [1, 2, 3], ["red", None, "blue"]):
        rewrite(bundle, manifest | {"classes": classes})
        with pytest.raises(InvalidFile, match="classes must be texts"):
            Bundle(bundle)

"""Bundles with the stand-in runner, for tests of `--host`."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path
from typing import Any

from tlexport.bundle.manifest import MANIFEST, Manifest, read_manifest
from tlexport.storage.files import sha256_of


def stand_in_bundle(bundle: Path, folder: Path) -> Path:
    """A copy below ``folder`` under a name with a space; its models are a few bytes."""
    copy = Path(shutil.copytree(bundle, folder / "my bundle"))
    for model in read_manifest(copy).models:
        (copy / model.file).write_text(f"no {model.artifact.precision} model", encoding="utf-8")
    return changed(copy, match={"machine": platform.machine(), "cpu": None, "device_tree": None, "gpu": None})


def changed(bundle: Path, **profile: Any) -> Path:
    """The bundle with other keys in its profile, and the stand-in, as if it had been exported so."""
    shutil.copyfile(Path(__file__).with_name("stand_in_runner.py"), bundle / "run.py")
    data = read_manifest(bundle).model_dump()
    data["files"] = {name: sha256_of(bundle / name) for name in [*data["files"], "run.py"]}
    for model in data["models"]:
        model["artifact"] |= {"sha256": data["files"][model["file"]], "size_bytes": (bundle / model["file"]).stat().st_size}
    for key, value in profile.items():
        data["profile"][key] = data["profile"][key] | value if isinstance(data["profile"][key], dict) else value
    Manifest.parse(data, "changed").write(bundle / MANIFEST)
    return bundle

"""Bundles of earlier versions still open, and the published schema matches the records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bundles import CLASSES, read, rewrite, tiny_bundle
from commands import ROOT, here
from documents import generator
from exports import exported
from json_schema import fits

from tlexport.api.predict import predict
from tlexport.api.verify import verify
from tlexport.bundle.archive import pack
from tlexport.bundle.manifest import MANIFEST, Manifest, read_manifest
from tlexport.errors import InvalidFile
from tlexport.export.model_card import model_card
from tlexport.loading.model import Execution

# made by the writer of format 1; never to be written again
KEPT = sorted((Path(__file__).parent / "data").glob("bundle-v*"))
SCHEMA: dict[str, Any] = json.loads((ROOT / "docs/manifest.schema.json").read_text(encoding="utf-8"))


def test_every_older_format_is_kept() -> None:
    kept = {read(bundle)["format"] for bundle in KEPT}
    newest = Manifest.model_fields["format"].default
    assert kept == set(range(1, newest))


@pytest.mark.parametrize("bundle", KEPT, ids=lambda path: path.name)
def test_a_bundle_of_an_older_format_opens_verifies_and_predicts(bundle: Path, tmp_path: Path) -> None:
    manifest = read_manifest(bundle)
    assert manifest.classes == CLASSES
    assert manifest.training is None
    assert [check for check in verify(bundle, device="cpu", threads=1) if not check.ok] == []
    images = [bundle / name for name in manifest.golden.images]
    assert [found.name for found in predict(bundle, images, run=Execution(precision="fp16", threads=1))] == [
        "red",
        "red",
        "green",
        "green",
        "blue",
        "blue",
    ]
    assert "format 1" in model_card(manifest)
    pack(bundle, tmp_path / "old.zip")
    assert [check for check in verify(tmp_path / "old.zip", device="cpu", threads=1) if not check.ok] == []


@pytest.mark.parametrize("bundle", KEPT, ids=lambda path: path.name)
@pytest.mark.parametrize("command", ["bench", "estimate"])
def test_commands_take_a_bundle_of_an_older_format(bundle: Path, command: str, capfd: pytest.CaptureFixture[str]) -> None:
    more = {"bench": ("--runs", "1", "--seconds", "0", "--precision", "fp32"), "estimate": ("--target", "raspberry-pi-5")}
    ended = here(capfd, command, bundle, *more[command], "--threads", "1", "--json")
    assert ended.code == 0, ended.err


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "colours")
    rewrite(bundle, read(bundle) | {"format": Manifest.model_fields["format"].default + 1})
    with pytest.raises(InvalidFile, match="format"):
        read_manifest(bundle)


# --- the schema -------------------------------------------------------------------------------------------------------


def test_the_published_schema_is_what_the_records_say() -> None:
    assert generator().manifest_schema() == SCHEMA, "run: python docs/generate.py"


def test_manifests_fit_the_schema(checkpoint: Path, tmp_path: Path) -> None:
    bundles = [
        *KEPT,
        tiny_bundle(tmp_path / "colours"),
        exported(checkpoint, "cpu-x86").path,
        exported(checkpoint, "jetson-orin-nano").path,
    ]
    for bundle in bundles:
        assert fits(read(bundle), SCHEMA, SCHEMA), bundle


@pytest.mark.parametrize(
    "change",
    [
        {"clases": []},
        {"classes": None},
        {"models": []},
        {"format": 99},
        {"files": {"labels.txt": "no hash"}},
        {"licences": {}},
        {"training": {"backbone": 1}},
    ],
    ids=str,
)
def test_what_does_not_fit_the_schema_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    bundle = tiny_bundle(tmp_path / "colours")
    data = read(bundle) | change
    assert not fits(data, SCHEMA, SCHEMA)
    rewrite(bundle, data)
    with pytest.raises(InvalidFile, match=MANIFEST):
        read_manifest(bundle)


def test_every_key_of_the_manifest_is_explained() -> None:
    """By a description, or by the table that it leads to; what is plain from its name is listed here."""
    plain = {"name", "classes", "target", "format", "models", "rejected", "checkpoint_sha256", "checkpoint_top1", "versions"}
    document = (ROOT / "docs/bundle-format.md").read_text(encoding="utf-8")
    for key, part in SCHEMA["properties"].items():
        assert key in plain or "description" in part or "$ref" in part, key
        assert f"`{key}`" in document, key

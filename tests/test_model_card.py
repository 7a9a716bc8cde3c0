"""MODEL_CARD.md: complete, from the manifest alone, and safe from markup in names."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from bundles import tiny_bundle
from exports import exported
from hypothesis import given
from hypothesis import strategies as st

from tlexport.bundle.manifest import MODEL_CARD, Manifest, read_manifest, wilson
from tlexport.checkpoint import read_checkpoint, read_dataset
from tlexport.export.model_card import escaped, model_card
from tlexport.export.provenance import licences_of, training_of
from tlexport.recipe import Recipe
from tlexport.storage.files import sha256_of

SECTIONS = ["Model details", "Intended use", "Data", "Metrics", "Quantization", "Limitations", "Licence", "How to run"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return read_manifest(tiny_bundle(tmp_path_factory.mktemp("tiny") / "colours"))


@pytest.mark.parametrize("target", ["cpu-x86", "jetson-orin-nano"])
def test_the_card_is_what_the_manifest_says(checkpoint: Path, target: str) -> None:
    made = exported(checkpoint, target)
    card = (made.path / MODEL_CARD).read_text(encoding="utf-8")
    manifest = read_manifest(made.path)
    assert card == model_card(manifest)
    assert re.findall(r"^## (.+)$", card, re.MULTILINE) == SECTIONS
    for model in manifest.models:
        low, high = model.top1_interval
        assert f"{100 * model.top1:.2f} ({100 * low:.2f} to {100 * high:.2f})" in card
    assert f"{manifest.models[0].n} validation images" in card
    assert all(escaped(name) in card for name in manifest.classes)
    assert all(version in card for version in map(escaped, manifest.versions.values()))
    assert "Apache-2.0" in card


def test_the_manifest_says_what_the_models_were_made_from(checkpoint: Path) -> None:
    manifest, record, dataset = exported(checkpoint, "cpu-x86").manifest, read_checkpoint(checkpoint), read_dataset(checkpoint)
    assert manifest.training == training_of(record, dataset)
    assert manifest.training is not None
    assert manifest.training.recipe_sha256 == sha256_of(checkpoint / "recipe.toml")
    assert manifest.training.images == {"train": len(dataset.part("train")), "val": len(dataset.part("val"))}
    moved = dataset.model_copy(update={"root": "/elsewhere", "samples": dataset.samples[::-1]})
    assert training_of(record, moved) == manifest.training, "where the images lie, and their order, is nobody's business"
    other = dataset.samples[0].model_copy(update={"part": "test"})
    changed = dataset.model_copy(update={"samples": (other, *dataset.samples[1:])})
    assert training_of(record, changed).dataset_sha256 != manifest.training.dataset_sha256


@pytest.mark.parametrize(("weights", "spdx"), [("embedded", "Apache-2.0"), ("imagenet", None), ("none", None), ("mine/w.pth", None)])
def test_terms_of_the_weights(weights: str, spdx: str | None) -> None:
    licences = licences_of(Recipe(weights=weights))
    assert (licences.code.spdx, licences.network.spdx, licences.weights.spdx) == ("Apache-2.0", "BSD-3-Clause", spdx)
    assert ("ImageNet" in licences.weights.note) == (weights == "imagenet")
    assert "mine" not in licences.weights.note


EVIL = [
    "# heading",
    "| cell | cell",
    "<script>alert(1)</script>",
    "![x](http://evil)",
    "`rm -rf`",
    "*bold*",
    "a\n\n## Licence",
    "http://evil",
]


@pytest.mark.parametrize("name", EVIL)
def test_class_names_are_shown_and_not_obeyed(tiny: Manifest, name: str) -> None:
    card = model_card(tiny.model_copy(update={"classes": (name, "other")}))
    assert len(card.splitlines()) == len(model_card(tiny).splitlines())
    assert re.findall(r"^## (.+)$", card, re.MULTILINE) == SECTIONS
    for markup in ("<script", "![", "](http", "`rm", "*bold", "http://"):
        assert markup not in re.sub(r"\\[!-/:-@\[-`{-~]", "", card)
    assert unescaped(escaped(name)) == " ".join(name.split())


def unescaped(text: str) -> str:
    """As Markdown reads it: a backslash makes punctuation mean itself (CommonMark 2.4)."""
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text)


@given(st.text())
def test_any_text_is_shown_as_it_is(text: str) -> None:
    shown = escaped(text)
    assert unescaped(shown) == " ".join(text.split())
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*_\[\]<>#|~]", re.sub(r"\\[!-/:-@\[-`{-~]", "", shown))
    assert len(shown.splitlines()) <= 1


# --- the interval -----------------------------------------------------------------------------------------------------


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_s_bounds_are_where_the_score_test_is_at_its_limit(counts: tuple[int, int]) -> None:
    """What defines the interval: a bound p has |seen - p| = z * sqrt(p (1 - p) / n)."""
    right, n = counts
    seen, z = right / n, 1.959963984540054
    low, high = wilson(seen, n)
    assert 0 <= low <= seen <= high <= 1
    for bound in (low, high):
        assert math.isclose(abs(seen - bound), z * math.sqrt(bound * (1 - bound) / n), rel_tol=1e-6, abs_tol=1e-9)


def test_wilson_s_interval_shrinks_with_more_images_and_less_confidence() -> None:
    widths = [high - low for low, high in (wilson(0.9, n) for n in (10, 100, 1000))]
    assert widths == sorted(widths, reverse=True)
    assert wilson(0.9, 100, 0.5)[1] < wilson(0.9, 100, 0.95)[1]

"""Engine recipes in the manifest, and the resulting settings of the device's TensorRT."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from tlexport import ports
from tlexport.artifact import PRECISIONS, Precision
from tlexport.bundle.manifest import EngineRecipe
from tlexport.contract import image_input
from tlexport.device import errors
from tlexport.device.runtimes import build_options
from tlexport.device.runtimes.build_options import TYPED_SCALES, parse_version, precision_flags, version_text
from tlexport.errors import Unsupported
from tlexport.export.engine import engine_recipe
from tlexport.hardware.profile import Profile
from tlexport.hardware.target import load_profile

PROFILES = [load_profile(path.stem) for path in sorted((Path(__file__).parent.parent / "profiles").glob("*.toml"))]
BOARDS = [profile for profile in PROFILES if profile.runtime == "tensorrt"]
VERSIONS = ["8.2.1", "8.4.1", "8.5.2.2", "8.6.2", "9.3.0", "10.3.0.30", "10.7.0", "10.13.3.9", "10.16.2.10", "11.0.0", "11.4.1"]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("profile", BOARDS, ids=lambda p: p.name)
def test_the_recipe_is_the_profile_s_and_the_model_s(profile: Profile, precision: Precision) -> None:
    recipe = engine_recipe(profile, precision, image_input(96, profile.input_dtype.value))
    assert profile.workspace_mb is not None
    assert (recipe.workspace_mb, recipe.opset) == (profile.workspace_mb.value, profile.opset.value)
    assert (recipe.input, recipe.shape, recipe.precision) == ("image", (1, 96, 96, 3), precision)
    assert EngineRecipe.parse(recipe.model_dump(mode="json"), "memory") == recipe


@pytest.mark.parametrize("profile", [p for p in PROFILES if p.runtime != "tensorrt"], ids=lambda p: p.name)
def test_a_target_without_tensorrt_has_no_engine(profile: Profile) -> None:
    with pytest.raises(Unsupported, match=profile.name):
        engine_recipe(profile, "fp32", image_input(64, "uint8"))


def test_a_profile_s_tensorrt_that_is_too_old_is_named() -> None:
    fact = BOARDS[0].software.tensorrt
    assert fact is not None
    old = BOARDS[0].software.model_copy(update={"tensorrt": fact.model_copy(update={"value": "7.1.3"})})
    with pytest.raises(Unsupported, match=r"7\.1\.3"):
        engine_recipe(BOARDS[0].model_copy(update={"software": old}), "fp16", image_input(64, "uint8"))


@pytest.mark.parametrize("opset", [13, 17, 18, 19, 20])
@pytest.mark.parametrize("text", VERSIONS)
def test_a_precision_is_allowed_where_it_is_wanted_and_nowhere_else(text: str, opset: int) -> None:
    """A builder uses a lower precision if a flag allows it, and ignores the graph's precision if none does."""
    version = parse_version(text)
    flags = {precision: set(precision_flags(version, precision, opset)) for precision in PRECISIONS}
    assert not flags["fp32"] & {"fp16", "int8"}
    assert "int8" not in flags["fp16"]
    typed = opset >= 19  # the graph's scales are FP16 then
    assert ("int8" in flags["int8"]) == (version < (10,) or (version < (11,) and not typed))
    assert ("stronglyTyped" in flags["int8"]) == ((10,) <= version < (11,) and typed)
    assert bool(flags["fp16"]) == (version < (11,))
    for used in flags.values():
        assert not ("stronglyTyped" in used and used & {"fp16", "int8"})  # TensorRT drops the latter then


def test_the_device_knows_the_product_s_precisions_and_opset() -> None:
    """It imports nothing of the product, so these are written there again."""
    assert get_args(Precision) == build_options.PRECISIONS
    assert TYPED_SCALES == ports.TYPED_SCALES


@pytest.mark.parametrize(("version", "precision"), [((8, 0, 1), "fp16"), ((7, 2), "fp32"), ((10, 3), "fp8"), ((11, 0), "best")])
def test_what_cannot_be_built_is_refused(version: tuple[int, ...], precision: str) -> None:
    with pytest.raises(errors.Unsupported, match=precision if version >= (8, 2) else version_text(version)):
        precision_flags(version, precision, 17)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("10.3.0.30", (10, 3, 0, 30)),
        ("8.2", (8, 2)),
        ("8.6.1.post1", (8, 6, 1)),
        ("10.3.0.30-1+cuda12.5", (10, 3, 0, 30)),
        ("v11.1.0\n", (11, 1, 0)),
    ],
)
def test_versions_are_read(text: str, numbers: tuple[int, ...]) -> None:
    assert parse_version(text) == numbers


@pytest.mark.parametrize("text", ["", "ten", "10", ".8.2", "-8.2", "x8.2", "8..2", "9" * 40 + ".1"])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(errors.InvalidFile, match="is not a version"):
        parse_version(text)

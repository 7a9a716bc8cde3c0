"""The recipe: TOML round trip, and errors that name the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tlexport.errors import InvalidFile
from tlexport.recipe import Recipe, read_toml

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)  # anything that UTF-8 can hold
levels = st.integers(0, 255)
positive = st.floats(0, 10, exclude_min=True, exclude_max=True)
shares = st.floats(0, 1, exclude_max=True)

FIELDS: dict[str, st.SearchStrategy[Any]] = dict(
    backbone=texts,
    weights=texts,
    strategy=st.sampled_from(["head", "partial", "gradual", "full"]),
    freeze=st.none() | texts,
    image_size=st.none() | st.integers(32, 1024),
    epochs=st.integers(1, 10_000),
    head=st.none() | st.sampled_from(["solved", "trained"]),
    head_epochs=st.none() | st.integers(1, 10_000),
    batch_size=st.integers(2, 65_536),
    lr=positive | st.just("auto"),
    fine_lr=st.none() | positive,
    optimizer=st.sampled_from(["adamw", "sgd"]),
    weight_decay=shares,
    stage_decay=st.floats(0, 1, exclude_min=True),
    schedule=st.sampled_from(["cosine", "one-cycle", "constant"]),
    warmup=shares,
    clip=st.floats(0, 100),
    ema=shares,
    label_smoothing=shares,
    patience=st.integers(1, 100),
    balance=st.sampled_from(["none", "weights", "sampler"]),
    augment=st.sampled_from(["none", "light", "medium", "strong"]),
    views=st.integers(1, 1000),
    flip=st.booleans(),
    val_fraction=st.floats(0, 1, exclude_min=True, exclude_max=True),
    background=st.tuples(levels, levels, levels),
    teacher=st.none() | texts,
    seed=st.integers(0, 2**32 - 1),
)


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


@example(recipe=Recipe(weights='\x01\x7f\\"\u2028.pth'))
@given(recipe=st.builds(Recipe, **FIELDS))
def test_a_recipe_comes_back_from_its_toml(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> None:
    assert Recipe.read_toml(written(tmp_path_factory.getbasetemp(), recipe.to_toml())) == recipe


def test_the_property_covers_every_key() -> None:
    assert FIELDS.keys() | {"format"} == Recipe.model_fields.keys()


def test_an_empty_recipe_is_the_default(tmp_path: Path) -> None:
    assert Recipe.read_toml(written(tmp_path, "")) == Recipe()


@pytest.mark.parametrize("name", Recipe.model_fields)
def test_a_value_of_another_type_is_refused(name: str, tmp_path: Path) -> None:
    # a table fits no key; nothing is converted on the way, so this holds for each of them
    with pytest.raises(InvalidFile, match=f"  {name}") as caught:
        Recipe.read_toml(written(tmp_path, f"[{name}]\nx = 1\n"))
    assert str(tmp_path / "recipe.toml") in caught.value.message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("epoch = 3", "epoch: unknown key; did you mean 'epochs'?"),
        ("learning_rate = 3", "learning_rate: unknown key"),
        ('epochs = "3"', "epochs"),
        ("epochs = 3.0", "epochs"),
        ("epochs = true", "epochs"),
        ("epochs = 0", "epochs"),
        ("flip = 1", "flip"),
        ("seed = -1", "seed"),
        ("lr = nan", "lr"),
        ("lr = 0.0", "lr"),
        ("weight_decay = inf", "weight_decay"),
        ('strategy = "stepwise"', "strategy"),
        ("freeze = 3", "freeze"),
        ("image_size = 31", "image_size"),
        ("batch_size = 1", "batch_size"),
        ("val_fraction = 1.0", "val_fraction"),
        ("background = [1, 2]", "background"),
        ("background = [0, 0, 256]", "background.2"),
        ("seed = 2026-01-01", "date"),
        ("format = 2", "format"),
    ],
)
def test_a_wrong_key_or_value_is_named(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidFile) as caught:
        Recipe.read_toml(written(tmp_path, text))
    assert says in caught.value.message
    assert caught.value.exit_code == 2


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile) as caught:
        Recipe.read_toml(written(tmp_path, "epochs = 0\nbogus = 1\nlr = 'fast'\n"))
    assert all(name in caught.value.message for name in ("epochs", "bogus", "lr"))


def test_what_is_no_toml_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="line 2"):
        read_toml(written(tmp_path, "epochs = 3\nepochs == 4\n"))
    with pytest.raises(InvalidFile, match="does not exist"):
        read_toml(tmp_path / "missing.toml")
    (tmp_path / "latin.toml").write_bytes(b'weights = "caf\xe9"\n')
    with pytest.raises(InvalidFile, match="TOML"):
        read_toml(tmp_path / "latin.toml")
    with pytest.raises(InvalidFile, match="TOML"):
        read_toml(tmp_path)
    (tmp_path / "deep.toml").write_text("epochs = " + "[" * 100_000, encoding="utf-8")
    with pytest.raises(InvalidFile, match="TOML"):
        read_toml(tmp_path / "deep.toml")

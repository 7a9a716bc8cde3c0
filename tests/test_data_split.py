"""Properties of the split: a partition, stratified, seeded, with no image on both sides."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tlexport.data.source import Entry, Listing
from tlexport.data.split import split
from tlexport.dataset import Dataset, Part
from tlexport.errors import InvalidFile

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
Item = tuple[str, int, Part | None, str]  # path, label, part, content


def listing(items: list[Item]) -> tuple[Listing, list[str]]:
    """A listing and the hashes of its files."""
    count = max(label for _, label, _, _ in items) + 1
    entries = tuple(Entry(path, label, part) for path, label, part, _ in items)
    return Listing("data", Path("/data"), tuple(f"class{n}" for n in range(count)), entries, 0, ()), [content for *_, content in items]


def divided(items: list[Item], fraction: float = 0.2, seed: int = 0) -> tuple[Dataset, tuple[str, ...]]:
    return split(*listing(items), fraction, seed)


def contents(dataset: Dataset, part: Part) -> set[str]:
    return {sample.sha256 for sample in dataset.part(part)}


def plain(*counts: int, part: Part | None = None, tag: str = "") -> list[Item]:
    """So many different images of each class."""
    return [(f"{tag}{label}/{n}", label, part, f"{tag}-{label}-{n}") for label, count in enumerate(counts) for n in range(count)]


@st.composite
def collections(draw: st.DrawFn, *, torn: bool = False) -> list[Item]:
    """Images of 2 to 4 classes without a split, with duplicates within a class; ``torn``: across classes as well."""
    items: list[Item] = []
    for label in range(draw(st.integers(2, 4))):
        copies = draw(st.lists(st.integers(1, 4), min_size=2, max_size=15))
        for group, size in enumerate(copies):
            content = f"shared-{group}" if torn and draw(st.booleans()) else f"{label}-{group}"
            items += [(f"{label}/{group}-{copy}", label, None, content) for copy in range(size)]
    return items


fractions = st.floats(0.01, 0.99)
seeds = st.integers(0, 2**32 - 1)


@unhurried
@given(collections(torn=True), fractions, seeds)
def test_each_image_is_in_one_part_and_no_content_in_both(items: list[Item], fraction: float, seed: int) -> None:
    try:
        dataset, _ = divided(items, fraction, seed)
    except InvalidFile as error:  # every image has several labels
        assert "nothing is left to validate on" in error.message
        assert all(len({label for _, label, _, other in items if other == content}) > 1 for *_, content in items)
        return
    assert [(sample.path, sample.label, sample.sha256) for sample in dataset.samples] == [(p, label, c) for p, label, _, c in items]
    assert {sample.part for sample in dataset.samples} == {"train", "val"}
    assert not contents(dataset, "train") & contents(dataset, "val")


@unhurried
@given(collections(), fractions, seeds)
def test_each_class_gives_its_share_to_within_one_group_of_copies(items: list[Item], fraction: float, seed: int) -> None:
    dataset, _ = divided(items, fraction, seed)
    for label in {label for _, label, _, _ in items}:
        groups = Counter(content for _, other, _, content in items if other == label)
        taken = sum(sample.label == label for sample in dataset.part("val"))
        total = groups.total()
        wanted = min(max(round(total * fraction), 1), total - 1)
        assert abs(taken - wanted) < max(groups.values())
        assert 1 <= taken <= total - 1


@unhurried
@given(st.lists(st.integers(2, 40), min_size=2, max_size=5), fractions, seeds)
def test_without_duplicates_the_share_is_exact(counts: list[int], fraction: float, seed: int) -> None:
    dataset, notes = divided(plain(*counts), fraction, seed)
    taken = Counter(sample.label for sample in dataset.part("val"))
    assert [taken[label] for label in range(len(counts))] == [min(max(round(n * fraction), 1), n - 1) for n in counts]
    assert notes == ()


@unhurried
@given(collections(), fractions, seeds, st.randoms(use_true_random=False))
def test_the_order_of_the_files_does_not_matter(items: list[Item], fraction: float, seed: int, shuffler: random.Random) -> None:
    shuffled = items.copy()
    shuffler.shuffle(shuffled)
    first, _ = divided(items, fraction, seed)
    second, _ = divided(shuffled, fraction, seed)
    assert {(sample.path, sample.part) for sample in first.samples} == {(sample.path, sample.part) for sample in second.samples}


@unhurried
@given(collections(), fractions, seeds, st.integers(2, 9))
def test_another_class_does_not_change_the_others(items: list[Item], fraction: float, seed: int, count: int) -> None:
    label = max(label for _, label, _, _ in items) + 1
    more = items + [(f"new/{n}", label, None, f"new-{n}") for n in range(count)]
    first, _ = divided(items, fraction, seed)
    second, _ = divided(more, fraction, seed)
    assert first.samples == second.samples[: len(items)]


def test_the_seed_decides() -> None:
    items = plain(50, 50)
    assert divided(items, seed=3) == divided(items, seed=3)
    picks = [frozenset(contents(divided(items, seed=seed)[0], "val")) for seed in range(20)]
    assert len(set(picks)) == 20
    times = Counter(content for pick in picks for content in pick)
    assert len(times) > 90  # 20 draws of a fifth leave out 100 * 0.8^20 = 1 of 100 images


def test_one_image_more_moves_few_others() -> None:
    before = contents(divided(plain(50, 50))[0], "val")
    after = contents(divided(plain(51, 50))[0], "val")
    assert len(before ^ after) <= 2


def test_a_class_with_one_image_trains_only() -> None:
    dataset, notes = divided(plain(10, 1))
    assert [sample.part for sample in dataset.samples if sample.label == 1] == ["train"]
    assert len(notes) == 1
    assert "class1 (1)" in notes[0]
    assert "nothing validates them" in notes[0]


def test_a_class_of_one_image_many_times_trains_only() -> None:
    dataset, notes = divided(plain(10) + [(f"1/{n}", 1, None, "same") for n in range(5)])
    assert {sample.part for sample in dataset.samples if sample.label == 1} == {"train"}
    assert any("class1 (5)" in note for note in notes)


def test_nothing_to_validate_on_is_an_error() -> None:
    with pytest.raises(InvalidFile, match="nothing is left to validate on"):
        divided(plain(1, 1))


def test_an_image_with_two_labels_is_named_and_never_validates() -> None:
    torn: list[Item] = [("0/x", 0, None, "same"), ("1/y", 1, None, "same")]
    for seed in range(10):
        dataset, notes = divided(plain(4, 4) + torn, 0.5, seed)
        assert "same" in contents(dataset, "train") - contents(dataset, "val")
        assert len(notes) == 1
        assert "0/x (class0) = 1/y (class1)" in notes[0]


def test_the_datas_own_split_is_kept() -> None:
    items = plain(3, 3, part="train", tag="a") + plain(2, 2, part="val", tag="b") + plain(1, 1, part="test", tag="c")
    dataset, notes = divided(items)
    assert [(sample.path, sample.part) for sample in dataset.samples] == [(path, part) for path, _, part, _ in items]
    assert notes == ()
    assert (dataset.source, dataset.root, dataset.classes) == ("data", str(Path("/data")), ("class0", "class1"))


def test_a_class_without_validation_images_is_named() -> None:
    _, notes = divided(plain(3, 3, part="train") + plain(1, part="val", tag="v"))
    assert notes == ("classes without validation images: class1",)


@pytest.mark.parametrize("held_out", ["val", "test"])
def test_training_copies_of_held_out_images_are_dropped(held_out: Part) -> None:
    items = plain(4, 4, part="train") + plain(2, 2, part="val", tag="v")
    items += [("h/1", 0, held_out, "-0-1"), ("h/2", 1, held_out, "-1-3")]
    dataset, notes = divided(items)
    assert not contents(dataset, "train") & contents(dataset, held_out)
    assert [sample.path for sample in dataset.part("train")] == [
        f"{label}/{n}" for label in (0, 1) for n in range(4) if (label, n) not in ((0, 1), (1, 3))
    ]
    assert len(notes) == 1
    assert "2 training images are copies" in notes[0]
    assert "0/1, 1/3" in notes[0]


def test_a_validation_part_that_repeats_the_training_part_is_an_error() -> None:
    same = [(f"v{path}", label, "val", content) for path, label, _, content in plain(3, 3)]
    with pytest.raises(InvalidFile, match="all training images of class0, class1 are copies"):
        divided(plain(3, 3, part="train") + same)


@pytest.mark.parametrize("tests", [[], plain(2, 2, part="test", tag="t")])
def test_without_a_validation_part_one_is_drawn_from_train(tests: list[Item]) -> None:
    dataset, notes = divided(plain(10, 20, part="train") + tests, 0.3)
    parts: dict[int, Counter[str]] = defaultdict(Counter)
    for sample in dataset.samples:
        parts[sample.label][sample.part] += 1
    assert (parts[0]["train"], parts[0]["val"], parts[1]["train"], parts[1]["val"]) == (7, 3, 14, 6)
    assert len(dataset.part("test")) == len(tests)
    assert notes == ("the data has no validation part: 30 % of the training images of each class are taken for it",)


@unhurried
@given(collections(), seeds)
def test_drawing_from_train_never_takes_a_test_image(items: list[Item], seed: int) -> None:
    trained: list[Item] = [(path, label, "train", content) for path, label, _, content in items]
    held: list[Item] = [(f"test/{path}", label, "test", content) for path, label, _, content in items if content.endswith("-0")]
    spare = plain(*([2] * (1 + max(label for _, label, _, _ in items))), part="train", tag="spare")  # so that something is left
    dataset, _ = divided(trained + held + spare, 0.25, seed)
    assert not (contents(dataset, "train") | contents(dataset, "val")) & contents(dataset, "test")
    assert not contents(dataset, "train") & contents(dataset, "val")

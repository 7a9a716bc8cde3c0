"""Checks on every exported model, and the images for calibration and verification."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlexport.bundle.manifest import Model, read_manifest
from tlexport.dataset import Dataset, Sample
from tlexport.errors import UsageError, VerificationFailed
from tlexport.export.calibration import calibration_sample
from tlexport.export.checks import check_fp32_agreement, check_graph
from tlexport.export.write_bundle import golden_positions

# --- calibration and golden images: laws ------------------------------------------------------------------------------


@st.composite
def datasets(draw: st.DrawFn) -> Dataset:
    classes = draw(st.integers(2, 6))
    counts = draw(st.lists(st.integers(0, 9), min_size=classes, max_size=classes))
    samples = [
        Sample(
            path=f"{label}/{number}.png",
            label=label,
            part=draw(st.sampled_from(["train", "train", "val", "test"])),
            sha256=f"{label}-{number}",
        )
        for label, count in enumerate(counts)
        for number in range(count)
    ]
    names = tuple(f"class {label}" for label in range(classes))
    return Dataset(source="made up", root="/nowhere", classes=names, samples=tuple(draw(st.permutations(samples))))


@given(datasets(), st.integers(1, 40), st.integers(0, 3))
def test_calibration_is_of_training_images_balanced_and_seeded(dataset: Dataset, count: int, seed: int) -> None:
    train = dataset.part("train")
    if len(train) < len(dataset.classes):
        with pytest.raises(UsageError, match="calibration"):
            calibration_sample(dataset, count, seed)
        return
    chosen = calibration_sample(dataset, count, seed)
    assert set(chosen) <= set(train)
    assert len(set(chosen)) == len(chosen) == min(len(train), max(count, len(dataset.classes)))
    have, taken = Counter(s.label for s in train), Counter(s.label for s in chosen)
    most = max(taken.values())
    assert all(taken[label] >= min(most - 1, have[label]) for label in have)  # a class has fewer only where it has no more
    shuffled = dataset.model_copy(update={"samples": tuple(reversed(dataset.samples))})
    assert calibration_sample(shuffled, count, seed) == chosen


def test_another_seed_calibrates_on_other_images() -> None:
    samples = tuple(Sample(path=f"{n % 2}/{n:03}.png", label=n % 2, part="train", sha256=str(n)) for n in range(100))
    dataset = Dataset(source="made up", root="/nowhere", classes=("a", "b"), samples=samples)
    assert set(calibration_sample(dataset, 20, 0)) != set(calibration_sample(dataset, 20, 1))


@given(st.lists(st.integers(0, 12), min_size=1, max_size=60))
def test_golden_images_show_as_many_classes_as_they_can(labels: list[int]) -> None:
    positions = golden_positions(labels, ["a.png"] * len(labels))
    assert len(set(positions)) == len(positions) == min(8, len(labels))
    assert len({labels[p] for p in positions}) == min(8, len(set(labels)))
    assert max(positions) < len(labels)


# --- the checks that every model passes, on models that do not pass ---------------------------------------------------


@pytest.fixture
def good(bundle: Path) -> tuple[onnx.ModelProto, Model]:
    return onnx.load(bundle / "model.fp32.onnx"), read_manifest(bundle).model("fp32")


def check(model: onnx.ModelProto, record: Model, precision: str = "fp32") -> None:
    check_graph(model, precision, record.artifact.inputs, record.artifact.outputs)


def test_a_good_graph_passes_and_another_precision_does_not(good: tuple[onnx.ModelProto, Model]) -> None:
    check(*good)
    with pytest.raises(VerificationFailed, match="declared int8"):
        check(*good, precision="int8")


def test_other_tensors_than_declared_are_found(good: tuple[onnx.ModelProto, Model]) -> None:
    model, record = good
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    with pytest.raises(VerificationFailed, match="tensors"):
        check(model, record)


def test_weights_in_another_file_are_found(good: tuple[onnx.ModelProto, Model], tmp_path: Path) -> None:
    model, record = good
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(VerificationFailed):
        check(onnx.load(tmp_path / "model.onnx", load_external_data=False), record)


def test_an_invalid_graph_is_found(good: tuple[onnx.ModelProto, Model]) -> None:
    model, record = good
    del model.graph.node[5]
    with pytest.raises(VerificationFailed, match="not valid ONNX"):
        check(model, record)


@pytest.mark.parametrize(
    ("change", "passes"),
    [
        (lambda p: p + 5e-5, True),
        (lambda p: p + 2e-4, False),
        (lambda p: p[:, ::-1], False),
        (lambda p: np.where(np.arange(len(p))[:, None] == 2, np.nan, p), False),
    ],
    ids=["within", "beyond", "other classes", "not a number"],
)
def test_agreement_with_the_checkpoint(change: Any, passes: bool) -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), 9).astype(np.float32)
    if passes:
        check_fp32_agreement(probabilities, change(probabilities))
        return
    with pytest.raises(VerificationFailed, match="of 9 validation images"):
        check_fp32_agreement(probabilities, change(probabilities))


def test_a_class_that_flips_within_the_tolerance_is_found() -> None:
    before = np.array([[0.50001, 0.49999]], np.float32)
    with pytest.raises(VerificationFailed, match="1 other classes"):
        check_fp32_agreement(before, before[:, ::-1])

"""Accuracy: against scikit-learn, and against cases computed by hand."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx.parser
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, precision_score, recall_score

from tlexport.accuracy import ECE_BINS, Probabilities, Scores, probabilities, score
from tlexport.api.evaluate import Evaluated
from tlexport.ports import RunOptions, Silent, Task
from tlexport.report.training import confused
from tlexport.runtimes import onnxruntime
from tlexport.train.plots import plot_confusion

NAMES = ("a", "b", "c", "d")


def outputs_and_labels(seed: int, count: int) -> tuple[Probabilities, list[int]]:
    """Probabilities that are right more often than not; one class is never true, another never predicted."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, len(NAMES) - 1, count)
    logits = random.normal(size=(count, len(NAMES))) + 2 * np.eye(len(NAMES))[labels]
    logits[:, 0] -= 100
    exponents = np.exp(logits)
    return (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32), labels.tolist()


@given(st.integers(0, 2**32), st.integers(1, 200))
def test_scores_are_scikit_learns(seed: int, count: int) -> None:
    outputs, labels = outputs_and_labels(seed, count)
    scores = score(outputs, labels, NAMES)
    predicted, indices = outputs.argmax(axis=1), list(range(len(NAMES)))
    assert scores.n == count
    assert scores.top1 == pytest.approx(accuracy_score(labels, predicted))
    np.testing.assert_array_equal(scores.confusion, confusion_matrix(labels, predicted, labels=indices))
    recall = recall_score(labels, predicted, labels=indices, average=None, zero_division=np.nan)
    precision = precision_score(labels, predicted, labels=indices, average=None, zero_division=np.nan)
    table = scores.per_class()
    assert list(table) == list(NAMES)
    for index, row in enumerate(table.values()):
        assert row["n"] == labels.count(index)
        for ours, theirs in ((row["recall"], recall[index]), (row["precision"], precision[index])):
            assert (ours is None) == bool(np.isnan(theirs))
            assert ours is None or ours == pytest.approx(theirs, abs=1e-6)


def two_classes(confidences: list[float]) -> Probabilities:
    return np.array([[value, 1 - value] for value in confidences], dtype=np.float32)


def test_calibration_error_of_a_case_worked_out_by_hand() -> None:
    # the first class is predicted each time. Bins are 1/15 wide: 0.62 and 0.64 share the tenth (0.6 to 0.667), 0.69 has the next
    outputs = two_classes([0.62, 0.64, 0.69, 1.0])
    # tenth: half are right at a mean confidence of 0.63, a gap of 0.13; next: right at 0.69, a gap of 0.31; last: no gap
    assert score(outputs, [0, 1, 0, 0], ("a", "b")).ece == pytest.approx(0.5 * 0.13 + 0.25 * 0.31, abs=1e-6)


@pytest.mark.parametrize(("labels", "expected"), [([0, 0, 0], 0.0), ([1, 1, 1], 1.0), ([0, 0, 1], 1 / 3)])
def test_calibration_error_of_full_confidence(labels: list[int], expected: float) -> None:
    assert score(two_classes([1.0, 1.0, 1.0]), labels, ("a", "b")).ece == pytest.approx(expected)


@given(st.integers(0, 2**32), st.integers(1, 200))
def test_calibration_error_is_between_the_overall_gap_and_one(seed: int, count: int) -> None:
    outputs, labels = outputs_and_labels(seed, count)
    scores = score(outputs, labels, NAMES)
    # by the triangle inequality, binning can only add to the gap between mean confidence and accuracy
    assert abs(scores.top1 - float(outputs.max(axis=1).mean())) - 1e-6 <= scores.ece <= 1
    assert ECE_BINS > 1


# --- running a model over images ----------------------------------------------------------------------------------------------

MODEL = """
<ir_version: 8, opset_import: ["": 17]>
classifier ({dtype}[{batch},8,8,3] image) => (float[{batch},3] probabilities) {{
  pixels = Cast<to=1>(image)
  means = ReduceMean<axes=[1,2], keepdims=0>(pixels)
  probabilities = Softmax<axis=-1>(means)
}}
"""


class Counting(Silent):
    """A Progress that keeps how far the bar moved."""

    def __init__(self) -> None:
        self.moves: list[int] = []
        self.total = 0

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Task]:
        self.total = total
        yield lambda advance, text="": self.moves.append(advance)


@pytest.mark.parametrize(("batch", "dtype"), [("batch", "uint8"), ("batch", "float"), ("4", "uint8"), ("1", "float"), ("16", "uint8")])
def test_every_image_is_run_once_whatever_the_batch(batch: str, dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx.parser.parse_model(MODEL.format(batch=batch, dtype=dtype)).SerializeToString())
    pixels = np.random.default_rng(0).integers(0, 255, (10, 8, 8, 3), dtype=np.uint8)
    means = pixels.mean(axis=(1, 2))
    exponents = np.exp(means - means.max(axis=1, keepdims=True))
    progress = Counting()
    with onnxruntime.open_model(path, RunOptions()) as runner:
        found = probabilities(runner, pixels, 3, progress, "testing")
    np.testing.assert_allclose(found, exponents / exponents.sum(axis=1, keepdims=True), atol=1e-5)
    assert sum(progress.moves) == progress.total == len(pixels)


def test_thousands_of_classes_stay_small(tmp_path: Path) -> None:
    names = tuple(f"class {index}" for index in range(3000))
    confusion = np.zeros((3000, 3000), dtype=np.int64)
    confusion[np.arange(3000), np.arange(3000)] = 2
    confusion[5, 7], confusion[9, 5] = 3, 1
    whole = confusion.nbytes
    tracemalloc.start()
    try:
        answer = Evaluated(Path("x"), "torch", "cpu", "val", Scores(6004, 0.9, 0.1, confusion, names)).to_json()
        pairs = [(pair.true, pair.predicted, pair.n) for pair in confused(confusion, names)]
        plot_confusion(confusion, names, tmp_path / "confusion.png")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert pairs == [("class 5", "class 7", 3), ("class 9", "class 5", 1)]
    assert answer["confusion"] is None
    assert len(answer["confusion_counts"]) == 3002  # type: ignore[arg-type]
    assert [5, 7, 3] in answer["confusion_counts"]  # type: ignore[operator]
    assert (tmp_path / "confusion.png").stat().st_size > 1000
    assert peak < 3 * whole

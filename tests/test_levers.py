"""Exports where no precision fits: a smaller network for the size, smaller images for the latency."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from exports import Notes, exported, tree

from tlexport.api.export import Exported, export
from tlexport.api.verify import verify
from tlexport.artifact import Mixed, Sensitivity
from tlexport.bundle.manifest import read_manifest
from tlexport.checkpoint import read_checkpoint
from tlexport.cli.export import _show_models
from tlexport.errors import OverBudget
from tlexport.export.sensitivity import PLOT, TABLE, write_sensitivity
from tlexport.hardware.target import resolve
from tlexport.optimize import budget_fallbacks as fallbacks
from tlexport.plan import Constraints

BOARD = "raspberry-pi-5"  # is not here: latencies are estimated, so that what follows does not depend on this machine


@pytest.fixture(scope="module")
def smaller(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Exported, list[str], int]:
    """An export to half the size of INT8, with its notes and the limit."""
    limit = exported(checkpoint, BOARD).manifest.model("int8").size_bytes // 2
    notes = Notes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fallbacks, "MAX_EPOCHS", 2)
        out = tmp_path_factory.mktemp("smaller") / "bundle"
        made = export(checkpoint, resolve(BOARD), Constraints(max_size_bytes=limit, max_drop_points=100.0), out, progress=notes)
    return made, notes.texts, limit


def test_a_network_is_made_smaller_where_the_size_asks_for_it(smaller: tuple[Exported, list[str], int], checkpoint: Path) -> None:
    made, notes, limit = smaller
    chosen = made.manifest.model()
    assert (chosen.artifact.precision, chosen.file) == ("int8", "model.int8.onnx")
    assert (made.path / chosen.file).stat().st_size == chosen.size_bytes <= limit
    shrunk = chosen.artifact.shrunk
    assert shrunk is not None
    assert shrunk.epochs == 2
    tensors = onnx.load(made.path / chosen.file).graph.initializer
    weights = sum(np.prod(tensor.dims) for tensor in tensors if tensor.data_type == onnx.TensorProto.INT8)
    assert 0.8 * shrunk.parameters < weights < shrunk.parameters_before / 2
    assert any("pruning and retraining the network" in note for note in notes)
    [rejected] = [found for found in made.manifest.rejected if found.what == "of the whole network"]
    assert rejected.size_bytes == exported(checkpoint, BOARD).manifest.model("int8").size_bytes > limit
    assert "size" in rejected.reason
    assert made.manifest.model("fp32").artifact.shrunk is None  # the reference stays
    assert all(check.ok for check in verify(made.path))


def test_the_table_shows_what_was_rejected_and_why(smaller: tuple[Exported, list[str], int], capsys: pytest.CaptureFixture[str]) -> None:
    made, _, _ = smaller
    _show_models(made)
    shown = capsys.readouterr().out
    assert "* int8 smaller" in shown
    assert "- int8 of the whole network" in shown
    assert "int8 of the whole network: rejected, size" in shown
    assert f"of {made.manifest.model().artifact.shrunk.parameters_before:,} parameters" in shown  # type: ignore[union-attr] -- the test before


def test_a_size_that_no_network_has_is_refused_before_it_is_trained(checkpoint: Path, tmp_path: Path) -> None:
    notes = Notes()
    with pytest.raises(OverBudget) as error:
        export(checkpoint, resolve(BOARD), Constraints(max_size_bytes=20_000, max_drop_points=100.0), tmp_path / "bundle", progress=notes)
    assert "20.00 kB" in error.value.message
    assert "nearest is int8" in error.value.hint
    assert any("cannot be pruned to that size" in note for note in notes.texts)
    assert not (tmp_path / "bundle").exists()


def test_images_are_made_smaller_where_the_latency_asks_for_it(checkpoint: Path, tmp_path: Path) -> None:
    before = exported(checkpoint, BOARD).manifest
    least = min(m.estimate.p50_ms for m in before.models if m.estimate)
    constraints = Constraints(max_latency_ms=0.97 * least, max_drop_points=100.0)
    made = export(checkpoint, resolve(BOARD), constraints, tmp_path / "bundle").manifest
    size = read_checkpoint(checkpoint).preprocess.size
    chosen = made.model()
    assert chosen.estimate is not None
    assert chosen.estimate.p50_ms <= 0.97 * least
    assert made.preprocess.size < size
    assert made.preprocess == chosen.artifact.preprocess
    assert chosen.artifact.inputs[0].shape == ("batch", made.preprocess.size, made.preprocess.size, 3)
    assert {found.what for found in made.rejected} >= {f"at {size} px"}
    assert made.checkpoint_top1 == before.checkpoint_top1  # the drop is relative to the whole image
    assert all(check.ok for check in verify(tmp_path / "bundle"))


def test_a_latency_that_no_image_size_reaches_is_refused_at_once(checkpoint: Path, tmp_path: Path) -> None:
    notes = Notes()
    with pytest.raises(OverBudget) as error:
        export(checkpoint, resolve(BOARD), Constraints(max_latency_ms=0.001, max_drop_points=100.0), tmp_path / "bundle", progress=notes)
    assert "latency" in error.value.message
    assert not any("reducing the images" in note for note in notes.texts)


# --- the ranking of blocks --------------------------------------------------------------------------------------------


def test_the_ranking_is_a_table_and_a_plot(checkpoint: Path, tmp_path: Path) -> None:
    artifact = exported(checkpoint, BOARD).manifest.model("int8").artifact
    ranking = tuple(Sensitivity(block=f"node_{n}", divergence=0.5 / (n + 1)) for n in range(5))
    mixed = artifact.model_copy(update={"mixed": Mixed(ranking=ranking, kept=("node_0", "node_1"), top1=0.9)})
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_sensitivity(tmp_path / name, mixed)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert sorted(tree(tmp_path / "one")) == [TABLE, PLOT]
    rows = [line.split(" | ") for line in (tmp_path / "one" / TABLE).read_text().splitlines() if line.startswith("| `")]
    assert [row[0].strip("| `") for row in rows] == [f"node_{n}" for n in range(5)]
    assert [row[2].strip(" |") for row in rows] == ["float", "float", "INT8", "INT8", "INT8"]
    assert (tmp_path / "one" / PLOT).read_text().count("<svg") == 1


def test_a_model_without_a_ranking_has_neither(checkpoint: Path, tmp_path: Path) -> None:
    write_sensitivity(tmp_path, exported(checkpoint, BOARD).manifest.model("int8").artifact)
    assert not list(tmp_path.iterdir())
    assert not {TABLE, PLOT} & set(read_manifest(exported(checkpoint, BOARD).path).files)

"""The verb ``export``: refusals, and bundles that are written completely or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exports import PROFILES, tree

from tlexport.api.export import export
from tlexport.bundle.manifest import MANIFEST, Manifest, read_manifest
from tlexport.checkpoint import DATASET, RECORD, read_dataset
from tlexport.errors import InvalidFile, OverBudget, StepFailed, TlxError, Unsupported, UsageError, VerificationFailed
from tlexport.export.write_bundle import GoldenImages, write_bundle
from tlexport.hardware.board_rates import BoardRates, Conditions, Rates
from tlexport.hardware.target import Target, resolve
from tlexport.optimize.cost_on_target import plan
from tlexport.plan import Constraints

# --- what is refused --------------------------------------------------------------------------------------------------


def copy_with_images(checkpoint: Path, digits: Path, base: Path) -> tuple[Path, Path]:
    """A copy of the checkpoint and of its data, which the copy points to, and one validation image of that."""
    shutil.copytree(checkpoint, base / "checkpoint")
    shutil.copytree(digits, base / "data")
    record = base / "checkpoint" / DATASET
    data = json.loads(record.read_text(encoding="utf-8")) | {"root": str(base / "data")}
    record.write_text(json.dumps(data), encoding="utf-8")
    return base / "checkpoint", base / "data" / read_dataset(checkpoint).part("val")[0].path


def refused(kind: type[TlxError], *arguments: Any, **options: Any) -> TlxError:
    with pytest.raises(kind) as error:
        export(*arguments, **options)
    return error.value


@pytest.mark.parametrize("change", ["missing", "changed", "moved"])
def test_images_that_are_not_those_of_the_training_are_refused(checkpoint: Path, digits: Path, tmp_path: Path, change: str) -> None:
    copy, image = copy_with_images(checkpoint, digits, tmp_path)
    if change == "missing":
        image.unlink()
    elif change == "changed":
        image.write_bytes(next(path for path in sorted(image.parent.iterdir()) if path != image).read_bytes())
    else:
        shutil.move(tmp_path / "data", tmp_path / "elsewhere")
    error = refused(InvalidFile, copy, resolve("jetson-nano"), Constraints(), tmp_path / "out")
    assert image.name in error.message
    count = len(read_dataset(checkpoint).part("val"))
    assert error.message.startswith(f"{count if change == 'moved' else 1} of {count} ")
    assert "--data" in error.hint
    assert not (tmp_path / "out").exists()


def test_a_precision_that_the_board_lacks_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    error = refused(Unsupported, checkpoint, resolve("jetson-nano"), Constraints(precision="int8"), tmp_path / "out")
    assert "int8" in error.message
    assert "--precision" in error.hint
    assert not list(tmp_path.iterdir())


def test_over_budget_names_the_limit_and_the_nearest_and_writes_nothing(checkpoint: Path, tmp_path: Path) -> None:
    constraints = Constraints(precision="fp16", max_size_bytes=1_000)
    error = refused(OverBudget, checkpoint, resolve("jetson-nano"), constraints, tmp_path / "deep" / "out")
    assert "size" in error.message
    assert "1.00 kB" in error.message
    assert "nearest is fp16" in error.hint
    assert not list(tmp_path.iterdir())


def with_figures(name: str, here: bool, latency: tuple[BoardRates, ...]) -> Target:
    """A profile with these published figures and no others."""
    found = resolve(name)
    return Target(found.profile.model_copy(update={"latency": latency, "calibration": ()}), found.file, here, "")


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("here", [True, False])
@pytest.mark.parametrize("limit", ["latency", "memory"])
def test_a_limit_that_can_neither_be_measured_nor_estimated_is_refused(profile: str, here: bool, limit: str) -> None:
    """The limit is neither dropped silently nor compared with figures of another machine or runtime."""
    target = with_figures(profile, here, ())
    constraints = Constraints(max_latency_ms=5.0) if limit == "latency" else Constraints(max_memory_bytes=50_000_000)
    if here and target.profile.runtime == "onnxruntime":
        assert any(step.action == "measure" for step in plan(target, constraints))
        return
    assert not [step for step in plan(target, Constraints()) if step.action in ("measure", "estimate")]
    with pytest.raises(Unsupported, match=f"--max-{limit} cannot be checked for {target.profile.target}") as error:
        plan(target, constraints)
    assert "no latency is published" in error.value.message
    assert ("run.py build" if target.profile.runtime == "tensorrt" else "tlx bench") in error.value.hint


@pytest.mark.parametrize("profile", PROFILES)
def test_what_is_not_measured_is_estimated_where_there_are_figures(profile: str) -> None:
    known = resolve(profile).profile
    rates = dict.fromkeys(Rates.model_fields, 1.0)
    figures = BoardRates(
        board=profile,
        runtime=known.runtime,
        precision="fp32",
        threads=None if known.runtime == "tensorrt" or known.device else 1,
        per_ns=Rates(**rates),
        launch_us=1.0,
        interval=1.5,
        at=Conditions(),
        rows=1,
        date="2026-01-31",
        source="the test that made it up",
    )
    steps = plan(with_figures(profile, False, (figures,)), Constraints(max_latency_ms=5.0, max_memory_bytes=50_000_000))
    assert [step.precision for step in steps if step.action == "estimate"] == [s.precision for s in steps if s.action == "check"]
    assert not [step for step in steps if step.action == "measure"]


def foreign(folder: Path) -> None:
    (folder / "thesis.tex").write_text("years of work", encoding="utf-8")


def web_page(folder: Path) -> None:
    """Web applications have a manifest.json as well."""
    (folder / MANIFEST).write_text('{"name": "My page", "icons": []}', encoding="utf-8")


def other_checkpoint(folder: Path) -> None:
    (folder / RECORD).write_text("{}", encoding="utf-8")


@pytest.mark.parametrize("fill", [foreign, web_page, other_checkpoint])
def test_what_is_not_a_bundle_is_not_replaced(checkpoint: Path, bundle: Path, tmp_path: Path, fill: Any) -> None:
    out = tmp_path / "out"
    out.mkdir()
    fill(out)
    before = tree(tmp_path)
    error = refused(UsageError, checkpoint, resolve("jetson-nano"), Constraints(), out)
    assert str(out) in error.message
    assert "--out" in error.hint
    with pytest.raises(UsageError):
        write(bundle, out)
    assert tree(tmp_path) == before


def test_the_checkpoint_is_not_replaced_by_its_bundle(checkpoint: Path) -> None:
    before = tree(checkpoint)
    refused(UsageError, checkpoint, resolve("jetson-nano"), Constraints(), checkpoint)
    assert tree(checkpoint) == before


def test_a_file_is_not_replaced(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file", encoding="utf-8")
    refused(UsageError, checkpoint, resolve("jetson-nano"), Constraints(), tmp_path / "out")
    assert (tmp_path / "out").read_text(encoding="utf-8") == "a file"


def test_weights_that_were_changed_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "checkpoint")
    with (tmp_path / "checkpoint" / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x55")
    refused(VerificationFailed, tmp_path / "checkpoint", resolve("jetson-nano"), Constraints(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- writing ----------------------------------------------------------------------------------------------------------


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The file system refuses what grows beyond so many bytes, as a full disk would."""
    resource = pytest.importorskip("resource", reason="no limits on this system")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write(bundle: Path, out: Path) -> Manifest:
    """The same bundle once more."""
    manifest = read_manifest(bundle)
    golden = GoldenImages(tuple(bundle / name for name in manifest.golden.images), np.load(bundle / manifest.golden.inputs))
    answers = [np.load(bundle / model.golden_outputs) for model in manifest.models]
    return write_bundle(out, manifest, [bundle / model.file for model in manifest.models], golden, answers)


def test_a_full_disk_leaves_the_old_bundle(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(bundle, out)
    (out / "mark").write_text("the old one", encoding="utf-8")
    before = tree(tmp_path)
    smallest = min(model.artifact.size_bytes for model in read_manifest(bundle).models)
    with largest_file(smallest), pytest.raises(StepFailed, match="cannot write"):
        write(bundle, out)
    assert tree(tmp_path) == before


def test_a_bundle_written_again_is_the_same(bundle: Path, tmp_path: Path) -> None:
    manifest = write(bundle, tmp_path / "out")
    assert manifest == read_manifest(bundle)
    assert tree(tmp_path / "out") == tree(bundle)


def test_a_link_stays_and_what_it_leads_to_is_replaced(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "real")
    (tmp_path / "real" / "mark").write_text("the old one", encoding="utf-8")
    (tmp_path / "latest").symlink_to("real")
    write(bundle, tmp_path / "latest")
    assert (tmp_path / "latest").readlink() == Path("real")
    assert {path.name for path in tmp_path.iterdir()} == {"real", "latest"}
    assert tree(tmp_path / "real") == tree(bundle)

"""The verb ``bench``: measurements of every model, refusals, and the comparison with the budget."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from exports import Notes, exported

from tlexport.api.bench import BenchSettings, bench, check_budget
from tlexport.bundle.manifest import MANIFEST, Manifest, read_manifest
from tlexport.checkpoint import read_checkpoint
from tlexport.errors import OverBudget, Unsupported, UsageError, VerificationFailed
from tlexport.hardware.target import load_profile, profile_path, resolve
from tlexport.measurement import Measurement
from tlexport.storage.files import sha256_of

QUICK = BenchSettings(device="cpu", threads=1, min_runs=20, min_seconds=0.0)


@pytest.fixture(scope="module")
def measured(bundle: Path) -> list[Measurement]:
    return bench(bundle, QUICK)


@pytest.fixture
def here(bundle: Path) -> None:
    if not resolve(read_manifest(bundle).target).here:
        pytest.skip(f"this machine is not a {read_manifest(bundle).target}, so there is no budget to hold it against")


# --- what is measured -------------------------------------------------------------------------------------------------


def test_a_bundle_gives_a_measurement_of_each_model(bundle: Path, measured: list[Measurement]) -> None:
    models = read_manifest(bundle).models
    assert [m.precision for m in measured] == [model.artifact.precision for model in models]
    for m, model in zip(measured, models, strict=True):
        assert (m.artifact_sha256, m.size_bytes) == (sha256_of(bundle / model.file), (bundle / model.file).stat().st_size)
        assert (m.runtime, m.provider, m.threads, m.batch) == ("onnxruntime", "CPUExecutionProvider", 1, 1)
        assert len(m.latencies_ns) >= QUICK.min_runs
        assert 0 < m.percentile_ms(50) <= m.percentile_ms(95) <= m.percentile_ms(99)
        assert m.load_ns > 0
        assert m.peak_memory_bytes > m.size_bytes  # the weights are in memory
        assert any(name.startswith("onnxruntime") for name in m.environment.versions)


def test_every_model_is_timed_from_the_image_file_on(bundle: Path, measured: list[Measurement]) -> None:
    images = len(read_manifest(bundle).golden.images)
    for m in measured:
        assert m.stages is not None
        assert m.stages.images == images <= len(m.stages.decode_ns) == len(m.stages.infer_ns)
        assert m.stages.medians_ms()["total"] >= m.stages.medians_ms()["infer"]
        assert (m.inputs, set(m.placement or {})) == ("real images", {"CPUExecutionProvider"})
        assert m.first_inference_ns
        assert m.watch is not None and m.watch["readings"]


def test_the_images_of_a_bundle_that_was_changed_are_not_timed(bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    image = copy / read_manifest(bundle).golden.images[0]
    image.write_bytes(image.read_bytes() + b"\0")
    with pytest.raises(VerificationFailed, match=image.name):
        bench(copy, QUICK)


def test_the_shapes_of_our_models_are_known(bundle: Path) -> None:
    with pytest.raises(UsageError, match="--shape is for external models"):
        bench(bundle, replace(QUICK, shapes={"image": (1, 8, 8, 3)}))


def test_json_holds_what_the_command_line_promises(measured: list[Measurement]) -> None:
    data = json.loads(json.dumps(measured[0].to_json()))
    assert {"what", "runtime", "provider", "threads", "batch", "latency_ms", "throughput_per_s", "size_bytes"} <= set(data)
    assert {"peak_memory_bytes", "load_ms", "environment"} <= set(data)
    assert {"mean", "p50", "p90", "p95", "p99", "n"} <= set(data["latency_ms"])


def test_one_model_with_several_images_at_a_time(bundle: Path) -> None:
    [by_file] = bench(bundle / "model.int8.onnx", replace(QUICK, batch=3))
    assert (by_file.precision, by_file.batch) == ("int8", 3)
    assert by_file.throughput_per_s == pytest.approx(3e3 / by_file.mean_ms)


def test_a_checkpoint_runs_in_torch(checkpoint: Path) -> None:
    [m] = bench(checkpoint, QUICK)
    assert (m.runtime, m.provider, m.precision) == ("torch", "torch-cpu", "fp32")
    assert m.artifact_sha256 == read_checkpoint(checkpoint).weights_sha256
    assert len(m.latencies_ns) >= QUICK.min_runs


# --- what is not ------------------------------------------------------------------------------------------------------


def test_a_tensorrt_int8_graph_is_not_timed_on_a_cpu(checkpoint: Path) -> None:
    made = exported(checkpoint, "jetson-orin-nano")
    file = made.path / made.manifest.model("int8").file
    for arguments in ({"what": made.path, "precisions": ["int8"]}, {"what": made.path, "precisions": ["fp32", "int8"]}, {"what": file}):
        with pytest.raises(Unsupported, match="TensorRT"):
            bench(settings=QUICK, **arguments)  # type: ignore[arg-type]


def test_it_is_left_out_of_a_bundle_and_that_is_told(checkpoint: Path) -> None:
    made, notes = exported(checkpoint, "jetson-orin-nano"), Notes()
    assert [m.precision for m in bench(made.path, QUICK, progress=notes)] == ["fp32", "fp16"]
    assert any("INT8" in text and "TensorRT" in text for text in notes.texts)


@pytest.mark.parametrize("runtime", ["torch", "tensorflow"])
def test_a_runtime_that_cannot_open_it(bundle: Path, runtime: str) -> None:
    with pytest.raises(Unsupported if runtime == "torch" else UsageError, match=runtime):
        bench(bundle, replace(QUICK, runtime=runtime))


def test_another_precision_than_the_file_has(bundle: Path) -> None:
    with pytest.raises(UsageError, match="fp16"):
        bench(bundle / "model.fp32.onnx", QUICK, precisions=["fp16"])


@pytest.mark.parametrize("name", ["model.fp32.onnx", "golden/inputs.npy"])
def test_a_bundle_that_was_changed_is_not_measured(bundle: Path, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    (copy / name).write_bytes((copy / name).read_bytes() + b"\0")
    with pytest.raises(VerificationFailed, match=name.rpartition("/")[2]) as error:
        bench(copy, QUICK)
    assert "tlx verify" in error.value.hint


# --- the budget -------------------------------------------------------------------------------------------------------


def changed(bundle: Path, folder: Path, **changes: Any) -> Path:
    """A bundle of which only the manifest is there, with keys of its profile replaced: all that the budget needs."""
    manifest = read_manifest(bundle)
    profile = manifest.profile.model_dump()
    profile |= {key: profile[key] | value if isinstance(value, dict) else value for key, value in changes.items()}
    data = manifest.model_dump() | {"profile": profile, "target": profile["name"]}
    Manifest.parse(data, "changed").write(folder / MANIFEST)
    return folder


@pytest.mark.usefixtures("here")
def test_a_bundle_within_its_budget(bundle: Path, measured: list[Measurement], tmp_path: Path) -> None:
    wide = changed(bundle, tmp_path, budget={"size": "1 GB", "latency_p95": "60 s", "memory": "1000 GB"})
    check_budget(wide, measured)
    with pytest.raises(OverBudget):  # the same but for one limit
        check_budget(changed(bundle, tmp_path, budget={"latency_p95": "1 ns"}), measured)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("key", "limit", "word"), [("size", "1 kB", "size"), ("latency_p95", "1 ns", "p95 latency"), ("memory", "1 MB", "memory")]
)
def test_an_impossible_budget_names_the_limit(
    bundle: Path, measured: list[Measurement], tmp_path: Path, key: str, limit: str, word: str
) -> None:
    tight = changed(bundle, tmp_path, budget={"size": None, "latency_p95": None, "memory": None} | {key: limit})
    with pytest.raises(OverBudget) as error:
        check_budget(tight, measured)
    assert f": {word} " in error.value.message
    assert ";" not in error.value.message  # no other limit


@pytest.mark.usefixtures("here")
def test_the_chosen_model_must_have_been_measured(bundle: Path, measured: list[Measurement]) -> None:
    chosen = read_manifest(bundle).model().artifact.sha256
    with pytest.raises(UsageError, match="was not measured"):
        check_budget(bundle, [m for m in measured if m.artifact_sha256 != chosen])


@pytest.mark.usefixtures("here")
def test_the_budget_is_for_one_image_at_a_time(bundle: Path, measured: list[Measurement]) -> None:
    with pytest.raises(UsageError, match="one image"):
        check_budget(bundle, [m.model_copy(update={"batch": 8}) for m in measured])


@pytest.mark.usefixtures("here")
def test_the_profile_in_the_bundle_counts_not_one_of_its_name(bundle: Path, measured: list[Measurement], tmp_path: Path) -> None:
    wide = {"size": "1 GB", "latency_p95": "60 s", "memory": "1000 GB"}
    check_budget(changed(bundle, tmp_path, name="of-a-file-elsewhere", budget=wide), measured)
    with pytest.raises(Unsupported, match="of-a-file-elsewhere"):
        check_budget(changed(bundle, tmp_path, name="of-a-file-elsewhere", match={"device_tree": "no such board"}), measured)


@pytest.mark.usefixtures("here")
def test_the_budget_of_a_gpu_is_not_met_by_the_cpu(bundle: Path, measured: list[Measurement], tmp_path: Path) -> None:
    assert {m.provider for m in measured} == {"CPUExecutionProvider"}
    with pytest.raises(Unsupported, match="CPUExecutionProvider was measured, and the budget is for a GPU") as error:
        check_budget(changed(bundle, tmp_path, device="cuda", match={"device_tree": None}), measured)
    assert "--device cuda" in error.value.hint
    with pytest.raises(Unsupported, match="CUDAExecutionProvider was measured, and the budget is for the CPU"):
        check_budget(bundle, [m.model_copy(update={"provider": "CUDAExecutionProvider"}) for m in measured])


def test_the_budget_of_another_machine(checkpoint: Path, measured: list[Measurement]) -> None:
    made = exported(checkpoint, "jetson-orin-nano")
    with pytest.raises(Unsupported, match="jetson-orin-nano"):
        check_budget(made.path, measured)


@pytest.mark.usefixtures("here")
def test_the_budget_of_an_engine_is_not_met_by_onnx_runtime(
    checkpoint: Path, bundle: Path, measured: list[Measurement], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a Jetson itself: a profile of this very machine whose runtime is TensorRT."""
    made = exported(checkpoint, "jetson-orin-nano")
    text = profile_path(made.manifest.target).read_text(encoding="utf-8")
    machine = read_manifest(bundle).profile.match.machine
    for old, new in (("name = .*", 'name = "my-board"'), ("device_tree = .*", ""), ("machine = .*", f'machine = "{machine}"')):
        text = re.sub(f"^{old}$", new, text, count=1, flags=re.MULTILINE)
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "my-board.toml").write_text(text, encoding="utf-8")
    monkeypatch.setenv("TLX_PROFILES", str(tmp_path / "profiles"))
    profile = load_profile("my-board")
    assert resolve("my-board").here
    ours = changed(made.path, tmp_path, **profile.model_dump(include={"name", "match"}))
    chosen = made.manifest.model().artifact
    with pytest.raises(Unsupported, match="tensorrt"):
        check_budget(ours, [measured[0].model_copy(update={"artifact_sha256": chosen.sha256})])

"""The main workflow on the command line: files, streams, exit codes, interruption."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import images
import pytest
from commands import HASTY, Ended, here, process, start, tree

from tlexport.bundle.manifest import read_manifest
from tlexport.checkpoint import RECIPE, RECORD, Checkpoint, read_checkpoint
from tlexport.hardware.target import resolve
from tlexport.recipe import Recipe, read_toml

BASE = ("--weights", "embedded", "--val-fraction", "0.25")
LATENCY = {"mean", "p50", "p90", "p95", "p99", "n"}
POSIX = pytest.mark.skipif(os.name != "posix", reason="signals and pseudo-terminals are those of POSIX")


@pytest.fixture(scope="module")
def flow(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """A directory in which `tlx finetune` was run as a program, and how that ended."""
    work = tmp_path_factory.mktemp("flow")
    return work, process("finetune", digits, *BASE, "--epochs", "3", "--threads", "1", cwd=work)


@pytest.fixture
def work(flow: tuple[Path, Ended], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand where the flow is."""
    monkeypatch.chdir(flow[0])
    return flow[0]


def runs(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "runs").iterdir())


def answer(ended: Ended) -> Any:
    """The JSON on standard output, which holds nothing else."""
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


# --- finetune ---------------------------------------------------------------------------------------------------------------


def test_without_a_cache_the_same_weights_come_out(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TLX_CACHE", str(tmp_path / "cache"))
    asked = (digits, *BASE, "--epochs", "2", "--threads", "1", "--augment", "light", "-q", "--json")
    made = {}
    for name, cache in (("off", "off"), ("first", "on"), ("again", "on")):
        assert here(capfd, "finetune", *asked, "--cache", cache, "--out", tmp_path / name).code == 0
        made[name] = read_checkpoint(tmp_path / name)
        assert (tmp_path / "cache" / "arrays").is_dir() == (cache == "on")
    assert made["off"].weights_sha256 == made["first"].weights_sha256 == made["again"].weights_sha256
    assert made["off"].metrics == made["first"].metrics == made["again"].metrics


def test_finetune_ends_with_the_path_of_the_checkpoint(flow: tuple[Path, Ended]) -> None:
    folder, ended = flow
    assert ended.code == 0, ended.err
    path = folder / ended.out.splitlines()[-1]
    assert path == folder / "runs" / "mobilenet_v3_small-1"
    assert (folder / "runs" / "latest").resolve() == path.resolve()
    assert {RECORD, RECIPE, "model.safetensors", "history.jsonl", "curves.png", "confusion.png"} <= {file.name for file in path.iterdir()}
    checkpoint = read_checkpoint(path)
    assert f"validation top-1 {100 * checkpoint.metrics['val_top1']:.2f} % of 30 images" in ended.out
    assert [line.split()[:2] for line in ended.out.splitlines()[1:11]] == [[str(digit), "3"] for digit in range(10)]
    assert f"{checkpoint.frozen.parameters:,} of {checkpoint.frozen.total_parameters:,} parameters" in ended.err


def test_what_is_piped_holds_no_control_characters(flow: tuple[Path, Ended]) -> None:
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", flow[1].out + flow[1].err)


def test_finetune_in_json(work: Path, digits: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = ("--strategy", "partial", "--freeze", "stage4", "--epochs", "2", "--out", "runs/mine", "-q", "--json")
    ended = here(capfd, "finetune", digits, *BASE, *options)
    found = answer(ended)
    assert ended.err == ""
    assert found["checkpoint"] == "runs/mine"
    assert (work / "runs" / "latest").resolve() == (work / "runs" / "mine").resolve()
    checkpoint = read_checkpoint(Path(found["checkpoint"]))
    assert found["metrics"] == checkpoint.metrics
    assert 0 <= found["metrics"]["val_top1"] <= 1
    assert found["seconds"] > 0
    stages = answer(here(capfd, "backbones", "mobilenet_v3_small", "--json"))["stages"]
    frozen = stages[: [stage["name"] for stage in stages].index("stage4") + 1]
    assert found["frozen"] == {
        "stages": [stage["name"] for stage in frozen],
        "parameters": sum(stage["parameters"] for stage in frozen),
    }


def test_a_recipe_with_options_over_it(work: Path, digits: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    asked = {"weights": "embedded", "epochs": 3, "lr": 0.002, "flip": False, "label_smoothing": 0.125, "background": [0, 0, 0], "seed": 5}
    recipe = tmp_path / "mine.toml"
    recipe.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in asked.items()), encoding="utf-8")
    options = ("--recipe", recipe, "--epochs", "1", "--seed", "7", "--out", tmp_path / "run", "--json")
    answer(here(capfd, "finetune", digits, *options))
    used = Recipe.read_toml(tmp_path / "run" / RECIPE)
    assert used == Recipe.parse(asked | {"epochs": 1, "seed": 7, "head": "trained"}, "the test")
    assert used == read_checkpoint(tmp_path / "run").recipe
    assert read_toml(tmp_path / "run" / RECIPE)["lr"] == 0.002
    assert len((tmp_path / "run" / "history.jsonl").read_text(encoding="utf-8").splitlines()) == 1


def test_a_run_is_kept_where_latest_cannot_point_at_it(
    digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "runs" / "latest" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("keep", encoding="utf-8")
    ended = here(capfd, "finetune", digits, *BASE, "--epochs", "1")
    assert ended.code == 0
    assert "note: runs/latest could not be pointed at runs/mobilenet_v3_small-1" in ended.err
    assert read_checkpoint(tmp_path / "runs" / "mobilenet_v3_small-1").metrics["epochs"] == 1
    assert runs(tmp_path) == ["latest", "mobilenet_v3_small-1"]
    assert mine.read_text(encoding="utf-8") == "keep"


def test_odd_images(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = images.class_folders(tmp_path / "data", {"plain": 60})
    images.write(data / "odd" / "deeper", images.good())
    bad = {name: images.bad()[name] for name in ("truncated.jpg", "empty.jpg", "text.jpg")}
    images.write(data / "odd", bad)
    images.write(data / "plain", {"readme.txt": b"no image", "Thumbs.db": b"none either"})
    options = ("--weights", "none", "--image-size", "32", "--epochs", "1", "--strategy", "full")
    ended = here(capfd, "finetune", data, *options, "--out", tmp_path / "run", "--json")
    found = answer(ended)
    notes = "\n".join(line for line in ended.err.splitlines() if line.startswith("note: "))
    assert "3 images cannot be read and were left out" in notes
    assert all(f"odd/{name}: " in notes for name in bad)
    assert [line for line in notes.splitlines() if "not images" in line] == [
        "note: left out 2 files that are not images by their names: .db (1), .txt (1)"
    ]
    assert found["metrics"]["val_images"] == round(0.2 * (60 + len(images.good())))
    strict = here(capfd, "finetune", data, *options, "--out", tmp_path / "strict", "--on-error", "fail", "--json")
    assert (strict.code, strict.out) == (2, "")
    assert all(f"odd/{name}: " in strict.err for name in bad)
    assert not (tmp_path / "strict").exists()


def test_quiet_and_verbose(work: Path, digits: Path, checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plain = here(capfd, "evaluate", checkpoint, digits, "--json")
    verbose = here(capfd, "evaluate", checkpoint, digits, "--json", "-v")
    quiet = here(capfd, "evaluate", checkpoint, digits, "--json", "-q")
    assert answer(plain) == answer(verbose) == answer(quiet)
    assert quiet.err == ""
    assert plain.err.startswith("note: 90 of 120 images were used to train")
    steps = [line for line in verbose.err.splitlines() if line not in plain.err.splitlines()]
    assert [re.sub(r"[\d.]+", "N", line) for line in steps] == ["reading images: N s", "evaluating: N s"]


# --- export, bench, verify, evaluate, predict -------------------------------------------------------------------------------


def test_export_for_this_machine_in_json(flow: tuple[Path, Ended]) -> None:
    folder, _ = flow
    source = (folder / "runs" / "latest").resolve()
    before = tree(source)
    ended = process("export", "--target", "cpu-x86", "--json", "-q", cwd=folder, program=HASTY)
    found = answer(ended)
    assert ended.err == ""
    assert tree(source) == before
    assert (found["bundle"], found["target"]) == (f"build/{source.name}-cpu-x86", "cpu-x86")
    manifest = read_manifest(folder / found["bundle"])
    assert [model["precision"] for model in found["models"]] == ["fp32", "fp16", "int8"]
    assert [model["precision"] for model in found["models"] if model["chosen"]] == [found["chosen"]]
    top1 = read_checkpoint(source).metrics["val_top1"]
    for model, record in zip(found["models"], manifest.models, strict=True):
        assert model["size_bytes"] == (folder / model["path"]).stat().st_size
        assert model["drop_points"] == pytest.approx(100 * (top1 - model["top1"]), abs=1e-4)
        assert model["reason"]
        assert model["chosen"] == record.chosen
        if resolve("cpu-x86").here:
            assert model["latency_ms"]["kind"] == "measured"
            assert 0 < model["latency_ms"]["p50"] <= model["latency_ms"]["p95"]
        else:
            assert model["latency_ms"] is None


def test_export_for_a_jetson(work: Path, checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if any(resolve(name).here for name in ("jetson-orin-nano", "jetson-agx-orin", "jetson-xavier-nx", "jetson-nano")):
        pytest.skip("this machine is a Jetson, and the test is of what others are told")
    ended = here(capfd, "export", checkpoint, "--target", "jetson", "--precision", "fp16", "-o", "for_jetson")
    assert ended.code == 0, ended.err
    assert "note: 'jetson' means jetson-orin-nano" in ended.err
    assert "no engine was built" in ended.err
    assert "python3 run.py setup" in ended.err
    assert ended.out.splitlines()[-1] == "for_jetson"
    manifest = read_manifest(Path("for_jetson"))
    assert (manifest.target, manifest.model().artifact.precision) == ("jetson-orin-nano", "fp16")
    assert not list(Path("for_jetson").glob("*.engine"))
    assert [line for line in ended.out.splitlines() if line.startswith("* fp16")]
    assert [line for line in ended.out.splitlines() if line.startswith("fp16: chosen, requested; within the budget")]
    assert re.search(r"^latency of (fp32, )?fp16: estimated for jetson-orin-nano, not measured: ", ended.out, re.MULTILINE)


def test_a_dry_run_says_what_would_be_done(work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = tree(work)
    text = here(capfd, "export", "--target", "jetson-nano", "--dry-run")
    steps = answer(here(capfd, "export", "--target", "jetson-nano", "--dry-run", "--json"))
    assert tree(work) == before
    assert [(step["action"], step["precision"]) for step in steps] == [
        ("convert", "fp32"),
        ("quantize", "fp16"),
        ("check", "fp32"),
        ("check", "fp16"),
        ("estimate", "fp32"),
        ("estimate", "fp16"),
        ("choose", None),
        ("write", None),
    ]
    for line, step in zip(text.out.splitlines(), steps, strict=True):
        assert line.split(". ", 1)[1] == " ".join(filter(None, (step["action"], step["precision"]))) + f": {step['reason']}"


def check_measurement(found: dict[str, Any], path: Path) -> None:
    """What cli.md promises of one measurement."""
    assert found["what"] == str(path)
    assert set(found["latency_ms"]) >= LATENCY
    assert found["latency_ms"]["p50"] <= found["latency_ms"]["p90"] <= found["latency_ms"]["p95"] <= found["latency_ms"]["p99"]
    assert found["throughput_per_s"] == pytest.approx(1000 * found["batch"] / found["latency_ms"]["mean"], rel=0.01)
    file = path / "model.safetensors" if path.is_dir() else path
    assert found["size_bytes"] == file.stat().st_size
    assert found["peak_memory_bytes"] > found["size_bytes"]
    assert found["load_ms"] > 0
    assert found["environment"]["cpu"]


def test_bench_of_all_models_of_a_bundle(bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = ("--threads", "1", "--batch", "3", "--runs", "10", "--seconds", "0", "--json")
    found = answer(here(capfd, "bench", bundle, *options))
    assert [measurement["precision"] for measurement in found] == ["fp32", "fp16", "int8"]
    for measurement in found:
        check_measurement(measurement, bundle / f"model.{measurement['precision']}.onnx")
        assert (measurement["runtime"], measurement["provider"]) == ("onnxruntime", "CPUExecutionProvider")
        assert (measurement["threads"], measurement["batch"], measurement["latency_ms"]["n"]) == (1, 3, 10)


def test_bench_of_one_file_and_of_a_checkpoint(bundle: Path, checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    few = ("--runs", "5", "--seconds", "0")
    check_measurement(answer(here(capfd, "bench", bundle / "model.int8.onnx", *few, "--json")), bundle / "model.int8.onnx")
    by_torch = answer(here(capfd, "bench", checkpoint, *few, "--device", "cpu", "--json"))
    check_measurement(by_torch, checkpoint)
    assert (by_torch["runtime"], by_torch["provider"]) == ("torch", "torch-cpu")
    text = here(capfd, "bench", bundle, "--precision", "int8", *few)
    assert text.code == 0
    assert text.out.startswith(f"{bundle}, batch 1, latency in ms")
    assert [line.split()[0] for line in text.out.splitlines()[2:3]] == ["int8"]
    assert "CPUExecutionProvider" in text.out


def test_verify(bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = tree(bundle)
    found = answer(here(capfd, "verify", bundle, "--json"))
    assert (found["bundle"], found["ok"]) == (str(bundle), True)
    assert all(check["ok"] for check in found["checks"])
    assert all(set(check) == {"name", "ok", "detail"} for check in found["checks"])
    names = [check["name"] for check in found["checks"]]
    assert {"hash labels.txt", "decode and resize", "golden fp32", "golden fp16", "golden int8"} <= set(names)
    text = here(capfd, "verify", bundle)
    assert (text.code, text.err) == (0, "")
    assert [line.removeprefix("ok     ").partition(":")[0] for line in text.out.splitlines()] == names
    assert tree(bundle) == before


def test_evaluate_agrees_with_training_and_with_the_manifest(
    checkpoint: Path, bundle: Path, digits: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = answer(here(capfd, "evaluate", checkpoint, digits, "--part", "val", "--device", "cpu", "--json"))
    record = read_checkpoint(checkpoint)
    assert (found["what"], found["runtime"], found["n"]) == (str(checkpoint), "torch", record.metrics["val_images"])
    assert found["top1"] == record.metrics["val_top1"]
    assert found["ece"] == pytest.approx(record.metrics["val_ece"], abs=1e-6)
    assert list(found["per_class"]) == list(record.classes)
    right = sum(row["n"] * row["recall"] for row in found["per_class"].values())
    assert right == pytest.approx(found["top1"] * found["n"])
    assert all({"n", "recall", "precision"} <= set(row) for row in found["per_class"].values())
    exported = answer(here(capfd, "evaluate", bundle, digits, "--precision", "int8", "--json"))
    assert (exported["runtime"], exported["n"]) == ("onnxruntime", 120)
    text = here(capfd, "evaluate", bundle, digits, "--precision", "int8")
    assert f"top-1 {100 * exported['top1']:.2f} % of 120 images (all)" in text.out


def test_predict(checkpoint: Path, bundle: Path, digits: Path, capfd: pytest.CaptureFixture[str]) -> None:
    chosen = [digits / name for name in ("7/0007.png", "3/0003.png")]
    by_torch = answer(here(capfd, "predict", checkpoint, *chosen, "--device", "cpu", "--json"))
    by_onnx = answer(here(capfd, "predict", bundle, *chosen, "--precision", "fp32", "--json"))
    assert [row["path"] for row in by_torch] == [row["path"] for row in by_onnx] == [str(path) for path in chosen]
    for one, other in zip(by_torch, by_onnx, strict=True):
        assert set(one) == {"path", "class", "probability", "probabilities"}
        assert list(one["probabilities"]) == [str(digit) for digit in range(10)]
        assert sum(one["probabilities"].values()) == pytest.approx(1, abs=1e-4)
        assert one["probability"] == one["probabilities"][one["class"]] == max(one["probabilities"].values())
        assert other["probabilities"] == pytest.approx(one["probabilities"], abs=1e-4)
    text = here(capfd, "predict", bundle, *chosen, "--precision", "fp32")
    assert [line.split()[-3:-1] for line in text.out.splitlines()[1:]] == [
        [row["class"], f"{100 * row['probability']:.2f}"] for row in by_onnx
    ]


# --- interruption -----------------------------------------------------------------------------------------------------------


class Training:
    """`tlx finetune` with a terminal for its standard error, so that it draws its bars."""

    def __init__(self, data: Path, folder: Path, *options: str) -> None:
        import pty
        import termios

        self.reader, writer = pty.openpty()
        termios.tcsetwinsize(writer, (24, 80))
        # a session of its own, so that its signals do not reach the tests
        self.child = start("finetune", data, *options, cwd=folder, stdout=subprocess.PIPE, stderr=writer, start_new_session=True)
        os.close(writer)
        self.seen = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.child.kill()
        self.child.communicate()
        os.close(self.reader)

    def wait_for(self, found: Callable[[str], object]) -> None:
        """Read the output until a text appears."""
        while not found(self.seen):
            more = self._read()
            assert more, f"it ended too early: {self.seen[-2000:]}"

    def _read(self) -> str:
        try:
            more = os.read(self.reader, 65536).decode(errors="replace")
        except OSError:  # Linux's error if the other end is closed
            more = ""
        self.seen += more
        return more

    def signal(self, number: int) -> tuple[int, str]:
        """Send a signal; exit code and standard output."""
        self.child.send_signal(number)
        while self._read():
            pass
        out, _ = self.child.communicate(timeout=100)
        return self.child.returncode, out.decode()


def has_trained(percent: int) -> Callable[[str], object]:
    """Whether the bar of a phase has come so far. Of N epochs, 100 / N percent are one."""
    return lambda seen: any(int(share) >= percent for share in re.findall(r"training head[^%]*? (\d+) %", seen))


def is_told(seen: str) -> object:
    """Whether a batch's text appeared beside the bar; the bar is redrawn ten times a second, sometimes with an epoch's text."""
    return re.search(r"loss \d\.\d+, top-1 \d+\.\d %, \d+ img/s [^\r]*\d:\d\d:\d\d", seen)


@POSIX
def test_ctrl_c_keeps_the_best_weights(digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Training(digits, tmp_path, *BASE, "--epochs", "1000", "--patience", "1000") as training:
        training.wait_for(lambda seen: has_trained(2)(seen) and is_told(seen))
        code, out = training.signal(signal.SIGINT)
    assert code == 130, training.seen
    assert runs(tmp_path) == [".mobilenet_v3_small-1.resume", "latest", "mobilenet_v3_small-1"]
    assert f"note: to continue the training: tlx finetune {digits} --out runs/mobilenet_v3_small-1 --resume" in training.seen
    path = tmp_path / out.splitlines()[-1]
    checkpoint = read_checkpoint(path)
    assert checkpoint.interrupted
    epochs = [json.loads(line) for line in (path / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    assert 10 <= len(epochs) < 1000
    assert max(epoch["val_top1"] for epoch in epochs) == checkpoint.metrics["val_top1"]
    assert f"note: interrupted: the best of {len(epochs)} epochs was kept" in training.seen
    assert answer(here(capfd, "predict", path, digits / "7/0007.png", "--json"))[0]["class"] in checkpoint.classes


@POSIX
def test_ctrl_c_before_the_first_epoch_leaves_nothing(digits: Path, tmp_path: Path) -> None:
    with Training(digits, tmp_path, *BASE, "--strategy", "full", "--image-size", "224") as training:
        training.wait_for(lambda seen: "nothing is frozen" in seen)  # the last note before the first epoch, which takes seconds
        code, out = training.signal(signal.SIGINT)
    assert (code, out) == (130, "")
    assert "interrupted" in training.seen
    assert "Traceback" not in training.seen
    assert tree(tmp_path) == {}


def half_written(folder: Path) -> list[str]:
    return [name for name in runs(folder) if ".partial-" in name]


@POSIX
def test_being_killed_while_writing_leaves_the_old_checkpoint_whole(digits: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(checkpoint, tmp_path / "runs" / "mine"))
    before = tree(out)
    with start("finetune", digits, *BASE, "--epochs", "1", "-q", "-o", "runs/mine", cwd=tmp_path, stdout=subprocess.DEVNULL) as child:
        while child.poll() is None and not half_written(tmp_path):
            time.sleep(0.002)
        with contextlib.suppress(ProcessLookupError):
            child.kill()
    assert child.returncode == -signal.SIGKILL, "it ended before it could be killed"
    assert tree(out) == before
    assert isinstance(read_checkpoint(out), Checkpoint)
    assert len(half_written(tmp_path)) == 1

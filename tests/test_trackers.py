"""Real experiment trackers: their data is read back with their own readers and compared with history.jsonl."""

from __future__ import annotations

import importlib.util
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import process

from tlexport.checkpoint import HISTORY
from tlexport.errors import StepFailed

pytestmark = pytest.mark.slow
FIGURES = ("train_loss", "train_top1", "val_loss", "val_top1", "lr", "images_per_s")


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed: pip install -e '.[trackers]'")


def finetuned(digits: Path, folder: Path, *options: str, **env: str) -> list[dict[str, float]]:
    """The lines of history.jsonl of a short run, whose standard output holds its JSON and nothing else."""
    asked = ("--weights", "embedded", "--epochs", "2", "--threads", "1", "--out", "runs/one", "--json", *options)
    ended = process("finetune", digits, *asked, cwd=folder, env=env)
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["checkpoint"] == "runs/one"
    return [json.loads(line) for line in (folder / "runs" / "one" / HISTORY).read_text(encoding="utf-8").splitlines()]


@needs("tensorboard")
def test_tensorboard_is_told_where_it_is_installed(digits: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = finetuned(digits, tmp_path)
    events = EventAccumulator(str(tmp_path / "runs" / "tensorboard" / "one"))
    events.Reload()
    for name in FIGURES:
        told = [(event.step, event.value) for event in events.Scalars(name)]
        assert told == [(epoch["epoch"], pytest.approx(epoch[name], rel=1e-5)) for epoch in history]


@needs("mlflow")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own use of SQLAlchemy
def test_mlflow_is_told(digits: Path, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    history = finetuned(digits, tmp_path, "--tracker", "mlflow")
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")  # MLflow's default location
    (run,) = client.search_runs(["0"])
    assert run.info.run_name == "one"
    assert run.data.params["backbone"] == "mobilenet_v3_small"
    for name in FIGURES:
        told = [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]
        assert told == [(epoch["epoch"], epoch[name]) for epoch in history]


def log_records(log: bytes) -> Iterator[bytes]:
    """The records of a log in LevelDB's format (its doc/log_format.md), behind W&B's own header of 7 bytes."""
    at, parts = 7, []
    while at + 7 <= len(log):
        if 32768 - at % 32768 < 7:  # the rest of a block is too short for a header
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", log, at)
        parts.append(log[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


@needs("wandb")
def test_weights_and_biases_is_told(digits: Path, tmp_path: Path) -> None:
    from wandb.proto import wandb_internal_pb2

    history = finetuned(digits, tmp_path, "--tracker", "wandb", WANDB_MODE="offline")
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    told = []
    for data in log_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("history"):
            told.append({(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in record.history.item})
    assert [[row[name] for name in FIGURES] for row in told] == [[epoch[name] for name in FIGURES] for epoch in history]


@needs("mlflow")
def test_a_tracker_that_cannot_be_reached_is_said_before_training(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    store = (tmp_path / "file" / "store").as_uri()
    asked = ("--weights", "embedded", "--epochs", "2", "--threads", "1", "--out", "runs/one", "--tracker", "mlflow")
    ended = process("finetune", digits, *asked, cwd=tmp_path, env={"MLFLOW_TRACKING_URI": store, "MLFLOW_ALLOW_FILE_STORE": "true"})
    assert ended.code == StepFailed.exit_code, ended.err
    assert "mlflow" in ended.err and "--tracker none" in ended.err
    assert "Traceback" not in ended.err
    assert not (tmp_path / "runs" / "one").exists()

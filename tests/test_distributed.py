"""Two processes under torchrun: the same accuracy as one, one checkpoint, resumable."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tlexport.api.evaluate import evaluate
from tlexport.checkpoint import read_checkpoint
from tlexport.loading.model import Execution
from tlexport.train.resume import STATE, resume_folder

pytestmark = pytest.mark.slow  # processes that start, are killed, and start again

OPTIONS = [
    "--weights",
    "embedded",
    "--no-flip",
    "--strategy",
    "partial",
    "--lr",
    "0.003",
    "--threads",
    "1",
    "--device",
    "cpu",
    "--tracker",
    "none",
]
SCRIPT = """
import sys
import tlexport.train.resume as resume
resume.INTERVAL_S = 0.0
from tlexport.cli.main import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "tlx.py"
    path.write_text(SCRIPT)
    return path


def torchrun(script: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script), *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_train_one_checkpoint_as_good_as_one_process_does(digits: Path, tmp_path: Path, script: Path) -> None:
    child = torchrun(script, "finetune", str(digits), *OPTIONS, "--epochs", "6", "--out", str(tmp_path / "two"), "--json")
    output, errors = child.communicate(timeout=240)
    assert child.returncode == 0, errors[-2000:]
    two = json.loads(output)["metrics"]["val_top1"]
    from tlexport.api.finetune import FinetuneSettings, finetune
    from tlexport.recipe import Recipe

    recipe = Recipe(weights="embedded", flip=False, strategy="partial", lr=3e-3, epochs=6)
    one = finetune(str(digits), recipe, tmp_path / "one", FinetuneSettings(device="cpu", threads=1)).scores.top1
    assert abs(one - two) <= 0.10  # the validation part is small: one image is several points
    assert two > 0.7
    checked = evaluate(tmp_path / "two", str(digits), part="val", run=Execution(device="cpu", threads=1))
    assert checked.scores.top1 == read_checkpoint(tmp_path / "two").metrics["val_top1"] == two


def test_two_processes_killed_and_resumed_finish(digits: Path, tmp_path: Path, script: Path) -> None:
    out = tmp_path / "run"
    arguments = ["finetune", str(digits), *OPTIONS, "--epochs", "40", "--patience", "99", "--out", str(out)]
    child = torchrun(script, *arguments)
    limit = time.monotonic() + 200
    while not (resume_folder(out) / STATE).exists() and time.monotonic() < limit:
        time.sleep(0.05)
    # torchrun gives its processes sessions of their own, so each is killed by its number
    for process in [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]:
        process.send_signal(signal.SIGKILL)
    child.communicate()
    assert not out.exists()
    again = torchrun(script, *arguments, "--resume")
    _, errors = again.communicate(timeout=240)
    assert again.returncode == 0, errors[-2000:]
    assert read_checkpoint(out).metrics["epochs"] == 40
    assert not resume_folder(out).exists()

"""A killed and resumed run ends with the weights of an unbroken one, bit for bit."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tlexport.api.finetune import FinetuneSettings, finetune
from tlexport.checkpoint import REPORT, read_checkpoint
from tlexport.errors import InvalidFile, UsageError
from tlexport.recipe import Recipe
from tlexport.train.resume import STATE, Saver, read_request, resume_folder, write_tensors

pytestmark = pytest.mark.slow  # processes that start, are killed, and start again

EVERYTHING = Recipe(
    weights="embedded", strategy="gradual", epochs=6, lr=2e-3, flip=False, augment="strong", views=2, ema=0.9, clip=1.0, stage_decay=0.8
)
SIMPLE = Recipe(weights="embedded", strategy="partial", epochs=4, lr=2e-3, flip=False)

CHILD = """
import json, sys
from pathlib import Path
import tlexport.train.resume as resume
resume.INTERVAL_S = 0.0  # a state after every epoch, so that a short run has some
from tlexport.api.finetune import FinetuneSettings, finetune
from tlexport.recipe import Recipe
data, recipe, out, again = sys.argv[1:]
finetune(data, Recipe.parse(json.loads(recipe), "test"), Path(out), FinetuneSettings(device="cpu", threads=1, resume=again == "again"))
"""


def start(data: Path, recipe: Recipe, out: Path, again: bool) -> subprocess.Popen[bytes]:
    arguments = [str(data), recipe.model_dump_json(), str(out), "again" if again else "anew"]
    return subprocess.Popen([sys.executable, "-c", CHILD, *arguments], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})


def wait_for(path: Path, child: subprocess.Popen[bytes]) -> None:
    limit = time.monotonic() + 120
    while not path.exists() and child.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)


@pytest.mark.parametrize("recipe", [SIMPLE, EVERYTHING], ids=["partial", "gradual with everything"])
def test_killed_runs_that_are_resumed_give_the_weights_of_an_unbroken_one(digits: Path, tmp_path: Path, recipe: Recipe) -> None:
    whole = finetune(str(digits), recipe, tmp_path / "whole", FinetuneSettings(device="cpu", threads=1))
    out, draw = tmp_path / "broken", random.Random(0)
    child = start(digits, recipe, out, again=False)
    kills = 0
    while not out.exists():
        wait_for(resume_folder(out) / STATE, child)
        time.sleep(draw.uniform(0.0, 1.5))
        if child.poll() is None and kills < 3:
            child.send_signal(signal.SIGKILL)
            child.wait()
            kills += 1
            child = start(digits, recipe, out, again=True)
        else:
            assert child.wait(timeout=120) == 0
    assert child.wait(timeout=120) == 0
    assert kills > 0
    sessions = re.search(r"(\d) sessions: the run was resumed", (out / REPORT).read_text(encoding="utf-8"))
    assert sessions is not None
    assert 2 <= int(sessions[1]) <= kills + 1  # those of which something was kept; the times are sums over them
    expected, found = load_file(whole.path / "model.safetensors"), load_file(out / "model.safetensors")
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    unbroken, resumed = read_checkpoint(whole.path), read_checkpoint(out)
    assert unbroken.metrics == resumed.metrics
    assert not resume_folder(out).exists()


def interrupted(digits: Path, out: Path, recipe: Recipe) -> None:
    child = start(digits, recipe, out, again=False)
    wait_for(resume_folder(out) / STATE, child)
    child.send_signal(signal.SIGKILL)
    child.wait()
    if not resume_folder(out).exists():
        pytest.fail("the run ended before it could be killed")


def test_a_run_is_not_continued_as_another(digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    interrupted(digits, out, SIMPLE.model_copy(update={"epochs": 400, "patience": 400}))
    data, recipe = read_request(out)
    assert (data, recipe.epochs) == (str(digits), 400)
    with pytest.raises(UsageError, match="recipe differ"):
        finetune(str(digits), SIMPLE, out, FinetuneSettings(device="cpu", threads=1, resume=True))
    with pytest.raises(UsageError, match="threads differ"):
        finetune(str(digits), recipe, out, FinetuneSettings(device="cpu", threads=2, resume=True))
    (resume_folder(out) / STATE).write_bytes(b"not a state")
    with pytest.raises(InvalidFile, match="damaged"):
        finetune(str(digits), recipe, out, FinetuneSettings(device="cpu", threads=1, resume=True))
    quick = SIMPLE.model_copy(update={"epochs": 2})
    with pytest.raises(UsageError, match="was interrupted") as caught:  # no state is removed without a request
        finetune(str(digits), quick, out, FinetuneSettings(device="cpu", threads=1))
    assert f"--out {out} --resume" in caught.value.hint
    assert "--restart" in caught.value.hint
    assert (resume_folder(out) / STATE).exists()
    finetune(str(digits), quick, out, FinetuneSettings(device="cpu", threads=1, restart=True))
    assert not resume_folder(out).exists()


def test_nothing_to_resume_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to resume"):
        read_request(tmp_path / "never")


def test_a_state_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (os.system, (f"touch {tmp_path}/owned",))

    saver = Saver(tmp_path / "run")
    saver.folder.mkdir()
    torch.save({"identity": Evil()}, saver.folder / STATE)
    with pytest.raises(InvalidFile, match="damaged"):
        saver.begin("data", SIMPLE, "digest", 1)
    assert not (tmp_path / "owned").exists()


def test_ctrl_c_while_the_state_is_written_stays_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch closes its file on the way out, which fails, and so hides what interrupted it."""

    def interrupted(value: object, stream: object) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_tensors({}, tmp_path / "state.pt")

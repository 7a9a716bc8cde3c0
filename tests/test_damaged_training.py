"""Damaged results of a training: every command names the file, and none prints a traceback."""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import here
from safetensors.torch import load_file, save, save_file

from tlexport.checkpoint import DATASET, HISTORY, RECORD, REPORT, WEIGHTS, read_dataset
from tlexport.recipe import Recipe
from tlexport.storage.files import sha256_of
from tlexport.train.resume import REQUEST, STATE, Saver, dataset_digest, resume_folder

RECIPE = Recipe(weights="embedded", image_size=32, epochs=3, lr=3e-3, flip=False)


@pytest.fixture(scope="module")
def interrupted(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was interrupted after its first epoch, and whose state is kept."""
    import tlexport.train.resume as resume
    from tlexport.api.finetune import FinetuneSettings, finetune

    out = tmp_path_factory.mktemp("interrupted") / "run"

    class StopError(Exception):
        pass

    class Stopping(Saver):
        def save(self, state: dict[str, Any], now: bool) -> None:
            super().save(state, now=True)
            raise StopError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tlexport.api.finetune.Saver", Stopping)
        with pytest.raises(StopError):
            finetune(str(digits), RECIPE, out, FinetuneSettings(device="cpu", threads=1, tracker="none"))
    assert resume.resume_folder(out) == resume_folder(out)
    return out


def changed(*keys: str, to: Any) -> Callable[[dict[str, Any]], object]:
    """Puts something in the place of a value."""

    def change(state: dict[str, Any]) -> None:
        inner = state
        for key in keys[:-1]:
            inner = inner[int(key)] if isinstance(inner, list) else inner[key]
        inner[keys[-1]] = to(inner[keys[-1]]) if callable(to) else to

    return change


def without(*keys: str) -> Callable[[dict[str, Any]], object]:
    def change(state: dict[str, Any]) -> None:
        for key in keys[:-1]:
            state = state[key]
        del state[keys[-1]]

    return change


def each(tensors: dict[str, Any], change: Callable[[torch.Tensor], object]) -> dict[str, Any]:
    return {name: change(tensor) if isinstance(tensor, torch.Tensor) else tensor for name, tensor in tensors.items()}


def optimizer_of(change: Callable[[torch.Tensor], object]) -> Callable[[dict[str, Any]], object]:
    def apply(state: dict[str, Any]) -> None:
        states = state["run"]["optimizer"]["state"]
        for number in states:
            states[number] = each(states[number], change)

    return apply


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    **{f"no {key}": without(key) for key in ("identity", "history", "weights", "run", "phase", "best", "lr", "watch", "before_phase")},
    **{f"no run.{key}": without("run", key) for key in ("top", "optimizer", "schedule", "average", "done", "lowest", "waited")},
    "a phase beyond": changed("phase", to=9),
    "a negative phase": changed("phase", to=-1),
    "a phase as text": changed("phase", to="0"),
    "no epochs": changed("history", to=[]),
    "history of texts": changed("history", to=["a"]),
    "an epoch that is NaN": changed("history", "0", "epoch", to=math.nan),
    "a loss that is NaN": changed("history", "0", "val_loss", to=math.nan),
    "an accuracy of 7": changed("history", "0", "val_top1", to=7.0),
    "an unknown key": changed("history", to=lambda h: [h[0] | {"colour": 1}]),
    "an unknown phase": changed("history", "0", "phase", to="tail"),
    "a best epoch beyond": changed("best", to=5),
    "weights of other shapes": changed("weights", to=lambda w: each(w, lambda t: torch.zeros(3, 5))),
    "weights of other types": changed("weights", to=lambda w: each(w, lambda t: t.double())),
    "weights that are NaN": changed("weights", to=lambda w: each(w, lambda t: t * math.nan if t.is_floating_point() else t)),
    "weights that are missing": changed("weights", to={}),
    "weights of another network": changed("weights", to=lambda w: w | {"fc.weight": torch.zeros(2)}),
    "weights as numbers": changed("weights", to=lambda w: dict.fromkeys(w, 1.0)),
    "weights as a list": changed("weights", to=[]),
    "a top of other shapes": changed("run", "top", to=lambda w: each(w, lambda t: torch.zeros(3))),
    "a top without tensors": changed("run", "top", to=None),
    "an optimizer of other shapes": optimizer_of(lambda tensor: torch.zeros(7, 7)),
    "an optimizer that is NaN": optimizer_of(lambda tensor: tensor * math.nan),
    "an optimizer as text": changed("run", "optimizer", to="adam"),
    "an optimizer without groups": changed("run", "optimizer", "param_groups", to=[]),
    "more epochs done than there are": changed("run", "done", to=99),
    "steps as text": changed("run", "schedule", to="many"),
    "a lowest loss that is NaN": changed("run", "lowest", to=math.nan),
    "an average that nobody asked for": changed("run", "average", to={}),
    "a time that is negative": changed("watch", "seconds", to=-1.0),
    "steps of nothing": changed("watch", "steps", to=[[1]]),
    "identity as text": changed("identity", to="mine"),
}


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.system, ("touch owned",))


def stored(content: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def bomb() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
        archive.writestr("archive/data/0", b"\0" * 50_000_000)
    return stream.getvalue()


def cut(share: float) -> Callable[[bytes], bytes]:
    return lambda whole: whole[: int(len(whole) * share)]


def flipped(share: float) -> Callable[[bytes], bytes]:
    def flip(whole: bytes) -> bytes:
        at = int(len(whole) * share)
        return whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]

    return flip


FILES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "text": lambda whole: b"not a state",
    "half": cut(0.5),
    "without its last byte": cut(0.999999),
    "its first bytes": cut(0.001),
    "the first byte flipped": flipped(0),
    "the middle flipped": flipped(0.5),
    "code": lambda whole: stored({"identity": Evil()}),
    "a bare pickle with code": lambda whole: pickle.dumps(Evil()),
    "a zip bomb": lambda whole: bomb(),
    "a list": lambda whole: stored([1, 2]),
    "a tensor": lambda whole: stored(torch.zeros(3)),
    "none": lambda whole: stored(None),
}


def resume(run: Path, digits: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """Output of `--resume`, which must name the file and change nothing."""
    before = sha256_of(resume_folder(run) / STATE) if (resume_folder(run) / STATE).is_file() else ""
    ended = here(capfd, "finetune", digits, "--out", run, "--resume", "--device", "cpu", "--threads", "1", "--tracker", "none")
    assert (ended.code, ended.out) == (2, ""), ended.err
    assert str(resume_folder(run)) in ended.err
    assert "hint: " in ended.err
    assert not run.exists()
    assert not Path("owned").exists()
    assert not before or sha256_of(resume_folder(run) / STATE) == before
    return ended.err


@pytest.fixture
def run(interrupted: Path, tmp_path: Path) -> Path:
    shutil.copytree(resume_folder(interrupted), resume_folder(tmp_path / "run"))
    return tmp_path / "run"


@pytest.mark.parametrize("name", FILES)
def test_a_state_file_that_is_damaged(name: str, run: Path, digits: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = resume_folder(run) / STATE
    file.write_bytes(FILES[name](file.read_bytes()))
    assert "--restart" in resume(run, digits, capfd)


def test_states_whose_content_is_wrong(run: Path, digits: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = resume_folder(run) / STATE
    whole = file.read_bytes()
    for name, change in CHANGES.items():
        state = torch.load(io.BytesIO(whole), weights_only=True)
        change(state)
        file.write_bytes(stored(state))
        if name != "no before_phase" and name != "no lr":  # keys that this recipe's run does not need to go on
            said = resume(run, digits, capfd)
            assert "is damaged" in said or "cannot be continued" in said, name


def test_a_directory_or_a_pipe_in_place_of_a_file(run: Path, digits: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in (STATE, REQUEST):
        file = resume_folder(run) / name
        whole = file.read_bytes()
        for make in (Path.mkdir, lambda path: os.mkfifo(path)):
            file.unlink()
            make(file)
            resume(run, digits, capfd)
            file.rmdir() if file.is_dir() else file.unlink()
            file.write_bytes(whole)


def test_requests_that_are_damaged(run: Path, digits: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = resume_folder(run) / REQUEST
    request = json.loads(file.read_text())
    deep = "[" * 5000
    for text in ("", "{", "[]", "{}", deep, '{"data": 3, "recipe": {}}', '{"data": "x", "recipe": []}', '{"n": ' + "9" * 5000 + "}"):
        file.write_text(text)
        resume(run, digits, capfd)
    for key, value in (("epochs", 0), ("epochs", "many"), ("lr", -1), ("backbone", 3), ("colour", "red")):
        file.write_text(json.dumps(request | {"recipe": request["recipe"] | {key: value}}))
        assert key in resume(run, digits, capfd)


# --- checkpoints --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def sealed(copy: Path) -> None:
    """As if the record had been written for these weights."""
    record = json.loads((copy / RECORD).read_text())
    (copy / RECORD).write_text(json.dumps(record | {"weights_sha256": sha256_of(copy / WEIGHTS)}))


def renamed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.replace("classifier", "fc"): tensor for name, tensor in tensors.items()}


WEIGHTS_CHANGES: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]] = {
    "one class more": lambda w: w | {"classifier.3.weight": torch.zeros(11, 1024), "classifier.3.bias": torch.zeros(11)},
    "renamed": renamed,
    "one missing": lambda w: {name: tensor for name, tensor in w.items() if name != "features.0.0.weight"},
    "one more": lambda w: w | {"features.99.weight": torch.zeros(3)},
    "float64": lambda w: {name: tensor.double() for name, tensor in w.items()},
    "float16": lambda w: {name: tensor.half() for name, tensor in w.items()},
    "integers": lambda w: {name: tensor.to(torch.int32) for name, tensor in w.items()},
    "transposed": lambda w: w | {"classifier.3.weight": w["classifier.3.weight"].T.contiguous()},
    "scalars": lambda w: {name: torch.zeros(()) for name in w},
    "empty": lambda w: {},
}


@pytest.mark.parametrize("name", WEIGHTS_CHANGES)
def test_weights_that_do_not_fit_the_record(name: str, copy: Path, digits: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save_file(WEIGHTS_CHANGES[name](load_file(copy / WEIGHTS)), copy / WEIGHTS)
    sealed(copy)
    for command in (("predict", copy, digits / "7/0007.png"), ("export", copy, "--target", "cpu-x86", "--out", copy.parent / "out")):
        ended = here(capfd, *command)
        assert (ended.code, ended.out) == (2, ""), ended.err
        assert WEIGHTS in ended.err
    assert {path.name for path in copy.parent.iterdir()} == {"copy"}


HEADERS = [
    b"",
    b"\0" * 4,
    b"\xff" * 8,
    (10**12).to_bytes(8, "little") + b"{}",
    (2).to_bytes(8, "little") + b"[]",
    (4).to_bytes(8, "little") + b"{\xff\xff}",
    save({"a": torch.zeros(9)})[:-8],
    save({"a": torch.zeros(9)}).replace(b'"F32"', b'"X99"'),
    save({"a": torch.zeros(9)}).replace(b"[9]", b"[8]"),
]


@pytest.mark.parametrize("content", HEADERS, ids=range(len(HEADERS)))
def test_weights_that_are_damaged(content: bytes, copy: Path, digits: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (copy / WEIGHTS).write_bytes(content)
    sealed(copy)
    ended = here(capfd, "predict", copy, digits / "7/0007.png")
    assert (ended.code, ended.out) == (2, "")
    assert str(copy / WEIGHTS) in ended.err


def test_records_that_are_damaged(copy: Path, digits: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = json.loads((copy / RECORD).read_text())
    names = list(whole["classes"])
    texts = ["", "[]", "[" * 5000, '{"format": ' + "9" * 5000 + "}", "\0", "{" + '"a": {' * 5000]
    texts += [json.dumps(whole | {"recipe": whole["recipe"] | {"backbone": name}}) for name in ("resnet_of_mine", "", "../x")]
    texts += [
        json.dumps(whole | {"classes": odd}) for odd in (names[:-1], [*names, "z"], [names[0], *names[:-1]], ["a\nb", *names[1:]], [])
    ]
    texts += [json.dumps(whole | {"classes": [str(n) for n in range(200_000)]})]
    for text in texts:
        (copy / RECORD).write_text(text)
        ended = here(capfd, "predict", copy, digits / "7/0007.png")
        assert (ended.code, ended.out) == (2, ""), text[:80]
        assert RECORD in ended.err, ended.err


def test_listings_that_contradict_themselves(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = json.loads((copy / DATASET).read_text())
    first = whole["samples"][0]

    def samples(**change: object) -> dict[str, object]:
        return {"samples": [first | change, *whole["samples"][1:]]}

    changes: list[dict[str, object]] = [
        samples(label=10),
        samples(label=-1),
        samples(label=1.5),
        samples(part="training"),
        samples(sha256="abc"),
        samples(sha256="G" * 64),
        samples(path=whole["samples"][1]["path"]),
        samples(path=3),
        {"classes": whole["classes"][:-1]},
        {"classes": [*whole["classes"], "more"]},
        {"classes": list(reversed(whole["classes"]))},
        {"samples": "none"},
    ]
    for change in changes:
        (copy / DATASET).write_text(json.dumps(whole | change))
        ended = here(capfd, "export", copy, "--target", "cpu-x86", "--out", copy.parent / "out")
        assert (ended.code, ended.out) == (2, ""), (change, ended.err)
        assert DATASET in ended.err
    assert {path.name for path in copy.parent.iterdir()} == {"copy"}


def test_a_history_that_is_damaged_is_not_written_into_a_report(copy: Path, digits: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (copy / REPORT).unlink()
    whole = (copy / HISTORY).read_text().splitlines()
    for lines in ([], ["{"], ["[]"], ['{"epoch": 1}'], whole[1:], [*whole, whole[0]], ['{"epoch": ' + "9" * 5000 + "}"], ["[" * 5000]):
        (copy / HISTORY).write_text("\n".join(lines))
        ended = here(capfd, "finetune", digits, "--out", copy, "--resume", "--device", "cpu", "--threads", "1", "--tracker", "none")
        assert (ended.code, ended.out) == (2, ""), ended.err
        assert str(copy / HISTORY) in ended.err
    assert len(read_dataset(copy).samples) > 0
    assert dataset_digest(read_dataset(copy))

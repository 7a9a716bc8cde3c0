"""`tlx profiles calibrate`: files written and left unchanged, and refusals before the timing starts.

The timing itself is tested in tests/test_estimate_layers.py; here a synthetic device replaces it.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT, here, tree
from estimates import device, saved

from tlexport.api import calibrate_profile as module
from tlexport.hardware.calibration import CalibratedModel, Sharpened
from tlexport.hardware.calibration_tables import with_tables
from tlexport.hardware.device_model import DeviceModel
from tlexport.hardware.profile import Profile
from tlexport.hardware.target import load_file, load_profile, resolve, shipped_here
from tlexport.ports import Progress
from tlexport.storage.files import sha256_of

HERE = shipped_here()  # what this machine is
HASH = "0" * 64
ELSEWHERE = '[match]\nmachine = "riscv64"\n'


class Timing:
    """Replaces minutes of timing; records its requests."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[int, ...], float]] = []

    def __call__(
        self, profile: Profile, precision: str, threads: Sequence[int], seconds: float, progress: Progress
    ) -> tuple[DeviceModel, ...]:
        self.asked.append((precision, tuple(threads), seconds))
        # the error differs between rounds
        return tuple(device(precision, count, error=0.01 * len(self.asked)) for count in threads)


@pytest.fixture(autouse=True)
def timing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Timing:
    """Stand in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TLX_PROFILES", raising=False)
    monkeypatch.setattr(module, "calibrate", found := Timing())
    return found


def calibrated(capfd: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    ended = here(capfd, "profiles", "calibrate", *arguments, "--json")
    assert ended.code == 0, ended.err
    answer: dict[str, Any] = json.loads(ended.out)
    return answer


def write(name: str, text: str) -> Path:
    path = Path("profiles") / f"{name}.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'name = "{name}"\n{text}', encoding="utf-8")
    return path


# --- what is written --------------------------------------------------------------------------------------------------


def test_a_machine_gets_a_profile_of_its_own_and_can_be_estimated(timing: Timing, capfd: pytest.CaptureFixture[str]) -> None:
    answer = calibrated(capfd, "my-pc", "--threads", "1", "--threads", "2", "--seconds", "9")
    assert timing.asked == [("fp32", (1, 2), 9.0), ("int8", (1, 2), 9.0)]
    assert (answer["profile"], answer["name"]) == ("profiles/my-pc.toml", "my-pc")
    profile = load_profile("my-pc")
    assert load_file("my-pc").chain()[1].path == ROOT / "profiles" / f"{HERE}.toml"
    assert [table.key for table in profile.calibration] == [("onnxruntime", p, n) for p in ("fp32", "int8") for n in (1, 2)]
    assert [table.model_dump(mode="json") for table in profile.calibration] == answer["calibration"]
    for table in profile.calibration:
        file = Path("profiles") / table.file
        assert sha256_of(file) == table.sha256
        assert (table.cpu, table.cores) == (DeviceModel.read(file).environment.cpu, DeviceModel.read(file).environment.cores)
    assert here(capfd, "profiles", "check", "profiles/my-pc.toml").code == 0
    saved(Path("m.onnx"))
    ended = here(capfd, "estimate", "m.onnx", "-t", "my-pc", "--threads", "2")
    assert ended.code == 0
    assert "calibrated on" in ended.out
    assert "note: this machine is my-pc: measure the real latency with tlx bench" in ended.err


def test_without_a_name_it_is_the_shipped_profile_of_this_machine(timing: Timing, capfd: pytest.CaptureFixture[str]) -> None:
    before = tree(ROOT / "profiles")
    answer = calibrated(capfd, "--precision", "fp32", "--threads", "1")
    assert (answer["name"], answer["profile"]) == (HERE, f"profiles/{HERE}.toml")
    assert timing.asked == [("fp32", (1,), 300.0)]
    target = resolve(HERE)
    assert target.here
    assert "overrides" in target.note
    assert [table.key for table in target.profile.calibration] == [("onnxruntime", "fp32", 1)]
    assert tree(ROOT / "profiles") == before


def test_only_the_same_tables_are_replaced_and_the_rest_of_the_file_stays(capfd: pytest.CaptureFixture[str]) -> None:
    path = write("my-pc", f'extends = "{HERE}" # ours\n\n[budget] # of the line\nlatency_p95 = "7 ms"\n')
    text = path.read_text(encoding="utf-8")
    calibrated(capfd, "my-pc", "--threads", "1")
    first = load_profile("my-pc").calibration
    calibrated(capfd, "my-pc", "--threads", "1", "--precision", "int8")
    second = load_profile("my-pc").calibration
    assert path.read_text(encoding="utf-8").startswith(text)
    assert load_profile("my-pc").budget.latency_p95_ms == 7
    old, new = ({table.precision: table for table in tables} for tables in (first, second))
    assert new["fp32"] == old["fp32"]
    assert new["int8"].error > old["int8"].error
    assert all(sha256_of(path.with_name(table.file)) == table.sha256 for table in second)


def test_a_new_calibration_drops_what_corrected_the_old_one(capfd: pytest.CaptureFixture[str]) -> None:
    path = write("my-pc", f'extends = "{HERE}"\n')
    runs = [
        Sharpened.model_validate(
            {"runtime": "onnxruntime", "precision": precision, "threads": 1, "factor": 1.2, "n": 1, "corrects": "x"}
            | {"date": "2026-01-31", "measurements": (HASH,)}
        )
        for precision in ("fp32", "int8")
    ]
    path.write_text(with_tables(path.read_text(encoding="utf-8"), runs), encoding="utf-8")
    calibrated(capfd, "my-pc", "--threads", "1", "--precision", "fp32")
    assert [table.precision for table in load_profile("my-pc").sharpened] == ["int8"]


TABLE = CalibratedModel(
    runtime="onnxruntime",
    precision="fp32",
    threads=1,
    file="a.json",
    sha256=HASH,
    date="2026-01-31",
    cpu='A "quoted" \\ name\twith \x7f and µ',
    cores=2,
    version="1.0",
    probes=40,
    error=0.05,
    within_10=0.8,
)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a = 1",
        "# calibration\n[a] # [[calibration]]\nb = '''\n[[calibration]]\n'''\n",
        "a.calibration = 1\r\n\r\n[calibration_of]\r\nsharpened = 2\r\n",
        "[[calibration]]\nx = 1\n# a remark\n[later]\ny = 2\n[[sharpened]]\nz = [\n1,\n]\n",
    ],
)
def test_tables_are_added_and_taken_out_again_and_nothing_else_changes(text: str) -> None:
    kept = {key: value for key, value in tomllib.loads(text).items() if key not in ("calibration", "sharpened")}
    added = with_tables(text, [TABLE])
    assert tomllib.loads(added) == kept | {"calibration": [TABLE.model_dump(mode="json")]}
    assert with_tables(added, [TABLE]) == added
    without = with_tables(added, [])
    assert tomllib.loads(without) == kept
    if "[[calibration]]\nx" not in text:
        assert without == text.rstrip("\n") + "\n"
    assert ("# a remark" in without) == ("# a remark" in text)


# --- what is refused, before anything is timed ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("elsewhere", 4, "elsewhere does not describe this machine"),
        ("cuda", 4, "runs models on the GPU"),
        ("my-pc --base elsewhere", 4, "elsewhere does not describe this machine"),
        ("my-pc --base cpu-x68", 2, "did you mean 'cpu-x86'?"),
        ("my-pc --base profiles/elsewhere.toml", 2, "--base takes the name of a profile"),
        ("elsewhere --base cuda", 2, "exists and does not extend cuda"),
        ("My_PC", 2, "'My_PC' is not a valid name for a profile"),
        ("my-pc:15w", 2, "'my-pc:15w' is not a valid name for a profile"),
        ("profiles/elsewhere.toml", 2, "profiles/elsewhere.toml is a file"),
        ("my-pc --seconds 0", 2, "'--seconds': 0.0 is not in the range"),
        ("my-pc --seconds 301", 2, "'--seconds': 301.0 is not in the range"),
        ("my-pc --threads 0", 2, "'--threads': 0 is not in the range"),
        ("my-pc --precision fp16", 2, "'fp16' is not one of"),
        ("my-pc --what m.onnx", 2, "it needs --from"),
        ("my-pc --out profiles/elsewhere.toml", 1, "cannot write into profiles/elsewhere.toml"),
        ("broken", 2, "line 2: budgt: unknown key; did you mean 'budget'?"),
    ],
)
def test_what_cannot_be_calibrated(line: str, code: int, message: str, timing: Timing, capfd: pytest.CaptureFixture[str]) -> None:
    write("elsewhere", f'extends = "{HERE}"\n{ELSEWHERE}')
    write("cuda", f'extends = "{HERE}"\ndevice = "cuda"\n')
    write("broken", "budgt = 1\n")
    before = tree(Path())
    ended = here(capfd, "profiles", "calibrate", *line.split(), "--json")
    assert (ended.code, ended.out) == (code, ""), ended.err
    assert message in ended.err
    assert not timing.asked
    assert tree(Path()) == before


def test_a_profile_whose_calibration_lies_elsewhere_is_not_split(timing: Timing, capfd: pytest.CaptureFixture[str]) -> None:
    calibrated(capfd, "my-pc", "--threads", "1", "--precision", "fp32")
    ended = here(capfd, "profiles", "calibrate", "my-pc", "--out", "other")
    assert ended.code == 2
    assert "whose calibration does not apply to other/my-pc.toml" in ended.err
    assert len(timing.asked) == 1

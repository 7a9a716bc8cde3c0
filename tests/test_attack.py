"""benchmarks/attack.py: a small sample passes, and failures are detected."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT, environment

SCRIPT = ROOT / "benchmarks" / "attack.py"
SAMPLE = "archives,images,tables,profiles,measurements"


@pytest.mark.slow  # trains and exports its targets, then starts some 40 commands
def test_a_sample_of_every_hostile_file_is_refused_with_a_message(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--groups", SAMPLE, "--tries", "4", "--seed", "7", "--out", str(tmp_path / "attack.json")]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    rows = json.loads((tmp_path / "attack.json").read_text(encoding="utf-8"))["rows"]
    assert [row["group"] for row in rows] == [f"hostile {name}" for name in SAMPLE.split(",")]
    assert all(row["held"] == row["tries"] == 4 for row in rows)


FAULTS = """
import os, subprocess, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from attack_ground import Case, Ended, TAG
case = Case(None, Path(sys.argv[2]), "a case")
def judged(code=0, stopped="", err=""):
    case.judged(Ended(code, stopped, 1.0, "", err, 0), "tlx")
judged(err="error: x", code=2)
assert not case.failures
judged(err="Traceback (most recent call last):", code=1)
judged(stopped="hang", code=-9)
judged(code=-11)
judged(code=1)
case.owned.touch()
judged()
(case.tmp / "tlx-export-1").mkdir()
case.no_files("at the end")
sleeper = subprocess.Popen(["sleep", "60"], env=os.environ | case.env)
judged()
assert sleeper.wait() != 0
print(*(failure.kind for failure in case.close()), sep=",")
"""


def test_what_does_not_hold_is_seen(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FAULTS, str(SCRIPT.parent), str(tmp_path / "case")]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "traceback,hang,exit code,no message,code run,leftover,leftover"


WRITES = "import os,sys\nos.mkdir('d')\nopen('d/a','w').write('x')\nos.rename('d/a','d/b')\nprint(open('d/b').read())"


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_each_write_fails_in_turn_when_the_disk_is_full(tmp_path: Path) -> None:
    """mkdir, open, write, rename: the fifth number is beyond the last."""
    library = tmp_path / "full.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, SCRIPT.parent / "attack_full_disk.c", "-ldl"], check=True)
    codes = []
    for call in range(1, 6):
        folder = tmp_path / str(call)
        folder.mkdir()
        full = {"LD_PRELOAD": str(library), "FULL_DISK_ROOT": str(folder), "FULL_DISK_FROM": str(call)}
        done = subprocess.run([sys.executable, "-c", WRITES], cwd=folder, env=os.environ | full, capture_output=True, text=True)
        codes.append((done.returncode, "No space left on device" in done.stderr))
    assert codes == [(1, True)] * 4 + [(0, False)]

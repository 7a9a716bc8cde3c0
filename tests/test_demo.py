"""`tlx demo`, run once over an earlier demo; and the help's examples, which use its output."""

from __future__ import annotations

import glob
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from commands import HASTY, Ended, commands, here, process, tree

from tlexport.api.demo import _this_machine
from tlexport.bundle.manifest import read_manifest
from tlexport.checkpoint import read_checkpoint
from tlexport.hardware.machine import this_machine
from tlexport.storage.files import DEMO_MARKER

PLACE = "tlx-demo"  # the demo's default output folder
ORDER = ["fp32", "fp16", "int8"]
# the examples of these need what the demo leaves, and are quick
ON_THE_DEMO = ("bench", "evaluate", "export", "predict", "verify")
# an export takes half a minute and is run elsewhere: its plan is enough; a bench with the usual number of runs takes a minute
ABRIDGED = {"export": " --dry-run", "bench": " --runs 5 --seconds 0 --threads 1"}


class Demo(NamedTuple):
    """The one run."""

    work: Path  # where it ran
    ended: Ended
    result: dict[str, Any]  # its stored result, which is also its --json output


@pytest.fixture(scope="module")
def demo(checkpoint: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """Run in a directory that holds an earlier demo: other images, another checkpoint, another bundle."""
    work = tmp_path_factory.mktemp("demo")
    out = work / PLACE
    (out / "digits").mkdir(parents=True)
    for marker in (out / DEMO_MARKER, out / "digits" / DEMO_MARKER):
        marker.write_text("{}\n", encoding="utf-8")
    shutil.copytree(checkpoint, out / "checkpoint")
    shutil.copytree(bundle, out / "bundle")
    ended = process("demo", cwd=work, program=HASTY)
    assert ended.code == 0, ended.err
    return Demo(work, ended, json.loads((out / DEMO_MARKER).read_text(encoding="utf-8")))


@pytest.fixture
def work(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand where the demo ran."""
    monkeypatch.chdir(demo.work)
    return demo.work


def test_the_promise(demo: Demo) -> None:
    models = {model["precision"]: model for model in demo.result["models"]}
    assert list(models) == ORDER
    assert models["int8"]["top1"] > 0.95
    assert abs(models["fp32"]["top1"] - models["int8"]["top1"]) <= 0.01
    assert models["fp32"]["top1"] == demo.result["val_top1"]
    assert models["int8"]["size_bytes"] < models["fp16"]["size_bytes"] < models["fp32"]["size_bytes"]
    assert demo.result["n"] == pytest.approx(0.2 * 1797, abs=5)
    assert all(0 < model["p50_ms"] <= model["p95_ms"] for model in models.values())
    assert sum(model["chosen"] for model in models.values()) == 1
    assert demo.result["threads"] == 1
    assert demo.result["seconds"] > 0


def test_the_table(demo: Demo) -> None:
    head, *rows = demo.ended.out.splitlines()
    assert head.split() == ["model", "size", "top-1", "p50,", "ms", "p95,", "ms"]
    for row, model in zip(rows, demo.result["models"], strict=False):
        *name, size, unit, top1, percent, p50, p95 = row.split()
        assert name == [*(["*"] if model["chosen"] else []), model["precision"].upper()]
        assert (size, unit) == (f"{model['size_bytes'] / 1e6:.2f}", "MB")
        assert (top1, percent) == (f"{100 * model['top1']:.2f}", "%")
        assert (float(p50), float(p95)) == pytest.approx((model["p50_ms"], model["p95_ms"]), abs=0.0006)
    notes = "\n".join(rows[len(ORDER) :])
    assert f"Top-1 of {demo.result['n']} validation images" in notes
    assert f"{demo.result['verified']} checks of the bundle passed" in notes
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", demo.ended.out + demo.ended.err)


def test_everything_is_there_and_nothing_else(demo: Demo, checkpoint: Path) -> None:
    out = demo.work / PLACE
    assert [path.name for path in demo.work.iterdir()] == [PLACE]
    assert sorted(path.name for path in out.iterdir()) == ["bundle", "checkpoint", "digits", DEMO_MARKER]
    assert len(list((out / "digits").glob("[0-9]/*.png"))) == 1797
    trained = read_checkpoint(demo.work / demo.result["checkpoint"])
    assert trained.weights_sha256 != read_checkpoint(checkpoint).weights_sha256  # the earlier one was replaced
    assert trained.recipe.weights == "embedded"
    manifest = read_manifest(demo.work / demo.result["bundle"])
    assert manifest.checkpoint_sha256 == trained.weights_sha256
    assert [model.artifact.size_bytes for model in manifest.models] == [model["size_bytes"] for model in demo.result["models"]]
    assert {path.relative_to(out / "bundle").as_posix() for path in (out / "bundle").rglob("*") if path.is_file()} == {
        "manifest.json",
        *manifest.files,
    }


def test_what_it_says_to_do_next_works(demo: Demo, work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    [line] = [line for line in demo.ended.out.splitlines() if line.startswith("next: ")]
    ended = run(line.removeprefix("next: "), capfd)
    assert ended.code == 0, ended.err
    seen = [row.split()[-3] for row in ended.out.splitlines()[1:]]
    assert len(seen) == len(list((work / PLACE / "digits/7").iterdir()))
    assert seen.count("7") > 0.95 * len(seen)


def run(line: str, capfd: pytest.CaptureFixture[str]) -> Ended:
    """A command line as a shell would run it, with its patterns for files."""
    program, *words = shlex.split(line)
    assert program == "tlx"
    return here(capfd, *(found for word in words for found in (sorted(glob.glob(word)) if "*" in word else [word])))  # noqa: PTH207


@pytest.mark.parametrize("name", ON_THE_DEMO)
def test_the_examples_in_the_help_work(name: str, work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    epilog = commands()[name].epilog
    assert epilog is not None
    lines = [line.strip() for line in epilog.splitlines() if line.strip().startswith("tlx ")]
    before = tree(work)
    for line in lines:
        ended = run(line + ABRIDGED.get(name, ""), capfd)
        assert ended.code == 0, f"{line}: {ended.err}"
        assert ended.out
        if "--json" in line:
            json.loads(ended.out)
    assert tree(work) == before


def test_the_demo_is_made_for_what_says_most_about_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for the first by name: a profile of this very processor rather than of its family, and one for its CPU."""
    machine = this_machine()
    if not machine.cpu:
        pytest.skip("this system does not name its processor")
    (tmp_path / "profiles").mkdir()
    for name, text in {"zz-mine": "", "aa-gpu": 'device = "cuda"\n'}.items():
        match = (
            f'extends = "cpu-x86"\nname = "{name}"\n{text}[match]\nmachine = "{machine.architecture}"\ncpu = {json.dumps(machine.cpu)}\n'
        )
        (tmp_path / f"profiles/{name}.toml").write_text(match, encoding="utf-8")
    monkeypatch.setenv("TLX_PROFILES", str(tmp_path / "profiles"))
    assert _this_machine().profile.name == "zz-mine"

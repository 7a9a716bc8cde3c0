"""User errors: each exits with its code, states the next step, and leaves no files behind."""

from __future__ import annotations

import json
import re
import shutil
import string
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from subprocess import PIPE
from typing import NamedTuple

import click
import images
import pytest
from commands import ROOT, commands, here, process, start, tree

from tlexport import errors
from tlexport.bundle.manifest import MANIFEST, Manifest, read_manifest
from tlexport.checkpoint import WEIGHTS
from tlexport.data.demo import digits_folder
from tlexport.errors import TlxError
from tlexport.hardware.profile import Budget
from tlexport.hardware.target import resolve

OPTIONS = [
    (name, option)
    for name, command in commands().items()
    for parameter in command.params
    if isinstance(parameter, click.Option)
    for option in (*parameter.opts, *parameter.secondary_opts)
    if option.startswith("--")
]
RECIPES = {
    "unknown_key.toml": "epoch = 3\n",
    "wrong_type.toml": 'epochs = "3"\n',
    "not_toml.toml": "epochs: 3\n",
}


class Wrong(NamedTuple):
    """A command line that must fail; {name} is replaced by a path in the fixture `places`."""

    line: str
    code: int
    message: str
    hint: str


# fmt: off
WRONG = [
    # commands
    Wrong("finetun", 2, "there is no command 'finetun'; did you mean 'finetune'?", "see: tlx --help"),
    Wrong("profiles lst", 2, "there is no command 'lst'; did you mean 'list'?", "see: tlx profiles --help"),
    Wrong("profiles --json show cpu-x86", 2, "--json must come last", "see: tlx profiles --help"),
    # data
    Wrong("finetune", 2, "Missing argument 'DATA'", "see: tlx finetune --help"),
    Wrong("finetune {work}/nowhere", 2, "nowhere' does not exist", "DATA is a folder of class folders"),
    Wrong("finetune {digits}x", 2, "did you mean 'digits'?", "DATA is a folder of class folders"),
    Wrong("finetune {texts}", 2, "holds no images", "DATA is a folder of class folders"),
    Wrong("finetune {empty}", 2, "holds neither class folders nor images", "DATA is a folder of class folders"),
    Wrong("finetune demo:digit", 2, "did you mean 'demo:digits'?", "known: demo:digits"),
    Wrong("finetune {damaged} --weights none --image-size 32", 2, "truncated.jpg", "--on-error skip"),
    # recipes
    Wrong("finetune {digits} --backbone mobilenet_v3_smal", 2, "did you mean 'mobilenet_v3_small'?", "tlx backbones"),
    Wrong("finetune {digits} --backbone tf_efficientnet_lit0", 2, "did you mean 'tf_efficientnet_lite0'?", "tlx backbones"),
    Wrong("finetune {digits} --weights embedded --strategy partial --freeze stag3", 2, "did you mean 'stage3'?", "its stages: stem, "),
    Wrong("finetune {digits} --weights embedded --strategy partial --freeze head", 2, "freeze the whole network", "freeze at most top"),
    Wrong("finetune {digits} --weights embedded --freeze stage3", 2, "strategy head", "--strategy partial"),
    Wrong("finetune {digits} --weights embedded --strategy full --freeze stage3", 2, "strategy full", "--strategy partial"),
    Wrong("finetune {digits} --weights embedded --strategy partial --epochs 1", 2, "at least 2", "--epochs 2"),
    Wrong("finetune {digits} --weights embedded --backbone resnet18", 2, "no embedded weights for resnet18", "--weights pretrained"),
    Wrong("finetune {digits} --weights {work}/nowhere.pth", 2, "no such file", "known words: pretrained, imagenet, embedded, none"),
    Wrong("finetune {digits} --weights {texts}/a/1.txt", 2, "1.txt", ""),
    Wrong("finetune {digits} --weights imagenet", 3, "are not on this machine and cannot be fetched", "--weights embedded"),
    Wrong("finetune {digits} --recipe {work}/nowhere.toml", 2, "nowhere.toml does not exist", ""),
    Wrong("finetune {digits} --recipe {recipes}/unknown_key.toml", 2, "epoch: unknown key; did you mean 'epochs'?", ""),
    Wrong("finetune {digits} --recipe {recipes}/wrong_type.toml", 2, "epochs: ", ""),
    Wrong("finetune {digits} --recipe {recipes}/not_toml.toml", 2, "cannot be read as TOML", ""),
    Wrong("finetune {digits} --weights embedded --resume", 2, "no run under runs/ was interrupted", "--out"),
    Wrong("finetune {digits} --weights embedded --resume --out {work}/nowhere", 2, "nowhere", ""),
    Wrong("finetune {digits} --weights embedded --teacher {work}/nowhere", 2, "nowhere does not exist", ""),
    Wrong("finetune {digits} --weights embedded --target jetson-orin-nan", 2, "did you mean 'jetson-orin-nano'?", "known: beaglebone-"),
    # wrong values
    Wrong("finetune {digits} --epochs 0", 2, "'--epochs': 0 is not in the range", "see: tlx finetune --help"),
    Wrong("finetune {digits} --epochs three", 2, "'--epochs': 'three' is not a valid integer", "see: tlx finetune --help"),
    Wrong("finetune {digits} --lr 0", 2, "'--lr': 0 is not between 0 and 10", "see: tlx finetune --help"),
    Wrong("finetune {digits} --lr nan", 2, "'--lr': nan is not between 0 and 10", "see: tlx finetune --help"),
    Wrong("finetune {digits} --lr fast", 2, "'--lr': 'fast' is neither a number nor auto", "see: tlx finetune --help"),
    Wrong("finetune {digits} --weight-decay nan", 2, "'--weight-decay': 'nan' is not a number", "see: tlx finetune --help"),
    Wrong("finetune {digits} --val-fraction 1", 2, "'--val-fraction': 1.0 is not in the range", "see: tlx finetune --help"),
    Wrong("finetune {digits} --strategy heads", 2, "'heads' is not one of 'head', 'partial', '", "see: tlx finetune --help"),
    Wrong("finetune {digits} --background 255,255", 2, "'255,255' is not a colour", "see: tlx finetune --help"),
    Wrong("finetune {digits} --background 255,255,256", 2, "is not a colour", "see: tlx finetune --help"),
    Wrong("finetune {digits} --device gpu", 2, "'gpu' is not a device; use auto, cpu, cuda or cuda:N", "see: tlx finetune --help"),
    Wrong("finetune {digits} --threads 0", 2, "'--threads': 0 is not in the range", "see: tlx finetune --help"),
    Wrong("finetune {digits} -v -q", 2, "-v and -q exclude each other", "see: tlx"),
    # devices
    Wrong("finetune {digits} --weights embedded --device cuda:99", 4, "--device cuda:99: torch finds", "tlx doctor"),
    Wrong("predict {checkpoint} {image} --device cuda:99", 4, "--device cuda:99: torch finds", "tlx doctor"),
    Wrong("predict {bundle} {image} --device cuda:99", 4, "cuda:99", ""),
    # where to write
    Wrong("finetune {digits} --out {texts}", 2, "was not written by tlx; it is left as it is", "choose another --out"),
    Wrong("finetune {digits} --out {image}", 2, "is a file", "choose another --out"),
    Wrong("finetune {digits} --out {bundle}", 2, "is not a checkpoint; it is left as it is", "choose another --out"),
    Wrong("finetune {demo} --out {demo}", 2, "is not a checkpoint; it is left as it is", "choose another --out"),
    Wrong("finetune {digits} --out runs/latest", 2, "runs/latest is the link to the newest run", "see: tlx finetune --help"),
    Wrong("export {checkpoint} -t cpu-x86 --out {texts}", 2, "was not written by tlx; it is left as it is", "choose another --out"),
    Wrong("export {checkpoint} -t cpu-x86 --out {checkpoint}", 2, "is not a bundle; it is left as it is", "choose another --out"),
    Wrong("demo --out {checkpoint}", 2, "is not an earlier demo; it was not changed", "choose another --out"),
    Wrong("demo --out {texts}", 2, "was not written by tlx; it is left as it is", "choose another --out"),
    # export
    Wrong("export {checkpoint}", 2, "Missing option '-t' / '--target'", "see: tlx export --help"),
    Wrong("export -t cpu-x86", 2, "no CHECKPOINT was given and runs/latest does not exist", "tlx finetune DATA"),
    Wrong("export {bundle} -t cpu-x86", 2, "is not a checkpoint", "tlx finetune DATA"),
    Wrong("export {work}/nowhere -t cpu-x86", 2, "is not a checkpoint", "tlx finetune DATA"),
    Wrong("export {checkpoint} -t jetson-orin-nan", 2, "did you mean 'jetson-orin-nano'?", "known: beaglebone-"),
    Wrong("export {checkpoint} -t jetson-nano:7w", 2, "the profile jetson-nano has no mode '7w'", "its modes: maxn, 5w"),
    Wrong("export {checkpoint} -t {work}/nowhere.toml", 2, "nowhere.toml does not exist", ""),
    Wrong("export {checkpoint} -t jetson-nano --precision int8", 4, "has no int8", "use --precision fp32 or fp16"),
    Wrong("export {checkpoint} -t jetson-nano --precision int8 --dry-run", 4, "has no int8", "use --precision fp32 or fp16"),
    Wrong("export {checkpoint} -t {recipes}/elsewhere.toml --max-latency 10ms", 4, "this machine is another one", "BUNDLE --check"),
    Wrong("export {checkpoint} -t {recipes}/elsewhere.toml --max-memory 9MB --dry-run", 4, "--max-memory cannot be checked", "tlx bench"),
    Wrong("export {checkpoint} -t cpu-x86 --max-memory 0MB", 2, "'--max-memory': '0MB' is not a limit", "see: tlx export --help"),
    Wrong("export {checkpoint} -t cpu-x86 --max-size 0MB", 2, "'--max-size': '0MB' is not a limit", "see: tlx export --help"),
    Wrong("export {checkpoint} -t cpu-x86 --max-size 2", 2, "'--max-size': '2' is not a quantity", "see: tlx export --help"),
    Wrong("export {checkpoint} -t cpu-x86 --max-size -1MB", 2, "'--max-size': '-1MB' is not a quantity", "see: tlx export --help"),
    Wrong("export {checkpoint} -t cpu-x86 --max-latency 0ms", 2, "'--max-latency': '0ms' is not a limit", "see: tlx export --help"),
    Wrong("export {checkpoint} -t cpu-x86 --max-latency 5MB", 2, "'--max-latency': '5MB' is not a quantity", "see: tlx export --help"),
    Wrong("export {checkpoint} -t cpu-x86 --max-drop -1", 2, "'--max-drop': -1.0 is not in the range", "see: tlx export --help"),
    Wrong("export {checkpoint} -t cpu-x86 --max-drop nan", 2, "'--max-drop': 'nan' is not a number", "see: tlx export --help"),
    Wrong("export {checkpoint} -t cpu-x86 --data {empty}", 2, "images of the checkpoint's data are missing", "with --data"),
    Wrong("export {tampered_checkpoint} -t cpu-x86", 5, "its record says", "copy the checkpoint again"),
    # what to work on
    Wrong("evaluate {checkpoint} {others}", 2, "has classes that", "its classes: 0, 1, "),
    Wrong("evaluate {checkpoint} {digits} --part test", 2, "no image in the part 'test'", "leave out --part"),
    Wrong("evaluate {checkpoint} {digits} --precision int8", 2, "which is fp32; int8 was asked for", "tlx export"),
    Wrong("evaluate {bundle} {digits} --runtime onnxruntim", 2, "there is no runtime 'onnxruntim'; did you mean 'onnxruntime'?", "known: "),
    Wrong("evaluate {checkpoint} {digits} --runtime onnxruntime", 4, "does not open", "use --runtime torch"),
    Wrong("bench {bundle} --runtime torch", 4, "does not open", "use --runtime onnxruntime"),
    Wrong("bench {digits}", 2, "neither a checkpoint, nor a bundle", "tlx finetune DATA, tlx export"),
    Wrong("bench {bundle}x", 2, "did you mean", "WHAT is a checkpoint, a bundle"),
    Wrong("bench {bundle} --runs 0", 2, "'--runs': 0 is not in the range", "see: tlx bench --help"),
    Wrong("bench {checkpoint} --check", 2, "is not a bundle", "tlx export --target PROFILE"),
    Wrong("predict {bundle}", 2, "Missing argument 'IMAGES...'", "see: tlx predict --help"),
    Wrong("predict {bundle} {work}/nowhere.png", 2, "nowhere.png", ""),
    Wrong("predict {bundle} {texts}/a/1.txt", 2, "1.txt", ""),
    Wrong("predict {lone_model} {image}", 2, "has no manifest.json beside it", "give the bundle that it belongs to"),
    Wrong("predict {tampered_bundle} {image}", 5, "its hash differs", "tlx verify"),
    Wrong("predict {tampered_checkpoint} {image}", 5, "its record says", "copy the checkpoint again"),
    Wrong("predict {foreign_manifest} {image}", 2, "chekpoint_sha256: unknown key; did you mean 'checkpoint_sha256'?", ""),
    Wrong("verify {digits}", 2, "it holds no manifest.json", "tlx export --target PROFILE"),
    # lists
    Wrong("backbones resnet51", 2, "there is no backbone 'resnet51'; did you mean 'resnet", "tlx backbones"),
    Wrong("profiles show raspberry-pi", 2, "did you mean 'raspberry-pi-5'?", "known: beaglebone-"),
    Wrong("profiles show jetson-orin-nano:15", 2, "has no mode '15'; did you mean '15w'?", "its modes: maxn-super, "),
    Wrong("profiles new line --from cpu_x86", 2, "did you mean 'cpu-x86'?", "known: beaglebone-"),
    Wrong("profiles check {work}/nowhere.toml", 2, "nowhere.toml does not exist", ""),
    Wrong("profiles check {recipes}/not_toml.toml", 2, "cannot be read as TOML", ""),
    Wrong("profiles check {recipes}/unknown_key.toml", 2, "line 1: epoch: unknown key", ""),
]
# fmt: on


@pytest.fixture(scope="module")
def places(digits: Path, checkpoint: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the command lines above name."""
    base = tmp_path_factory.mktemp("places")
    found = {
        "digits": digits,
        "checkpoint": checkpoint,
        "bundle": bundle,
        "image": next(digits.glob("7/*.png")),
        "lone_model": base / "alone" / "model.onnx",
        "demo": digits_folder(base / "demo"),
    }
    for name in ("texts", "empty", "others", "damaged", "recipes", "work"):
        found[name] = base / name
        found[name].mkdir()
    for name in "ab":
        images.write(found["texts"] / name, {"1.txt": b"one", "2.txt": b"two"})
    images.class_folders(found["others"], {"0": 2, "cat": 2})
    images.write(images.class_folders(found["damaged"], {"a": 8, "b": 8}) / "a", images.bad())
    images.write(found["recipes"], {name: text.encode() for name, text in RECIPES.items()})
    elsewhere = (ROOT / "profiles/cpu-x86.toml").read_text(encoding="utf-8").replace('name = "cpu-x86"', 'name = "elsewhere"')
    assert elsewhere.count("x86_64") == 1
    (found["recipes"] / "elsewhere.toml").write_text(elsewhere.replace("x86_64", "riscv64"), encoding="utf-8")
    for name, source, file in (
        ("tampered_bundle", bundle, read_manifest(bundle).model().file),
        ("tampered_checkpoint", checkpoint, WEIGHTS),
    ):
        found[name] = Path(shutil.copytree(source, base / name))
        changed = bytearray((found[name] / file).read_bytes())
        changed[len(changed) // 2] ^= 1
        (found[name] / file).write_bytes(changed)
    found["foreign_manifest"] = Path(shutil.copytree(bundle, base / "foreign_manifest"))
    manifest = found["foreign_manifest"] / MANIFEST
    manifest.write_text(manifest.read_text(encoding="utf-8").replace('"checkpoint_sha256"', '"chekpoint_sha256"'), encoding="utf-8")
    found["lone_model"].parent.mkdir()
    shutil.copy(bundle / "model.fp32.onnx", found["lone_model"])
    return found


@pytest.fixture(autouse=True)
def work(places: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch, caches: Path) -> Iterator[Path]:
    """Run in a directory without network access; the test must leave no files there and must not change its inputs."""
    monkeypatch.chdir(places["work"])
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # the port on which nothing is sent back
    monkeypatch.setenv("no_proxy", "")
    inputs = [path for path in places.values() if path.is_dir()]
    before = tree(*inputs)
    yield places["work"]
    assert tree(*inputs) == before
    assert not [path for path in caches.rglob("*") if "partial" in path.name]


def words(line: str, places: Mapping[str, Path]) -> list[str]:
    return [word.format_map({name: str(path) for name, path in places.items()}) for word in line.split()]


@pytest.mark.parametrize("json_too", [False, True], ids=["text", "json"])
@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.line)
def test_a_mistake_is_explained(wrong: Wrong, json_too: bool, places: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    ended = here(capfd, *words(wrong.line, places), *(["--json"] if json_too else []))
    assert (ended.code, ended.out) == (wrong.code, ""), ended.err
    said = re.search(r"^error: (.+?)(?:^hint: (.+))?\Z", ended.err, re.MULTILINE | re.DOTALL)
    assert said is not None
    assert wrong.message in said[1]
    assert wrong.hint in (said[2] or "")
    assert "Traceback" not in ended.err
    assert "\x1b" not in ended.err


def misspelled(option: str) -> str:
    """The option with its last letter changed to one that makes no option of any command."""
    known = {text for _, text in OPTIONS} | {"--help", "--version"}
    return next(option[:-1] + letter for letter in string.ascii_lowercase if option[:-1] + letter not in known)


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_a_misspelled_option_is_refused(name: str, option: str, capfd: pytest.CaptureFixture[str]) -> None:
    typo = misspelled(option)
    ended = here(capfd, *name.split(), typo)
    assert (ended.code, ended.out) == (2, "")
    assert f"No such option '{typo}'" in ended.err.replace(f"option: {typo}", f"option '{typo}'")
    assert option in ended.err.partition(typo)[2].partition("\nhint: ")[0]  # named as what was meant
    assert f"hint: see: tlx {name} --help" in ended.err


@pytest.mark.parametrize("name", [name for name, command in commands().items() if any("--device" in p.opts for p in command.params)])
def test_a_gpu_that_is_not_here(name: str, places: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU, so there is nothing to refuse")
    lines = {
        "finetune": "finetune {digits} --weights embedded",
        "data": "data {digits}",
        "evaluate": "evaluate {bundle} {digits}",
        "bench": "bench {bundle}",
        "verify": "verify {bundle}",
        "predict": "predict {bundle} {image}",
    }
    ended = here(capfd, *words(lines[name], places), "--device", "cuda", "--json")
    assert (ended.code, ended.out) == (4, ""), ended.err
    assert "cuda:0" in ended.err
    assert "hint: " in ended.err


def test_nothing_fits(places: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    line = "export {checkpoint} -t raspberry-pi-5 --precision fp32 --max-size 1kB --json"
    ended = here(capfd, *words(line, places))
    assert (ended.code, ended.out) == (6, "")
    size = (places["bundle"] / "model.fp32.onnx").stat().st_size
    assert f"fp32: size {size / 1e6:.2f} MB > 1.00 kB" in ended.err
    assert "hint: the nearest is fp32" in ended.err


def test_over_the_budget(places: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    manifest = read_manifest(places["bundle"])
    if manifest.target != "cpu-x86" or manifest.model().latency is None:
        pytest.skip("no bundle is for this machine, so there is no budget to hold a measurement against")
    strict = Path(shutil.copytree(places["bundle"], tmp_path / "strict"))
    profile = manifest.profile.model_copy(update={"budget": Budget(latency_p95="1 ns")})
    Manifest.model_copy(manifest, update={"profile": profile}).write(strict / MANIFEST)
    ended = here(capfd, "bench", strict, "--check", "--runs", "5", "--seconds", "0", "--json")
    assert ended.code == 6
    assert "p95 latency" in ended.err
    assert "> 1e-06 ms" in ended.err
    assert [measurement["precision"] for measurement in json.loads(ended.out)] == [m.artifact.precision for m in manifest.models]
    within = here(capfd, "bench", places["bundle"], "--check", "--runs", "5", "--seconds", "0", "--json")
    assert within.code == 0, within.err


def test_the_budget_of_another_device_is_refused(places: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    elsewhere = Path(shutil.copytree(places["bundle"], tmp_path / "elsewhere"))
    board = resolve("jetson-xavier-nx").profile
    read_manifest(elsewhere).model_copy(update={"target": board.name, "profile": board}).write(elsewhere / MANIFEST)
    ended = here(capfd, "bench", elsewhere, "--check", "--json")
    assert (ended.code, ended.out) == (4, "")
    assert "is for jetson-xavier-nx, but this machine is not one" in ended.err


def test_a_tampered_bundle_does_not_verify(places: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    file = read_manifest(places["tampered_bundle"]).model().file
    ended = here(capfd, "verify", places["tampered_bundle"], "--json")
    assert ended.code == 5
    answer = json.loads(ended.out)
    assert (answer["bundle"], answer["ok"]) == (str(places["tampered_bundle"]), False)
    assert [check["name"] for check in answer["checks"] if not check["ok"]] == [f"hash {file}"]
    assert f"hash {file}" in ended.err
    assert "hint: " in ended.err
    text = here(capfd, "verify", places["tampered_bundle"])
    assert text.code == 5
    assert [line for line in text.out.splitlines() if line.startswith(f"FAILED hash {file}: found ")]


def test_a_bug_keeps_its_traceback(work: Path) -> None:
    """An exception that is no TlxError is put where a bug could be."""
    broken = "import tlexport.api.backbones as api\napi.list_backbones = lambda: 1 / 0\nfrom tlexport.cli.main import main\nmain()"
    ended = process("backbones", cwd=work, program=[sys.executable, "-P", "-c", broken])
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("Traceback (most recent call last)")
    assert ended.err.endswith("ZeroDivisionError: division by zero\n")


@pytest.mark.parametrize("line", ["profiles show cpu-x86", "profiles list", "profiles list --json"])
def test_the_reader_may_go_away(line: str, work: Path) -> None:
    """As in `tlx ... | head -0`."""
    with start(*line.split(), cwd=work, stdout=PIPE, stderr=PIPE) as child:
        child.stdout.close()
        assert child.stderr.read() == b""
    assert child.returncode == 1


def test_every_error_has_a_code_that_the_help_explains(capfd: pytest.CaptureFixture[str]) -> None:
    text = " ".join(here(capfd, "--help").out.split())
    codes = {
        "failed step": errors.StepFailed,
        "wrong usage or invalid file": errors.UsageError,
        "missing dependency": errors.MissingDependency,
        "not supported on this target": errors.Unsupported,
        "verification failed": errors.VerificationFailed,
        "over budget": errors.OverBudget,
    }
    for words_, error in codes.items():
        assert f"{error.exit_code} {words_}" in text
    assert f"{errors.INTERRUPTED} interrupted" in text
    known = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TlxError)}
    assert known == {kind.exit_code for kind in codes.values()}

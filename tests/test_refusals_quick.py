"""What is mistyped is refused before torch, ONNX and ONNX Runtime are imported, which takes seconds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from commands import process

# each command line is run in a fork of one process, which prints the exit code, the message and the heavy modules that it has imported
REFUSE = """
import contextlib, io, json, os, sys
from tlexport.cli.main import run
heavy = {"torch", "torchvision", "onnx", "onnxruntime", "sklearn", "matplotlib", "scipy"}
for line in json.loads(sys.argv[1]):
    if os.fork() == 0:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            code = run(line)
        print(json.dumps([line, code, said.getvalue(), sorted(heavy & set(sys.modules))]), flush=True)
        os._exit(0)
    os.wait()
"""
FINETUNE = ("finetune", "demo:digits")
EXPORT = ("export", "nothing", "--target", "cpu-x86")
MISTYPED = {
    ("finetun", "demo:digits"): "there is no command 'finetun'",
    (*FINETUNE, "--epoch", "3"): "No such option '--epoch'",
    (*FINETUNE, "--epochs", "many"): "'many' is not a valid integer range",
    (*FINETUNE, "--backbone", "mobilenet_v9"): "there is no backbone 'mobilenet_v9'",
    (*FINETUNE, "--strategy", "partial", "--freeze", "stage9"): "mobilenet_v3_small has no stage 'stage9'",
    (*FINETUNE, "--backbone", "resnet18", "--freeze", "99"): "resnet18 has no stage '99'",
    (*FINETUNE, "--freeze", "stage1"): "strategy head trains the classifier alone",
    (*FINETUNE, "--weights", "embeded"): "--weights embeded: no such file",
    (*FINETUNE, "--weights", "embedded", "--backbone", "vgg11_bn"): "no embedded weights for vgg11_bn",
    (*FINETUNE, "--backbone", "inception_v3", "--image-size", "40"): "image_size = 40 is too small",
    (*FINETUNE, "--recipe", "nothing.toml"): "nothing.toml does not exist",
    (*FINETUNE, "--teacher", "nothing"): "nothing does not exist",
    (*FINETUNE, "--target", "jetson-nan"): "there is no profile 'jetson-nan'",
    (*FINETUNE, "--resume", "--restart"): "exclude each other",
    (*FINETUNE, "--out", "runs/latest"): "link to the newest run",
    ("export", "nothing", "--target", "jetson-nan"): "there is no profile 'jetson-nan'",
    EXPORT: "nothing is not a checkpoint",
    ("export", "--target", "cpu-x86"): "no CHECKPOINT was given",
    (*EXPORT, "--build-engine"): "needs no engine",
    (*EXPORT, "--yes", "--no-train"): "exclude each other",
    (*EXPORT, "--max-size", "big"): "'big' is not a quantity",
    ("bench", "nothing.onnx"): "nothing.onnx does not exist",
    ("estimate", "mobilenet_v9", "--target", "jetson-nano"): "mobilenet_v9 does not exist",
    ("estimate", "mobilenet_v2", "--target", "jetson-nan"): "there is no profile 'jetson-nan'",
    ("verify", "nothing"): "nothing is not a bundle",
    ("predict", "nothing", "photo.jpg"): "nothing does not exist",
    ("evaluate", "nothing", "demo:digits"): "nothing does not exist",
    ("profiles", "show", "jetson-nan"): "there is no profile 'jetson-nan'",
    ("backbones", "mobilenet_v9"): "there is no backbone 'mobilenet_v9'",
    ("demo", "--seed", "x"): "'x' is not a valid integer range",
}


def test_no_heavy_library_is_imported_to_refuse_what_is_mistyped(tmp_path: Path) -> None:
    ended = process(json.dumps(list(MISTYPED)), cwd=tmp_path, program=[sys.executable, "-P", "-c", REFUSE])
    found = {tuple(line): (code, said, heavy) for line, code, said, heavy in map(json.loads, ended.out.splitlines())}
    assert set(found) == set(MISTYPED), ended.err
    for line, message in MISTYPED.items():
        code, said, heavy = found[line]
        assert code in (2, 4), line
        assert message in said, (line, said)
        assert heavy == [], line
    assert list(tmp_path.iterdir()) == []

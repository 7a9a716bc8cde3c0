"""The verb ``export`` with invalid inputs: each is named with the next step, and no partial output remains."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import onnx
import pytest
import torch
from commands import here, tree
from exports import images, run
from safetensors.torch import load_file, save_file

from tlexport import plugins
from tlexport.bundle.manifest import read_manifest
from tlexport.checkpoint import DATASET, RECORD, WEIGHTS, read_checkpoint, read_dataset
from tlexport.export.checks import check_graph
from tlexport.export.ranges import Ranges
from tlexport.ports import QuantizeRequest
from tlexport.storage.files import sha256_of

SPOILED = "features.1.block.0.1.running_var"


class Bad(NamedTuple):
    """An export that must fail; {name} is replaced by a path in the fixture `spoiled`."""

    line: str
    code: int
    message: tuple[str, ...]  # expected in the message
    hint: str


# fmt: off
BAD = [
    Bad("{few} -t cpu-x86", 2, ("calibration", "9 training images", "10 classes"), "--precision fp32"),
    Bad("{nan} -t cpu-x86", 2, (WEIGHTS, SPOILED, "not finite", "3 of the 16"), "tlx finetune DATA --lr"),
    Bad("{sound} -t jetson-nano --precision int8", 4, ("Jetson Nano", "no int8"), "--precision fp32 or fp16"),
    Bad("{sound} -t cpu-x86 --max-size 0", 2, ("--max-size", "'0'"), "tlx export --help"),
    Bad("{sound} -t cpu-x86 --max-size 0kB", 2, ("--max-size", "a limit must be greater than 0"), "tlx export --help"),
    Bad("{sound} -t cpu-x86 --max-latency 0us", 2, ("--max-latency", "must be greater than 0"), "tlx export --help"),
]
# fmt: on


@pytest.fixture(scope="module")
def spoiled(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The checkpoint, and copies of it that each have one fault."""
    folder = tmp_path_factory.mktemp("spoiled")
    few, nan = (Path(shutil.copytree(checkpoint, folder / name)) for name in ("few", "nan"))
    dataset = read_dataset(few)
    first = {sample.label: sample for sample in dataset.part("train")}  # one of each class
    kept = (*(first[label] for label in sorted(first)[:-1]), *dataset.part("val"))
    dataset.model_copy(update={"samples": kept}).write(few / DATASET)
    weights = load_file(nan / WEIGHTS)
    weights[SPOILED][:3] = torch.nan
    save_file(weights, nan / WEIGHTS)
    sign(nan)
    return {"sound": str(checkpoint), "few": str(few), "nan": str(nan)}


def sign(path: Path) -> None:
    """Update the record to the weights beside it."""
    record = json.loads((path / RECORD).read_text(encoding="utf-8")) | {"weights_sha256": sha256_of(path / WEIGHTS)}
    (path / RECORD).write_text(json.dumps(record), encoding="utf-8")
    read_checkpoint(path)


# each at a new place and over an earlier bundle; the one that is found late, after seconds, once
CASES = [pytest.param(bad, over, id=f"{bad.line}, over={over}") for bad in BAD for over in (True, False) if over or "{few}" not in bad.line]


@pytest.mark.parametrize(("bad", "over"), CASES)
def test_it_is_explained_and_nothing_is_written(
    bad: Bad, over: bool, spoiled: dict[str, str], bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    if over:
        shutil.copytree(bundle, out)
    before = tree(tmp_path)
    ended = here(capfd, "export", *bad.line.format_map(spoiled).split(), "--out", out, "--json")
    assert (ended.code, ended.out) == (bad.code, ""), ended.err
    error, _, hint = ended.err.rpartition("error: ")[2].partition("\nhint: ")
    assert [words for words in bad.message if words not in error] == []
    assert bad.hint in hint
    assert tree(tmp_path) == before


# --- operators --------------------------------------------------------------------------------------------------------


def with_operator(model: onnx.ModelProto, operator: str, domain: str = "") -> onnx.ModelProto:
    """The graph with one more node, named `more`, behind its first ReLU: as Abs it changes nothing, since that is never negative."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    nodes = list(changed.graph.node)
    place = next(index for index, node in enumerate(nodes) if node.op_type == "Relu")
    output = nodes[place].output[0]
    nodes[place].output[0] = "before"
    nodes.insert(place + 1, onnx.helper.make_node(operator, ["before"], [output], name="more", domain=domain))
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    if domain:
        changed.opset_import.append(onnx.helper.make_opsetid(domain, 1))
    return changed


@pytest.mark.parametrize("name", plugins.names("quantizers"))
def test_what_a_quantizer_does_not_know_stays_as_it_is(name: str, checkpoint: Path, bundle: Path) -> None:
    model = with_operator(onnx.load(bundle / "model.fp32.onnx"), "Abs")
    quantizer = plugins.quantizer(name)
    quantized = quantizer.quantize(QuantizeRequest(model, Ranges(model, images(checkpoint, "train")[0]).whole, "int8"))
    assert [node.op_type for node in quantized.graph.node if node.name == "more"] == ["Abs"]
    record = read_manifest(bundle).model("fp32").artifact
    check_graph(quantized, quantizer.PRECISION, record.inputs, record.outputs)
    pixels = images(checkpoint, "val")[0]
    reference, outputs = run(model, pixels), run(quantized, pixels, as_written=True)
    assert (reference.argmax(axis=1) == outputs.argmax(axis=1))[reference.max(axis=1) > 0.7].all()


def test_an_operator_that_no_runtime_has_to_know_is_refused(
    checkpoint: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What torch writes for a layer of someone's own."""
    model = with_operator(onnx.load(bundle / "model.fp32.onnx"), "Twirl", "com.example")
    monkeypatch.setattr("tlexport.optimize.candidates.to_onnx", lambda *_: model)
    ended = here(capfd, "export", checkpoint, "-t", "cpu-x86", "--out", tmp_path / "out", "--json")
    assert (ended.code, ended.out) == (4, ""), ended.err
    assert "com.example.Twirl (at more)" in ended.err
    assert "hint: " in ended.err
    assert "tlx backbones" in ended.err
    assert not list(tmp_path.iterdir())


# --- unusual but valid inputs -----------------------------------------------------------------------------------------


def test_nothing_may_be_lost(checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A limit of 0 points is one that FP32 keeps."""
    ended = here(capfd, "export", checkpoint, "-t", "jetson-nano", "--max-drop", "0", "--out", tmp_path / "out", "--json")
    assert ended.code == 0, ended.err
    [chosen] = [model for model in json.loads(ended.out)["models"] if model["chosen"]]
    assert chosen["drop_points"] <= 0

"""Exports for boards with an old Python: opset, IR version and operators that its newest ONNX Runtime reads."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from graphs import noise, request_for, small

from tlexport.errors import InvalidFile
from tlexport.export.rewrite import lower
from tlexport.hardware.profile import PYTHON_OPSETS
from tlexport.hardware.target import load_profile
from tlexport.quantizers import fp16, int8_onnxruntime

CONTRIB_1_10 = {"QLinearSigmoid", "QLinearMul", "QLinearAdd", "QLinearGlobalAveragePool", "QLinearConcat", "QLinearAveragePool"}
BOARD = """
extends = "cpu-arm64"
name = "old-board"
title = "A board"
[match]
machine = "aarch64"
[opset]
value = {opset}
source = "what the board's ONNX Runtime reads"
status = "assumed"
[software.python]
value = "{python}"
source = "the board's system brings it"
status = "read"
"""


def with_swish(opset: int) -> onnx.ModelProto:
    """The small classifier with a swish behind its first convolution, at an opset."""
    model = small(17)
    at = [node.name for node in model.graph.node].index("node_f")
    model.graph.node.remove(model.graph.node[at])
    for place, (kind, inputs, output) in enumerate([("Sigmoid", ["e"], "gate"), ("Mul", ["e", "gate"], "f")]):
        model.graph.node.insert(at + place, onnx.helper.make_node(kind, inputs, [output], name=f"node_{output}"))
    return lower(model, opset)


@pytest.mark.parametrize("activations", ["uint8", "int8"])
@pytest.mark.parametrize("variant", int8_onnxruntime.VARIANTS)
@pytest.mark.parametrize("opset", [13, 15])
def test_int8_for_onnx_runtime_1_10(opset: int, variant: str, activations: str) -> None:
    asked = request_for(with_swish(opset), noise(4), activations)
    made = int8_onnxruntime.quantize(type(asked)(asked.model, asked.ranges, asked.activations, variant=variant))
    assert made.ir_version <= 8
    assert next(entry.version for entry in made.opset_import if entry.domain == "") == opset
    vendor = {node.op_type for node in made.graph.node if node.domain == "com.microsoft"}
    assert vendor <= CONTRIB_1_10
    for node in made.graph.node:
        if not node.domain:
            assert onnx.defs.get_schema(node.op_type, opset, "").since_version <= opset


@pytest.mark.parametrize("opset", [13, 15])
def test_fp16_for_onnx_runtime_1_10(opset: int) -> None:
    made = fp16.quantize(request_for(with_swish(opset), noise(4)))
    assert made.ir_version <= 8
    assert {node.domain for node in made.graph.node} == {""}


def test_newer_opsets_keep_the_swish_in_one_node() -> None:
    made = int8_onnxruntime.quantize(request_for(with_swish(17), noise(4), "uint8"))
    assert "QuickGelu" in {node.op_type for node in made.graph.node}


@pytest.mark.parametrize(("since", "version", "opset"), PYTHON_OPSETS, ids=lambda value: str(value))
def test_a_profile_asks_for_no_more_than_its_python_can_have(since: tuple[int, int], version: str, opset: int, tmp_path: Path) -> None:
    file, python = tmp_path / "old-board.toml", ".".join(map(str, since))
    file.write_text(BOARD.format(opset=opset, python=python), encoding="utf-8")
    assert load_profile(str(file)).opset.value == opset
    if opset == 25:  # the largest that any profile may ask for
        return
    file.write_text(BOARD.format(opset=opset + 1, python=python), encoding="utf-8")
    with pytest.raises(InvalidFile, match=f"ONNX Runtime {version}, the newest for Python {python}, reads up to {opset}"):
        load_profile(str(file))


def test_a_python_before_3_6_has_none(tmp_path: Path) -> None:
    file = tmp_path / "old-board.toml"
    file.write_text(BOARD.format(opset=13, python="3.5"), encoding="utf-8")
    with pytest.raises(InvalidFile, match=r"Python 3\.5 is too old"):
        load_profile(str(file))

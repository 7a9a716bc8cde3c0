"""Quantized graphs, restored to their FP32 structure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from exports import exported, images, run

from tlexport.estimate.boards import work
from tlexport.estimate.cost import cost_of
from tlexport.estimate.dequantized import in_fp32
from tlexport.estimate.graph import fused, with_shapes
from tlexport.export.ranges import Ranges
from tlexport.onnx_model.graph import copy_of
from tlexport.ports import QuantizeRequest
from tlexport.quantizers import int8_onnxruntime

TARGETS = ["cpu-x86", "jetson-xavier-nx", "jetson-orin-nano"]  # uint8 with FP32 scales; int8 likewise; int8 with FP16 scales
LOWER = ["fp16", "int8"]


def work_of(model: onnx.ModelProto, *, after_the_first: bool) -> dict[str, float]:
    """Of all layers, or of those behind the first convolution."""
    cost = cost_of(fused(in_fp32(with_shapes(model, {}, "it")), layout=False))
    first = next(place for place, layer in enumerate(cost.layers) if layer.macs)
    return work(replace(cost, layers=cost.layers[first + 1 :]) if after_the_first else cost)


@pytest.mark.parametrize("precision", LOWER)
@pytest.mark.parametrize("target", TARGETS)
def test_the_work_is_that_of_fp32(checkpoint: Path, target: str, precision: str) -> None:
    """Every form of the graph has the same layers, MACs, weights and activations, except for the zero channels of INT8 for ONNX
    Runtime, and its handling of the pixels and the convolution that reads them."""
    padded = (target, precision) == ("cpu-x86", "int8")
    expected, found = (work_of(exported(checkpoint, target).graph(name), after_the_first=padded) for name in ("fp32", precision))
    assert found == pytest.approx(expected, rel=0.04 if padded else 1e-9)


def test_pixels_that_the_first_convolution_takes_as_they_are(checkpoint: Path) -> None:
    """They were never quantized, so that there is no pair to take out. Which layers an export leaves in float depends on the machine."""
    whole = exported(checkpoint, "cpu-x86").graph("fp32")
    ranges = Ranges(whole, images(checkpoint, "train")[0][:32]).whole
    lower = int8_onnxruntime.quantize(QuantizeRequest(whole, ranges, "uint8"))
    made = {name for node in lower.graph.node if node.op_type == "QuantizeLinear" for name in node.output}
    constants = {tensor.name for tensor in lower.graph.initializer}
    assert [node for node in lower.graph.node if node.op_type == "DequantizeLinear" and not {node.input[0]} & (made | constants)]
    expected, found = (work_of(model, after_the_first=True) for model in (whole, lower))
    assert found == pytest.approx(expected, rel=0.04)


@pytest.mark.parametrize(
    ("target", "precision"),
    # what is left out: for x86 a ReLU of INT8 is in the range of the Q behind it, and goes with it; in a convolution it costs nothing
    [(target, precision) for target in TARGETS for precision in LOWER if (target, precision) != ("cpu-x86", "int8")],
)
def test_it_still_computes_what_it_did(checkpoint: Path, target: str, precision: str) -> None:
    """Of INT8 the rounded weights are left, of FP16 the rounded constants: the answers are those of FP32 but for that."""
    made, pixels = exported(checkpoint, target), images(checkpoint, "val")[0]
    model = made.graph(precision)
    before = model.SerializeToString(deterministic=True)
    plain = in_fp32(model)
    assert model.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(plain, full_check=True)
    assert not {node.op_type for node in plain.graph.node} & {"QuantizeLinear", "DequantizeLinear"}
    assert {tensor.data_type for tensor in plain.graph.initializer} <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}
    reference, outputs = run(made.graph("fp32"), pixels), run(plain, pixels)
    assert np.abs(outputs - reference).mean() < 0.01
    assert (outputs.argmax(axis=1) == reference.argmax(axis=1)).mean() > 0.95


def test_fp32_comes_back_as_it_is(checkpoint: Path) -> None:
    model = exported(checkpoint, "cpu-x86").graph("fp32")
    assert in_fp32(model) is model
    assert model == copy_of(model)

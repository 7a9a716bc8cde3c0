"""Fake quantization: the same grid as the quantizers, without changing the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from exports import images, run
from torch import Tensor, nn
from variants import light_variants, settle

from tlexport.checkpoint import read_checkpoint
from tlexport.export.ranges import Ranges
from tlexport.export.to_onnx import to_onnx
from tlexport.network import Contract, build, load_network
from tlexport.ports import QuantizeRequest
from tlexport.quantizers import int8_onnxruntime, int8_tensorrt
from tlexport.train.fake_quant import Activations, FakeQuantization, fake_quantized

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def graph(checkpoint: Path) -> onnx.ModelProto:
    record = read_checkpoint(checkpoint)
    return to_onnx(load_network(checkpoint, record), record.preprocess, "uint8", 17)


def test_weights_are_what_the_quantizer_makes_of_them(checkpoint: Path, graph: onnx.ModelProto) -> None:
    ranges = Ranges(graph, images(checkpoint, "train")[0][:2]).whole
    made = int8_tensorrt.quantize(QuantizeRequest(graph, ranges, "int8"))  # which adds no channels
    floats = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    integers = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    seen = 0
    for node in made.graph.node:
        name = node.input[0].removesuffix("_quantized")
        if node.op_type == "DequantizeLinear" and floats.get(name, np.zeros(0)).ndim == 4:
            scale = integers[node.input[1]].reshape(-1, 1, 1, 1)
            ours = fake_quantized(torch.tensor(floats[name])).numpy()
            # half a step is rounded either way
            steps = np.abs(ours / scale - integers[node.input[0]])
            assert steps.max() < 1.001, name
            assert (steps > 0.001).mean() < 1e-3, name
            seen += 1
    assert seen == sum(node.op_type == "Conv" for node in graph.graph.node)


def test_batch_norm_need_not_be_folded_first() -> None:
    torch.manual_seed(0)
    weight, factor = torch.randn(8, 4, 3, 3), torch.randn(8, 1, 1, 1) * 10
    torch.testing.assert_close(fake_quantized(weight) * factor, fake_quantized(weight * factor))


def test_gradients_go_straight_through() -> None:
    weight = torch.randn(4, 3, 3, 3, requires_grad=True)
    fake_quantized(weight).sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.ones_like(weight))


@pytest.mark.parametrize("activations", ["uint8", "int8"])
def test_computes_what_the_int8_graph_computes(checkpoint: Path, graph: onnx.ModelProto, activations: Activations) -> None:
    record = read_checkpoint(checkpoint)
    network, contract = load_network(checkpoint, record), Contract(record.preprocess)
    pixels = images(checkpoint, "train")[0][:40]
    simulation = FakeQuantization(activations, record.preprocess.std)

    def simulated() -> Tensor:
        with torch.no_grad():
            return torch.softmax(simulation(network, contract(torch.from_numpy(pixels))), 1)

    exact = simulated().numpy()  # nothing is rounded yet
    simulation.quantizing = True
    ours = simulated().numpy()
    np.testing.assert_allclose(exact, run(graph, pixels), atol=1e-5)
    quantizer = int8_onnxruntime if activations == "uint8" else int8_tensorrt
    model = quantizer.quantize(QuantizeRequest(graph, Ranges(graph, pixels).whole, activations))
    theirs = run(model, pixels, as_written=True)
    error = np.abs(theirs - exact).mean()
    assert error > 1e-4
    assert 0.5 * error < np.abs(ours - exact).mean() < 2 * error
    # which way a value is rounded hangs on its last bits; still, two that round alike err alike. Not so with uint8: the frame around the
    # pixels is a whole one there, so that no value behind the first convolution is the same to its last bits
    assert activations == "uint8" or np.corrcoef((ours - exact).ravel(), (theirs - exact).ravel())[0, 1] > 0.3


def test_the_first_weights_are_rounded_with_the_normalisation_in_them(checkpoint: Path, graph: onnx.ModelProto) -> None:
    """As the INT8 graph has them, whose first convolution takes pixels."""
    made = int8_onnxruntime.quantize(QuantizeRequest(graph, Ranges(graph, images(checkpoint, "train")[0][:2]).whole, "uint8"))
    known = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    conv = next(node for node in made.graph.node if node.op_type == "Conv")
    pair = next(node for node in made.graph.node if node.output[0] == conv.input[1])
    in_blocks = known[pair.input[0]] * known[pair.input[1]].reshape(-1, 1, 1, 1)  # (filter, 2 rows x 2 columns x 3, 2, 2), of 4 x 4 pixels
    rows = in_blocks.reshape(-1, 2, 2, 3, 2, 2).transpose(0, 3, 4, 1, 5, 2).reshape(-1, 3, 4, 4)
    assert not rows[:, :, 3].any()
    assert not rows[..., 3].any()
    theirs = rows[:, :, :3, :3]
    std = np.array(read_checkpoint(checkpoint).preprocess.std, np.float32)
    first = next(node for node in graph.graph.node if node.op_type == "Conv").input[1]
    weight = torch.tensor(next(onnx.numpy_helper.to_array(tensor) for tensor in graph.graph.initializer if tensor.name == first))
    seen: list[Tensor] = []

    class Watched(nn.Module):
        def forward(self, planes: Tensor) -> Tensor:
            eye = torch.eye(27).reshape(27, 3, 3, 3)  # each image is one weight's place
            seen.append(torch.nn.functional.conv2d(eye, weight))
            return seen[-1]

    simulation = FakeQuantization("uint8", tuple(std))
    simulation.quantizing = True
    simulation(Watched(), torch.zeros(1))
    ours = seen[0].reshape(27, -1).T.reshape(weight.shape).numpy() / (255 * std.reshape(1, 3, 1, 1))
    step = known[pair.input[1]].reshape(-1, 1, 1, 1)
    off = np.abs(ours - theirs) / step
    assert off.max() < 1.001
    assert (off > 0.001).mean() < 0.01


@pytest.mark.parametrize("backbone", light_variants())
def test_the_network_stays_as_it_is_in_every_family(backbone: str) -> None:
    torch.manual_seed(0)
    network = build(backbone, 3).eval()
    planes = torch.randn(2, 3, 75, 75)
    settle(network, planes)
    before = {name: tensor.clone() for name, tensor in network.net.state_dict().items()}
    simulation = FakeQuantization("uint8")
    read: list[nn.Module] = [module for module in network.net.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        exact = network(planes)
        torch.testing.assert_close(simulation(network, planes), exact, rtol=0, atol=0)
        simulation.quantizing = True
        assert not torch.equal(simulation(network, planes), exact)
        with pytest.raises(RuntimeError, match="channels"):
            simulation(network, planes[:, :2])
        torch.testing.assert_close(network(planes), exact, rtol=0, atol=0)
    after = network.net.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not any(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module) for module in read)


def test_ranges_follow_the_batches() -> None:
    layer, simulation = nn.Linear(4, 4, bias=False), FakeQuantization("uint8")
    nn.init.eye_(layer.weight)
    simulation(layer, torch.full((2, 4), 1.0))
    simulation.quantizing = True
    with torch.no_grad():
        clipped = simulation(layer, torch.full((2, 4), 3.0)).max().item()
        for _ in range(200):
            followed = simulation(layer, torch.full((2, 4), 3.0)).max().item()
    assert 1.0 < clipped < 1.5
    assert followed == pytest.approx(3.0, abs=0.01)

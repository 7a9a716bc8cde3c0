"""Recovery training: it restores the accuracy lost to INT8 or pruning, and changes nothing else."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from exports import run
from torch import Tensor, nn
from torchvision import models

from tlexport.checkpoint import read_checkpoint, read_dataset
from tlexport.data.decode import decode_files
from tlexport.data.demo import digits_folder
from tlexport.errors import StepFailed
from tlexport.export.ranges import Ranges
from tlexport.export.to_onnx import to_onnx
from tlexport.network import Network, load_network
from tlexport.ports import Pixels, QuantizeRequest, Silent, Task
from tlexport.quantizers import int8_onnxruntime
from tlexport.storage.cache import cache_folder
from tlexport.train.fake_quant import Activations
from tlexport.train.recover import Examples, RecoverySettings, logits_of, quantization_aware, recover

pytestmark = pytest.mark.usefixtures("one_thread")

FEW = 24  # images on which a short training shows the effect


class Digits:
    """A trained network, its contract, and digits that it never saw: to train with, and held out."""

    def __init__(self, checkpoint: Path) -> None:
        self.path, self.preprocess = checkpoint, read_checkpoint(checkpoint).preprocess
        folder, classes = digits_folder(cache_folder() / "digits"), read_dataset(checkpoint).classes
        files = [sorted((folder / name).iterdir(), reverse=True) for name in classes]
        self.pixels, self.labels = self._part([each[:16] for each in files])
        self.held_out, self.held_out_labels = self._part([each[16:36] for each in files])

    def _part(self, files: list[list[Path]]) -> tuple[Pixels, Tensor]:
        flat = [(file, label) for label, each in enumerate(files) for file in each]
        return decode_files([file for file, _ in flat], self.preprocess)[0], torch.tensor([label for _, label in flat])

    def network(self) -> Network:
        return load_network(self.path, read_checkpoint(self.path))

    def few(self) -> tuple[Examples, Tensor]:
        """The images of a short training, and the teacher's logits."""
        pixels = self.pixels[::7][:FEW]
        return Examples(self.preprocess, pixels, self.labels[::7][:FEW]), logits_of(self.network(), self.preprocess, pixels)


@pytest.fixture(scope="module")
def digits_and_network(checkpoint: Path) -> Digits:
    return Digits(checkpoint)


def weights(network: Network) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.net.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def ruin(network: Network, factor: float = 200.0) -> int:
    """The same function, with the strongest channel before some depthwise convolutions so many times as large; how many of these.

    With one scale for all channels of an activation, INT8 has next to nothing left for the others.
    """
    layers = [module for module in network.net.modules() if not list(module.children())]
    found = 0
    with torch.no_grad():
        for norm, relu, reader in zip(layers, layers[1:], layers[2:], strict=False):
            if isinstance(norm, nn.BatchNorm2d) and isinstance(relu, nn.ReLU) and isinstance(reader, nn.Conv2d) and reader.groups > 1:
                strongest = int(norm.weight.abs().argmax())
                norm.weight[strongest] *= factor
                norm.bias[strongest] *= factor
                reader.weight[strongest] /= factor
                found += 1
    return found


def in_int8(network: Network, digits: Digits) -> npt.NDArray[np.float32]:
    """Probabilities of the held-out digits, by ONNX Runtime's INT8."""
    graph = to_onnx(network, digits.preprocess, "uint8", 17)
    ranges = Ranges(graph, digits.pixels[::2]).whole
    return run(int8_onnxruntime.quantize(QuantizeRequest(graph, ranges, "uint8")), digits.held_out)


def divergence(reference: Tensor, probabilities: Tensor) -> float:
    """Mean Kullback-Leibler divergence of rows (image, class)."""
    return F.kl_div(probabilities.clamp(min=1e-9).log(), reference, reduction="batchmean").item()


@pytest.mark.slow
def test_int8_loses_less_after_training_for_it(digits_and_network: Digits) -> None:
    digits, network = digits_and_network, digits_and_network.network()
    exact = torch.softmax(logits_of(network, digits.preprocess, digits.held_out), 1)
    assert ruin(network) > 0
    torch.testing.assert_close(torch.softmax(logits_of(network, digits.preprocess, digits.held_out), 1), exact, atol=1e-4, rtol=0)
    before = weights(network)
    examples, settings = Examples(digits.preprocess, digits.pixels, digits.labels), RecoverySettings(seed=0, epochs=8)
    aware = quantization_aware(network, examples, "uint8", settings, Silent())
    assert same(weights(network), before)
    in_float = copy.deepcopy(network)
    recover(in_float, examples, logits_of(network, digits.preprocess, digits.pixels), settings, Silent())
    answers = [torch.from_numpy(in_int8(each, digits)) for each in (network, aware, in_float)]
    lost, lost_aware, lost_in_float = (divergence(exact, each) for each in answers)
    assert lost_aware < 0.7 * lost
    assert lost_aware < 0.7 * lost_in_float
    right, right_aware, right_in_float = ((each.argmax(1) == digits.held_out_labels).float().mean() for each in answers)
    assert right_aware > right
    assert right_aware > right_in_float


def test_what_comes_out_is_a_plain_float_network(digits_and_network: Digits) -> None:
    network = digits_and_network.network()
    examples, _ = digits_and_network.few()
    aware = quantization_aware(network, examples, "int8", RecoverySettings(seed=0, epochs=1), Silent())
    plain = models.get_model(network.backbone, weights=None, num_classes=network.num_classes)
    assert list(aware.net.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(aware.net.state_dict())
    planes = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(planes), aware(planes))
    assert all(parameter.grad is None for parameter in aware.parameters())
    # the exporter would write another layout of the weights out, node by node
    before, after = (to_onnx(each, examples.preprocess, "uint8", 17).graph.node for each in (network, aware))
    assert [(node.name, node.op_type) for node in after] == [(node.name, node.op_type) for node in before]


def test_what_was_cut_away_is_learned_again_from_the_teacher(digits_and_network: Digits) -> None:
    digits, network = digits_and_network, digits_and_network.network()
    teacher = logits_of(network, digits.preprocess, digits.pixels)
    exact = torch.softmax(logits_of(network, digits.preprocess, digits.held_out), 1)
    with torch.no_grad():
        for module in network.net.modules():
            if isinstance(module, nn.Conv2d) and module.groups == 1 and module.out_channels > 40:
                module.weight[::6] = 0
    before = divergence(exact, torch.softmax(logits_of(network, digits.preprocess, digits.held_out), 1))
    wrong = (digits.labels + 1) % 10  # only the teacher determines the labels
    recover(network, Examples(digits.preprocess, digits.pixels, wrong), teacher, RecoverySettings(seed=0, epochs=3), Silent())
    after = torch.softmax(logits_of(network, digits.preprocess, digits.held_out), 1)
    assert divergence(exact, after) < 0.5 * before


@pytest.mark.parametrize("simulate", [None, "uint8"])
def test_a_seed_fixes_everything(digits_and_network: Digits, simulate: Activations | None) -> None:
    def trained(seed: int) -> dict[str, Tensor]:
        network = digits_and_network.network()
        recover(network, *digits_and_network.few(), RecoverySettings(seed, 2, 1e-3, simulate), Silent())
        return weights(network)

    first = trained(1)
    assert same(first, trained(1))
    assert not same(first, trained(2))


def test_weights_move_and_statistics_stay(digits_and_network: Digits) -> None:
    network = digits_and_network.network()
    network.stages["stem"].requires_grad_(False)  # as after a fine-tuning that kept it frozen
    before, learned = weights(network), {name for name, _ in network.net.named_parameters()}
    recover(network, *digits_and_network.few(), RecoverySettings(0, 1, 1e-3, "uint8"), Silent())
    after = weights(network)
    assert {name for name in before if not torch.equal(before[name], after[name])} == learned
    assert not any(module.training for module in network.modules())


class Interrupting(Silent):
    """Ctrl-C at the second step."""

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Task]:
        moves = 0

        def advance(by: int, text: str = "") -> None:
            nonlocal moves
            moves += 1
            if moves == 2:
                raise KeyboardInterrupt

        yield advance


@pytest.mark.parametrize(
    ("lr", "progress", "expected"), [(1e-3, Interrupting(), KeyboardInterrupt), (1e30, Silent(), StepFailed)], ids=["ctrl-c", "not finite"]
)
def test_what_ends_early_leaves_the_weights_as_they_were(
    digits_and_network: Digits, lr: float, progress: Silent, expected: type[BaseException]
) -> None:
    network, few = digits_and_network.network(), digits_and_network.few()
    before, said = weights(network), logits_of(network, digits_and_network.preprocess, few[0].pixels)
    with pytest.raises(expected):
        recover(network, *few, RecoverySettings(0, 8, lr, "uint8"), progress)
    assert same(weights(network), before)
    torch.testing.assert_close(logits_of(network, digits_and_network.preprocess, few[0].pixels), said)

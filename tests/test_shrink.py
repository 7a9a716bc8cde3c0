"""Pruned networks: removed and remaining channels, and an unchanged function of the rest."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
import torch
from exports import run
from torch import Tensor, nn
from variants import parameters, settle

from tlexport import plugins
from tlexport.contract import Preprocess
from tlexport.errors import OverBudget, UsageError
from tlexport.export.to_onnx import to_onnx
from tlexport.network import Classifier, Contract, Network, build
from tlexport.plugins import traits_of
from tlexport.train import shrink

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = 7
FAMILIES = [min(plugins.backbone(family).VARIANTS, key=parameters) for family in plugins.names("backbones")]
# what differs most: squeeze-and-excitation after depthwise convolutions, shuffled channels, concatenated ones
QUICK = ("mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1")
PRUNED = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
WITH_HIDDEN = ["mobilenet_v3_small", pytest.param("vgg11_bn", marks=pytest.mark.slow)]


@dataclass(frozen=True)
class Case:
    """A random network that preserves activations, and its outputs for some images."""

    network: Network
    size: int
    pixels: npt.NDArray[np.uint8]  # (image, height, width, 3)
    images: Tensor  # the same, normalised
    logits: Tensor

    @property
    def preprocess(self) -> Preprocess:
        return Preprocess(size=self.size, resize=self.size)


def case_of(backbone: str) -> Case:
    torch.manual_seed(3)
    size = max(64, traits_of(backbone).smallest)
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    pixels = coarse.repeat(-(-size // 8), axis=1).repeat(-(-size // 8), axis=2)[:, :size, :size].copy()
    images = Contract(Preprocess(size=size, resize=size))(torch.from_numpy(pixels))
    network = build(backbone, CLASSES)
    settle(network, images)
    return Case(network, size, pixels, images, outputs(network, images))


@pytest.fixture(scope="module", params=PRUNED)
def case(request: pytest.FixtureRequest) -> Case:
    return case_of(request.param)


@pytest.fixture(scope="module")
def small() -> Case:
    return case_of("mobilenet_v3_small")


def outputs(network: Network, images: Tensor) -> Tensor:
    with torch.no_grad():
        return network(images)


def layers(network: Network) -> dict[str, nn.Conv2d | nn.Linear]:
    return {name: module for name, module in network.net.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}


def channels(network: Network) -> dict[str, int]:
    """Output channels of each layer."""
    return {name: len(layer.weight) for name, layer in layers(network).items()}


@pytest.mark.parametrize("multiple", [8, pytest.param(16, marks=pytest.mark.slow)])
def test_a_pruned_network_is_as_small_as_asked_and_whole(case: Case, multiple: int) -> None:
    whole = shrink.parameters(case.network)
    most = int(0.7 * whole)
    pruned = shrink.prune(case.network, case.size, most, multiple=multiple)
    assert 0.6 * whole < shrink.parameters(pruned) <= most
    logits = outputs(pruned, case.images)
    assert logits.shape == (len(case.images), CLASSES)
    assert torch.isfinite(logits).all()
    with torch.no_grad():
        assert torch.equal(pruned.net(case.images), logits)  # the stages are made of the pruned modules
    before, after = channels(case.network), channels(pruned)
    fewer = [name for name in before if after[name] < before[name]]
    assert fewer
    assert {after[name] % multiple for name in fewer} == {0}
    assert min(after[name] / before[name] for name in fewer) >= shrink.LEAST_CHANNELS
    assert all(layer.weight.requires_grad for layer in layers(pruned).values())
    assert torch.equal(outputs(case.network, case.images), case.logits)  # and what was given is as it was


def kill(network: Network, images: Tensor, count: int) -> int:
    """Zero the last channels that each layer but the last makes, and what reads them. Returns how many parameters are then zero."""
    *inner, _ = layers(network).values()
    norms = [module for module in network.net.modules() if isinstance(module, nn.BatchNorm2d)]
    read: dict[nn.Module, Tensor] = {}
    with torch.no_grad():
        for module in (*inner, *norms):
            if len(module.weight) >= 2 * count:
                for values in module.parameters(recurse=False):
                    values[-count:] = 0
        hooks = [
            layer.register_forward_pre_hook(lambda layer, given: read.__setitem__(layer, given[0].transpose(0, 1).flatten(1).abs().amax(1)))
            for layer in layers(network).values()
        ]
        network(images)
        for layer, hook in zip(layers(network).values(), hooks, strict=True):
            hook.remove()
            if getattr(layer, "groups", 1) == 1:
                layer.weight[:, read[layer] == 0] = 0
    return sum(int((values == 0).sum()) for values in network.parameters())


def test_channels_that_do_nothing_go_first_and_are_not_missed(case: Case) -> None:
    if any(isinstance(module, nn.LayerNorm) for module in case.network.modules()):
        pytest.skip("a LayerNorm's mean counts channels that do nothing")
    network = copy.deepcopy(case.network)
    dead = kill(network, case.images, shrink.MULTIPLE)
    expected = outputs(copy.deepcopy(network).double(), case.images.double())
    assert float(expected.std(dim=0).max()) > 1e-3
    most = shrink.parameters(network) - dead // 3
    pruned = shrink.prune(network, case.size, most)
    assert shrink.parameters(pruned) <= most
    torch.testing.assert_close(outputs(pruned.double(), case.images.double()), expected, rtol=1e-9, atol=1e-9)


def test_multiples_are_kept_where_all_channels_matter_equally_little(small: Case) -> None:
    network = copy.deepcopy(small.network)
    for values in network.parameters():
        nn.init.zeros_(values)
    before = channels(network)
    for _ in range(3):  # a lot of channels at a time; few layers have a multiple of 10
        network = shrink.prune(network, small.size, shrink.parameters(network) - 1, multiple=10)
        after = channels(network)
        assert {after[name] % 10 for name in before if after[name] < before[name]} == {0}


EXPORTED = [name if name == "mobilenet_v3_small" else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]


@pytest.mark.parametrize("backbone", EXPORTED)
def test_what_is_left_is_exported_as_any_network(backbone: str) -> None:
    case = case_of(backbone)
    fitted = shrink.to_fit(case.network, case.size, shrink.parameters(case.network) // 2)
    settle(fitted, case.images)
    with torch.no_grad():
        expected = Classifier(fitted, case.preprocess).eval()(torch.from_numpy(case.pixels)).numpy()
    spread = float(expected.std(axis=0).max())
    assert spread > 5e-4  # the images do get through
    graph = to_onnx(fitted, case.preprocess, "uint8", 17)
    np.testing.assert_allclose(run(graph, case.pixels), expected, atol=min(1e-4, spread / 100))


@pytest.mark.parametrize("backbone", WITH_HIDDEN)
def test_a_head_of_full_width_computes_the_same(backbone: str) -> None:
    case = case_of(backbone)
    widest = max(layer.out_features for layer in layers(case.network).values() if isinstance(layer, nn.Linear))
    assert torch.equal(outputs(shrink.slim_head(case.network, widest), case.images), case.logits)
    slim = shrink.slim_head(case.network, widest // 4)
    *hidden, _ = (layer.out_features for layer in layers(slim).values() if isinstance(layer, nn.Linear))
    assert set(hidden) == {widest // 4}
    assert torch.equal(outputs(case.network, case.images), case.logits)


def test_a_slim_head_loses_what_matters_least(small: Case) -> None:
    network = copy.deepcopy(small.network)
    hidden, last = network.net.classifier[0], network.net.classifier[3]
    with torch.no_grad():  # one way or the other, every second channel does nothing
        hidden.weight[::4], hidden.bias[::4] = 0, 0
        last.weight[:, 2::4] = 0
    slim = shrink.slim_head(network, hidden.out_features // 2)
    assert slim.net.classifier[0].out_features == slim.net.classifier[3].in_features == hidden.out_features // 2
    torch.testing.assert_close(outputs(slim, small.images), outputs(network, small.images), rtol=1e-5, atol=1e-5)


def test_the_head_shrinks_before_channels_go(small: Case) -> None:
    whole, hidden = channels(small.network), "classifier.0"
    rest = {name: count for name, count in whole.items() if name != hidden}
    for share in (1.0, 0.9, 0.7):
        most = int(share * shrink.parameters(small.network))
        fitted = channels(shrink.to_fit(small.network, small.size, most))
        assert {name: fitted[name] for name in rest} == rest
        assert (fitted[hidden] < whole[hidden]) == (share < 1)
        if share < 1:  # and no further than it has to
            assert shrink.parameters(shrink.slim_head(small.network, fitted[hidden] + shrink.HIDDEN_STEP)) > most
    least = shrink.slim_head(small.network, shrink.LEAST_HIDDEN)
    fitted = channels(shrink.to_fit(small.network, small.size, shrink.parameters(least) - 1))
    assert fitted[hidden] <= shrink.LEAST_HIDDEN
    assert fitted != channels(least)


def test_frozen_stages_lose_channels_too(small: Case) -> None:
    most = shrink.parameters(small.network) // 2
    frozen = copy.deepcopy(small.network).requires_grad_(False)
    with torch.no_grad():
        pruned = shrink.prune(frozen, small.size, most)
    assert channels(pruned) == channels(shrink.prune(small.network, small.size, most))


def test_less_than_the_least_is_refused_and_the_least_is_not(small: Case) -> None:
    with pytest.raises(OverBudget, match="mobilenet_v3_small cannot be pruned to 10,000 parameters") as caught:
        shrink.to_fit(small.network, small.size, 10_000)
    assert "smaller backbone" in caught.value.hint
    least = int(str(caught.value).split(": ")[1].split()[0].replace(",", ""))
    assert shrink.parameters(shrink.to_fit(small.network, small.size, least)) == least
    with pytest.raises(OverBudget, match=f"{least:,} are the least"):
        shrink.to_fit(small.network, small.size, least - 1)


@pytest.mark.parametrize("width", [0, -8, 1025])
def test_a_width_that_cannot_be_is_refused(small: Case, width: int) -> None:
    with pytest.raises(UsageError, match="1024"):
        shrink.slim_head(small.network, width)


def test_a_network_without_a_hidden_layer_has_none_to_slim() -> None:
    with pytest.raises(UsageError, match="resnet18 has no hidden layer"):
        shrink.slim_head(build("resnet18", CLASSES), 64)

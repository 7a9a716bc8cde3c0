"""Every backbone that the plug-ins offer: what its family declares about it is what it does."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from tlexport import plugins
from tlexport.api.backbones import describe_backbone, list_backbones
from tlexport.errors import UsageError
from tlexport.network import Network, backbone_names, build, cpu_threads, family_of

CLASSES = 7
FAMILIES = plugins.names("backbones")
SIDE = 32  # pixels; the least that a recipe takes

ASKED_FOR = (  # what the project promises to have
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    *(f"efficientnet_b{number}" for number in range(5)),
    "efficientnet_v2_s",
    "resnet18",
    "resnet34",
    "resnet50",
)


@dataclass(frozen=True)
class Case:
    """A variant built once, and what went through it stage by stage."""

    network: Network
    images: Tensor
    outputs: dict[str, Tensor]  # of each stage


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small only wait for a second thread."""
    with cpu_threads(1):
        yield


@pytest.fixture(scope="module", params=backbone_names())
def case(request: pytest.FixtureRequest) -> Case:
    torch.manual_seed(5)
    network = build(request.param, CLASSES).eval()
    images = tensor = torch.randn(2, 3, SIDE, SIDE)
    outputs = {}
    with torch.no_grad():
        for name, stage in network.stages.items():
            # a copy, since stages may work in place, and a next stage would change what is kept here
            tensor = stage(tensor.clone())
            outputs[name] = tensor
    return Case(network, images, outputs)


def features_of(case: Case) -> Tensor:
    """What the last stage before the head answers."""
    *_, features, _ = case.outputs.values()
    return features


def tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def test_every_backbone_that_was_promised_is_there() -> None:
    assert set(ASKED_FOR) <= set(backbone_names())
    assert len(backbone_names()) == len(set(backbone_names()))


def test_the_stages_compute_what_torchvisions_network_computes(case: Case) -> None:
    with torch.no_grad():
        expected = case.network.net(case.images.clone())
        assert torch.equal(case.network(case.images.clone()), expected)
    assert torch.equal(case.outputs["head"], expected)
    assert not torch.equal(expected[0], expected[1])  # the images do get through


def test_the_stages_go_from_stem_to_head(case: Case) -> None:
    names = list(case.network.stages)
    assert (names[0], names[-1]) == ("stem", "head")
    assert len(names) >= 4  # something lies between, for freezing to name
    assert not any(name.isdigit() for name in names)  # a number means a position
    heights = [output.shape[2] for output in case.outputs.values() if output.dim() == 4]
    assert heights == sorted(heights, reverse=True)
    assert heights[0] < SIDE


def test_the_trunk_ends_in_a_row_of_features_for_each_image(case: Case) -> None:
    features = features_of(case)
    assert features.dim() == 2
    assert len(features) == len(case.images)
    assert case.outputs["head"].shape == (len(case.images), CLASSES)


def test_every_tensor_belongs_to_exactly_one_stage(case: Case) -> None:
    inside = Counter(id(tensor) for stage in case.network.stages.values() for tensor in tensors(stage).values())
    whole = {id(tensor): name for name, tensor in tensors(case.network.net).items()}
    assert set(inside) == set(whole)
    assert [whole[key] for key, count in inside.items() if count != 1] == []
    assert all(list(stage.parameters()) for stage in case.network.stages.values())


def test_the_state_dict_is_torchvisions_own(case: Case) -> None:
    with torch.device("meta"):  # names and shapes alone
        plain = models.get_model(case.network.backbone, weights=None, num_classes=CLASSES)
    expected = {name: tensor.shape for name, tensor in plain.state_dict().items()}
    assert {name: tensor.shape for name, tensor in case.network.net.state_dict().items()} == expected
    assert list(case.network.net.state_dict()) == list(plain.state_dict())


def test_replacing_the_classifier_changes_the_head_alone(case: Case) -> None:  # the last one to use a case, since it changes it
    before = tensors(case.network.net)
    family_of(case.network.backbone).replace_classifier(case.network.net, CLASSES + 4)
    again = Network(case.network.backbone, CLASSES + 4, case.network.net).eval()
    *trunk, head = again.stages.values()
    kept = {id(tensor) for tensor in before.values()}
    assert all(id(tensor) in kept for stage in trunk for tensor in tensors(stage).values())
    replaced = [tensor for tensor in tensors(head).values() if id(tensor) not in kept]
    assert {len(tensor) for tensor in replaced} == {CLASSES + 4}
    assert head(features_of(case)).shape == (len(case.images), CLASSES + 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_freezing_takes_names_and_numbers(family: str) -> None:
    network = build(plugins.load("backbones", family).VARIANTS[0], 2)
    names = list(network.stages)
    for position, name in enumerate(names[:-1]):
        assert network.boundary(name) == network.boundary(str(position)) == position + 1


@pytest.mark.parametrize("freeze", ["stage9", "99", "-1", "²", ""])
def test_freezing_a_stage_that_is_not_there_is_refused(freeze: str) -> None:
    network = build("mobilenet_v3_small", 2)
    with pytest.raises(UsageError, match="has no stage") as caught:
        network.boundary(freeze)
    assert all(name in caught.value.hint for name in network.stages)


def test_freezing_the_head_is_refused() -> None:
    network = build("mobilenet_v3_small", 2)
    for freeze in ("head", str(len(network.stages) - 1)):
        with pytest.raises(UsageError, match="whole network") as caught:
            network.boundary(freeze)
        assert "top" in caught.value.hint


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'resnet50'"):
        build("resnet5", 2)
    with pytest.raises(UsageError, match="did you mean 'mobilenet_v2'"):
        describe_backbone("mobilenetv2")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_description_says_what_the_network_is(family: str) -> None:
    name = plugins.load("backbones", family).VARIANTS[0]
    detail = describe_backbone(name)
    with torch.device("meta"):
        plain = models.get_model(name, weights=None)
    assert detail.parameters == sum(parameter.numel() for parameter in plain.parameters())
    assert detail.parameters == sum(stage.parameters for stage in detail.stages)
    assert detail.family == family
    assert [stage.name for stage in detail.stages] == list(build(name, 2).stages)
    assert detail.stages[-1].output == "1000"
    side = int(detail.stages[0].output.split("x")[1])
    assert detail.image_size in (2 * side, 4 * side)  # a stem halves the side, or, with a pooling, quarters it
    assert 60 < detail.imagenet_top1 < 90


def test_the_list_needs_no_torch() -> None:
    code = "import sys; from tlexport.api.backbones import list_backbones; print(*[b.name for b in list_backbones()]); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert sorted(done.stdout.split()) == list(backbone_names())
    assert {backbone.family for backbone in list_backbones()} == set(FAMILIES)

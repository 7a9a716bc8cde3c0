"""Every backbone plug-in matches its declarations."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision import models
from variants import light_variants, settle

from tlexport import plugins
from tlexport.api.backbones import describe_backbone, list_backbones
from tlexport.errors import UsageError
from tlexport.network import Network, build
from tlexport.plugins import backbone_names, family_of, traits_of
from tlexport.train.phases import boundary_of

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = 7
SIDE = 32  # pixels; the least that a recipe takes
SMALL_STAGES = family_of("mobilenet_v3_small").VARIANTS["mobilenet_v3_small"]

ASKED_FOR = (  # what the project promises to have
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    *(f"efficientnet_b{number}" for number in range(8)),
    *(f"efficientnet_v2_{size}" for size in "sml"),
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    *(f"vgg{depth}_bn" for depth in (11, 13, 16, 19)),
    "inception_v3",
    "googlenet",
    *(f"squeezenet{version}" for version in ("1_0", "1_1")),
    *(f"shufflenet_v2_x{width}" for width in ("0_5", "1_0", "1_5", "2_0")),
    *(f"mnasnet{width}" for width in ("0_5", "0_75", "1_0", "1_3")),
    *(f"regnet_{kind}_{size}" for kind in "xy" for size in ("400mf", "800mf", "1_6gf")),
    "convnext_tiny",
)


@dataclass(frozen=True)
class Case:
    """A variant built once, and what went through it stage by stage."""

    network: Network
    images: Tensor
    outputs: dict[str, Tensor]  # of each stage


@pytest.fixture(scope="module", params=backbone_names())
def case(request: pytest.FixtureRequest) -> Case:
    torch.manual_seed(5)
    network = build(request.param, CLASSES)
    side = max(SIDE, traits_of(request.param).smallest)
    images = tensor = torch.randn(4, 3, side, side)
    outputs = {}
    settle(network, images)
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


def sources_own(backbone: str) -> Any:
    options = traits_of(backbone).builder
    if family_of(backbone).SOURCE == "timm":
        return timm.create_model(backbone, pretrained=False, num_classes=CLASSES, **options)
    try:
        with torch.device("meta"):  # names and shapes only
            return models.get_model(backbone, weights=None, num_classes=CLASSES, **options)
    except NotImplementedError:  # a RegNet computes its own widths with tensors
        return models.get_model(backbone, weights=None, num_classes=CLASSES, **options)


def tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def test_every_backbone_that_was_promised_is_there() -> None:
    assert set(ASKED_FOR) <= set(backbone_names())
    assert len(backbone_names()) == len(set(backbone_names()))


def test_the_stages_compute_what_the_sources_network_computes(case: Case) -> None:
    with torch.no_grad():
        expected = case.network.net(case.images.clone())
        assert torch.equal(case.network(case.images.clone()), expected)
    assert torch.equal(case.outputs["head"], expected)
    assert not torch.equal(expected[0], expected[1])  # the images do get through


def test_the_stages_go_from_stem_to_head(case: Case) -> None:
    names = list(case.network.stages)
    assert tuple(names) == family_of(case.network.backbone).VARIANTS[case.network.backbone]
    assert (names[0], names[-1]) == ("stem", "head")
    assert len(names) >= 4  # there are stages between them for --freeze
    assert not any(name.isdigit() for name in names)  # a number means a position
    heights = [output.shape[2] for output in case.outputs.values() if output.dim() == 4]
    assert heights == sorted(heights, reverse=True)
    assert heights[-1] < case.images.shape[2]


def test_the_trunk_ends_in_a_row_of_features_for_each_image(case: Case) -> None:
    features = features_of(case)
    convolves = any(isinstance(module, nn.Conv2d) for module in case.network.stages["head"].modules())
    assert features.dim() == (4 if convolves else 2)
    assert len(features) == len(case.images)
    assert case.outputs["head"].shape == (len(case.images), CLASSES)


def test_every_tensor_belongs_to_exactly_one_stage(case: Case) -> None:
    inside = Counter(id(tensor) for stage in case.network.stages.values() for tensor in tensors(stage).values())
    whole = {id(tensor): name for name, tensor in tensors(case.network.net).items()}
    assert set(inside) == set(whole)
    assert [whole[key] for key, count in inside.items() if count != 1] == []
    assert all(list(stage.parameters()) for stage in case.network.stages.values())


def test_the_state_dict_is_the_sources_own(case: Case) -> None:
    plain = sources_own(case.network.backbone)
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


@pytest.mark.parametrize("backbone", light_variants())
def test_freezing_takes_names_and_numbers(backbone: str) -> None:
    names = family_of(backbone).VARIANTS[backbone]
    for position, name in enumerate(names[:-1]):
        assert boundary_of(name, backbone, names) == boundary_of(str(position), backbone, names) == position + 1


@pytest.mark.parametrize("freeze", ["stage9", "99", "-1", "²", ""])
def test_freezing_a_stage_that_is_not_there_is_refused(freeze: str) -> None:
    with pytest.raises(UsageError, match="has no stage") as caught:
        boundary_of(freeze, "mobilenet_v3_small", SMALL_STAGES)
    assert all(name in caught.value.hint for name in SMALL_STAGES)


def test_freezing_the_head_is_refused() -> None:
    for freeze in ("head", str(len(SMALL_STAGES) - 1)):
        with pytest.raises(UsageError, match="whole network") as caught:
            boundary_of(freeze, "mobilenet_v3_small", SMALL_STAGES)
        assert "top" in caught.value.hint


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'resnet50'"):
        build("resnet5", 2)
    with pytest.raises(UsageError, match="did you mean 'mobilenet_v2'"):
        describe_backbone("mobilenetv2")


@pytest.mark.parametrize("backbone", light_variants())
def test_a_description_says_what_the_network_is(backbone: str) -> None:
    detail = describe_backbone(backbone)
    network = build(backbone, 1000)
    assert detail.parameters == sum(stage.parameters for stage in detail.stages) == sum(p.numel() for p in network.parameters())
    assert backbone in plugins.backbone(detail.family).VARIANTS
    assert [stage.name for stage in detail.stages] == list(network.stages)
    assert detail.stages[-1].output == "1000"
    sides = [int(stage.output.split("x")[1]) for stage in detail.stages if "x" in stage.output]
    assert detail.image_size >= sides[0] >= sides[-1] >= 1
    assert detail.imagenet_top1 is None or 40 < detail.imagenet_top1 < 90
    assert detail.source == family_of(backbone).SOURCE


def test_the_list_needs_no_torch() -> None:
    code = (
        "import sys; from tlexport.api.backbones import list_backbones; print('torch' in sys.modules, *[b.name for b in list_backbones()])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded, *names = done.stdout.split()
    assert loaded == "False"
    assert sorted(names) == list(backbone_names())
    assert {backbone.family for backbone in list_backbones()} == set(plugins.names("backbones"))

"""TRAITS of backbone families: parts that are left out, normalisation of the ImageNet weights, smallest image."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest
import torch
from images import encoded, scene
from PIL import Image
from torch import Tensor, nn
from torchvision import models
from variants import settle

from tlexport.device.inputs.image import prepare
from tlexport.errors import InvalidFile, UsageError
from tlexport.network import Contract, build
from tlexport.plugins import backbone_names, traits_of
from tlexport.recipe import Recipe
from tlexport.train.weights import initial_network, preprocess_for

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = 5
TRIMMED = [backbone for backbone in backbone_names() if traits_of(backbone).left_out]


@dataclass(frozen=True)
class Whole:
    """torchvision's network with all its parts, as its ImageNet weights want it to be built, and a file of its parameters."""

    backbone: str
    net: nn.Module
    file: Path

    def save(self, **more: Tensor) -> Recipe:
        torch.save({**self.net.state_dict(), **more}, self.file)
        return Recipe(backbone=self.backbone, weights=str(self.file))


@pytest.fixture(scope="module", params=TRIMMED)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    torch.manual_seed(0)
    ours = build(request.param, CLASSES)
    settle(ours, torch.randn(8, 3, 128, 128))
    net = models.get_model(request.param, weights=None, num_classes=CLASSES, aux_logits=True, transform_input=True, init_weights=False)
    net.load_state_dict(ours.net.state_dict(), strict=False)
    return Whole(request.param, net.eval(), tmp_path_factory.mktemp(request.param) / "weights.pth")


def test_parts_for_training_from_scratch_are_left_out(whole: Whole) -> None:
    left_out = traits_of(whole.backbone).left_out
    recipe = whole.save()
    names = set(whole.net.state_dict())
    for prefix in left_out:
        assert any(name.startswith(prefix) for name in names)
    network = initial_network(recipe, CLASSES)
    assert set(network.net.state_dict()) == {name for name in names if not name.startswith(left_out)}


def test_what_is_merely_unknown_is_still_refused(whole: Whole) -> None:
    recipe = whole.save(**{f"{traits_of(whole.backbone).left_out[0].rstrip('.')}_more.weight": torch.zeros(3)})
    with pytest.raises(InvalidFile, match="1 are unknown"):
        initial_network(recipe, CLASSES)


def test_the_network_sees_what_torchvisions_own_sees(whole: Whole) -> None:
    recipe = whole.save()
    image, preprocess = Image.fromarray(scene(400, 380)), preprocess_for(recipe)
    pixels = prepare(BytesIO(encoded(image, "PNG")), preprocess.model_dump())
    network = initial_network(recipe, CLASSES).eval()
    preset = models.get_model_weights(whole.backbone).DEFAULT.transforms()
    with torch.no_grad():
        ours = network(Contract(preprocess)(torch.from_numpy(pixels)[None]))
        theirs = whole.net(preset(image)[None])  # normalises once, and the network again
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("backbone", [backbone for backbone in backbone_names() if traits_of(backbone).smallest > 1])
def test_an_image_that_is_too_small_is_refused_and_the_next_is_not(backbone: str) -> None:
    smallest, network = traits_of(backbone).smallest, build(backbone, CLASSES).eval()
    with pytest.raises(UsageError, match=f"too small for {backbone}") as caught:
        preprocess_for(Recipe(backbone=backbone, image_size=smallest - 1))
    assert str(smallest) in caught.value.hint
    assert preprocess_for(Recipe(backbone=backbone, image_size=smallest)).size == smallest
    with torch.no_grad():
        with pytest.raises(RuntimeError):
            network(torch.zeros(1, 3, smallest - 1, smallest - 1))
        assert network(torch.zeros(1, 3, smallest, smallest)).shape == (1, CLASSES)

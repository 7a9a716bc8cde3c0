"""Training: frozen stages stay unchanged, trained stages change, and the seed determines the result."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from variants import light_variants, settle

from tlexport.api.finetune import FinetuneSettings, finetune
from tlexport.checkpoint import HISTORY, WEIGHTS, read_checkpoint, read_dataset
from tlexport.contract import Preprocess
from tlexport.data.decode import decode_all
from tlexport.data.source import read_source
from tlexport.errors import StepFailed, Unsupported, UsageError
from tlexport.network import Contract, Network, build, load_network
from tlexport.ports import Task
from tlexport.recipe import Recipe
from tlexport.storage.cache import ArrayCache
from tlexport.train.augment import Augment, crop_and_flip, mix_batch
from tlexport.train.distributed import Workers
from tlexport.train.features import FeatureSource
from tlexport.train.fit import Trainer
from tlexport.train.frozen import FrozenTrunk
from tlexport.train.images import LabelledImages
from tlexport.train.inputs import LOADED_AHEAD, Inputs
from tlexport.train.loop import Epoch, batches, compiled, evaluate, make_optimizer, rate
from tlexport.train.lr_finder import find_lr, steepest
from tlexport.train.objective import Objective, balanced_indices, class_weights
from tlexport.train.phase_run import PhaseRun
from tlexport.train.phases import Phase, boundary_of, plan_phases
from tlexport.train.result import TrainingResult
from tlexport.train.resume import Saver
from tlexport.train.weights import initial_network

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SIDE = 32  # pixels: the least that a recipe takes
PREPROCESS = Preprocess(size=SIDE, resize=SIDE)
SMALL = "mobilenet_v3_small"
LIGHT = light_variants()
QUICK: dict[str, Any] = {"weights": "embedded", "image_size": SIDE, "val_fraction": 0.25}


class Watching:
    """A Progress that records its notes, and calls a hook when a training bar has moved a given number of times."""

    def __init__(self, moves: int = 0, action: Callable[[], None] = lambda: None) -> None:
        self.notes: list[str] = []
        self.texts: list[str] = []
        self.moves, self.action = moves, action

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Task]:
        def task_moved(advance: int, text: str = "") -> None:
            if title.startswith("training"):
                self.texts.append(text)
                if len(self.texts) == self.moves:
                    self.action()

        yield task_moved

    def note(self, text: str) -> None:
        self.notes.append(text)


class Titles(Watching):
    """A Progress that keeps the titles of the tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Task]:
        self.seen.append(title.partition(",")[0])
        yield lambda advance, text="": None


Parts = tuple[LabelledImages, LabelledImages]  # training and validation


@pytest.fixture(scope="module")
def images(digits: Path) -> Parts:
    """Digits to train and to validate on."""
    decoded = decode_all(read_source(str(digits)), PREPROCESS, "fail", 1, lambda done: None)
    labels = torch.tensor([entry.label for entry in decoded.listing.entries])
    val = torch.arange(len(labels)) % 4 == 0
    return LabelledImages(decoded.pixels[~val.numpy()], labels[~val], "train"), LabelledImages(
        decoded.pixels[val.numpy()], labels[val], "val"
    )


def few(part: LabelledImages, count: int) -> LabelledImages:
    step = len(part.labels) // count
    return LabelledImages(part.pixels[::step][:count], part.labels[::step][:count], f"{part.digest} {count}")


def network_of(backbone: str, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return build(backbone, 10)


def phases_of(recipe: Recipe, network: Network) -> tuple[Phase, ...]:
    return plan_phases(recipe, tuple(network.stages), None)


def train(network: Network, recipe: Recipe, images: Parts, progress: Watching | None = None) -> TrainingResult:
    trainer = Trainer(network, PREPROCESS, recipe, CPU, progress or Watching(), Workers(), ArrayCache(None))
    return trainer.fit(phases_of(recipe, network), *images, Saver(Path("unused"), enabled=False), None, lambda epoch: None)


def epochs_of(top: nn.Sequential, learn: Inputs, check: Inputs, phase: Phase, recipe: Recipe, first: int = 1) -> Iterator[Epoch]:
    run = PhaseRun(list(top), learn, check, phase, recipe, Objective(2, recipe.label_smoothing, None), Workers())
    return run.epochs(first, lambda advance, text="": None, lambda: None)


def snapshot(module: nn.Module) -> dict[str, bytes]:
    """Every parameter and buffer, to the bit."""
    named: Sequence[tuple[str, Tensor]] = (*module.named_parameters(), *module.named_buffers())
    return {name: tensor.detach().contiguous().numpy().tobytes() for name, tensor in named}


def snapshots(network: Network) -> dict[str, dict[str, bytes]]:
    return {name: snapshot(stage) for name, stage in network.stages.items()}


# --- frozen -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    network: Network
    before: dict[str, dict[str, bytes]]  # by stage
    trained: dict[str, dict[str, bytes]]  # at the end of the last epoch
    after: dict[str, dict[str, bytes]]  # with the weights of the best epoch
    phases: tuple[Phase, ...]


@pytest.fixture(scope="module", params=[(b, s) for b in LIGHT for s in ("head", "partial")], ids="-".join)
def run(request: pytest.FixtureRequest, images: Parts) -> Run:
    backbone, strategy = request.param
    recipe = Recipe(backbone=backbone, strategy=strategy, epochs=2, batch_size=16, lr=0.01, warmup=0)
    network = network_of(backbone)
    before, trained = snapshots(network), {}
    # 40 images in batches of 16: an epoch moves the bar four times, the last time after validation
    train(network, recipe, (few(images[0], 40), few(images[1], 20)), Watching(8, lambda: trained.update(snapshots(network))))
    return Run(network, before, trained, snapshots(network), phases_of(recipe, network))


def test_frozen_stages_are_bit_identical(run: Run) -> None:
    frozen = list(run.network.stages)[: min(phase.frozen for phase in run.phases)]
    assert frozen
    normalises = any(isinstance(module, nn.BatchNorm2d) for module in run.network.modules())
    assert normalises == any("running_mean" in name for stage in frozen for name in run.before[stage])  # statistics are looked at
    for stage in frozen:
        assert run.before[stage] == run.trained[stage] == run.after[stage]


def test_trained_stages_change(run: Run) -> None:
    trained = list(run.network.stages)[run.phases[-1].frozen :]
    assert trained[-1] == "head"
    for stage in trained:
        same = [name for name, value in run.trained[stage].items() if value == run.before[stage][name]]
        assert same == []  # weights, biases, and BatchNorm's statistics and counters


def test_a_frozen_stage_that_changes_stops_the_training(images: Parts) -> None:
    network = network_of(SMALL)
    first = next(network.stages["stem"].parameters())

    def meddle() -> None:
        first.data += 1

    recipe = Recipe(epochs=1)
    with pytest.raises(StepFailed, match="frozen stage changed"):
        train(network, recipe, (few(images[0], 40), few(images[1], 20)), Watching(1, meddle))


def test_a_checkpoint_says_what_was_frozen(digits: Path, tmp_path: Path) -> None:
    recipe = Recipe(strategy="partial", freeze="stage4", epochs=2, head_epochs=1, **QUICK)
    progress = Watching()
    trained = finetune(str(digits), recipe, tmp_path / "run", FinetuneSettings(device="cpu", threads=1), progress=progress)
    start = initial_network(recipe, 10)
    end = load_network(tmp_path / "run", trained.checkpoint)
    frozen = trained.checkpoint.frozen
    equal = [name for name in end.stages if snapshot(start.stages[name]) == snapshot(end.stages[name])]
    assert equal == list(frozen.stages) == list(end.stages)[: boundary_of("stage4", end.backbone, tuple(end.stages))]
    assert frozen.parameters == sum(p.numel() for name in equal for p in end.stages[name].parameters())
    assert frozen.total_parameters == sum(p.numel() for p in end.parameters())
    note = next(note for note in progress.notes if note.startswith("frozen"))
    assert f"{frozen.parameters:,}" in note
    assert all(name in note for name in frozen.stages)


# --- phases -----------------------------------------------------------------------------------------------------------------

STAGES = ("stem", "stage1", "stage2", "stage3", "top", "head")


@pytest.mark.parametrize(
    ("recipe", "boundary", "expected"),
    [
        (Recipe(strategy="head", epochs=7, lr=0.1), None, (Phase("head", 5, 7, 0.1),)),
        (Recipe(strategy="head", epochs=7), None, (Phase("head", 5, 7, 0.005),)),  # pretrained stages bear smaller steps than a new head
        (Recipe(strategy="full", epochs=7), None, (Phase("full", 0, 7, 0.001),)),
        (Recipe(strategy="head", epochs=7, lr=0.1, freeze="top"), 5, (Phase("head", 5, 7, 0.1),)),
        (Recipe(strategy="full", epochs=7, lr=0.1), None, (Phase("full", 0, 7, 0.1),)),
        (Recipe(strategy="partial", epochs=9, lr=0.3), None, (Phase("head", 5, 3, 0.3), Phase("top", 3, 6, 0.1))),
        (Recipe(strategy="partial", epochs=2, lr=0.3), 1, (Phase("head", 5, 1, 0.3), Phase("top", 1, 1, 0.1))),
        (
            Recipe(strategy="partial", epochs=9, lr=0.3, head_epochs=8, fine_lr=0.2, freeze="stage2"),
            3,
            (Phase("head", 5, 8, 0.3), Phase("top", 3, 1, 0.2)),
        ),
    ],
)
def test_a_recipe_becomes_phases(recipe: Recipe, boundary: int | None, expected: tuple[Phase, ...]) -> None:
    planned = plan_phases(recipe, STAGES, boundary)
    assert [(p.name, p.frozen, p.epochs) for p in planned] == [(p.name, p.frozen, p.epochs) for p in expected]
    assert [p.lr for p in planned] == pytest.approx([p.lr for p in expected])


@pytest.mark.parametrize(
    ("recipe", "boundary", "says"),
    [
        (Recipe(strategy="head", freeze="stage2"), 3, "--strategy partial"),
        (Recipe(strategy="full", freeze="stem"), 1, "--strategy partial"),
        (Recipe(strategy="partial", epochs=1), None, "--epochs 2"),
        (Recipe(strategy="partial", epochs=3, head_epochs=3), None, "--epochs"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(recipe: Recipe, boundary: int | None, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan_phases(recipe, STAGES, boundary)
    assert says in caught.value.hint


# --- the rate and the batches -------------------------------------------------------------------------------------------------


@given(st.integers(1, 3000), st.floats(0, 1, exclude_max=True))
def test_the_rate_rises_to_its_peak_then_falls_to_nothing(steps: int, warmup: float) -> None:
    rates = [rate(step, steps, Recipe(warmup=warmup)) for step in range(steps + 1)]
    peak = max(1, round(warmup * steps)) - 1
    assert rates[peak] == 1
    assert all(0 < value <= 1 for value in rates[:steps])
    assert all(before < after for before, after in pairwise(rates[: peak + 1]))
    assert all(before >= after for before, after in pairwise(rates[peak:]))
    if peak + 1 < steps:
        assert rates[steps] == pytest.approx(0, abs=1e-12)


@given(st.integers(1, 400), st.integers(2, 70), st.integers(0, 2**32))
def test_batches_hold_every_image_once_and_none_is_alone(count: int, size: int, seed: int) -> None:
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    parts = batches(order, size)
    assert torch.equal(torch.cat(parts), order)
    assert all(len(part) <= size + 1 for part in parts)
    assert len(parts) == 1 or all(len(part) > 1 for part in parts)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_biases_and_norms_do_not_decay(optimizer: str) -> None:
    top = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    chosen = make_optimizer(list(top), Recipe(optimizer=optimizer, weight_decay=0.3, lr=0.2), 0.2)
    decayed = [p for group in chosen.param_groups for p in group["params"] if group["weight_decay"] == 0.3]
    spared = [p for group in chosen.param_groups for p in group["params"] if group["weight_decay"] == 0]
    assert [id(p) for p in decayed] == [id(top[0].weight)]
    assert {id(p) for p in spared} == {id(top[0].bias), id(top[1].weight), id(top[1].bias)}


# --- reproducibility ----------------------------------------------------------------------------------------------------------


def test_a_seed_fixes_every_bit(digits: Path, tmp_path: Path) -> None:
    recipe = Recipe(strategy="partial", augment="light", epochs=2, batch_size=64, seed=3, **QUICK)
    weights, metrics, parts = [], [], []
    for number, seed in enumerate((3, 3, 4)):
        torch.manual_seed(100 + number)  # earlier tests must not affect the result
        path = tmp_path / str(number)
        trained = finetune(str(digits), recipe.model_copy(update={"seed": seed}), path, FinetuneSettings(device="cpu", threads=1))
        weights.append((path / WEIGHTS).read_bytes())
        metrics.append(trained.checkpoint.metrics)
        parts.append([sample.part for sample in read_dataset(path).samples])
    assert weights[0] == weights[1]
    assert metrics[0] == metrics[1]
    assert weights[0] != weights[2]
    assert parts[0] != parts[2]


def test_an_epoch_depends_on_nothing_that_happens_between_epochs() -> None:
    learn, check = contrary()

    def losses(draws: int) -> list[float]:
        torch.manual_seed(0)
        top, found = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2)), []
        for epoch in epochs_of(top, learn, check, Phase("head", 0, 3, 0.1), Recipe()):
            found.append(epoch.train_loss)
            torch.rand(draws)
        return found

    assert losses(1) == losses(5)


def test_kept_features_train_as_computed_ones_do(images: Parts) -> None:
    recipe = Recipe(epochs=2, lr=0.01, batch_size=16)
    parts = few(images[0], 60), few(images[1], 20)
    kept = train(network_of(SMALL), recipe, parts).history
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tlexport.train.features.KEPT_BYTES", 0)
        computed = train(network_of(SMALL), recipe, parts).history
    assert [e.train_loss for e in computed] == pytest.approx([e.train_loss for e in kept], abs=1e-4)
    assert [e.val_loss for e in computed] == pytest.approx([e.val_loss for e in kept], abs=1e-4)


# --- the frozen part, computed once -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", LIGHT)
def test_kept_features_are_what_the_frozen_stages_compute(backbone: str, images: Parts) -> None:
    network = network_of(backbone)
    contract = Contract(PREPROCESS)
    count = len(network.stages) - 1
    pixels = few(images[0], 20).pixels
    settle(network, contract(torch.from_numpy(pixels)))
    trunk = FrozenTrunk(network, contract, count, CPU)
    inputs = FeatureSource(trunk, ArrayCache(None), Workers(), Watching()).inputs(
        few(images[0], 20), None, Recipe(), Phase("head", count, 1, 0.1)
    )
    kept = inputs.batch(torch.arange(20), 1, torch.Generator())
    with torch.no_grad():
        expected = nn.Sequential(*list(network.stages.values())[:count])(contract(torch.from_numpy(pixels)))
    assert kept.shape == expected.shape
    assert float(expected.std(dim=0).max()) > 0.1  # the images differ
    torch.testing.assert_close(kept, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_features_that_do_not_fit_into_memory_are_not_kept(images: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of(SMALL)
    trunk = FrozenTrunk(network, Contract(PREPROCESS), 1, CPU)
    pixels, titles = images[1].pixels, Titles()
    row = trunk(torch.from_numpy(pixels[:1])).numel() * 4
    source, phase = FeatureSource(trunk, ArrayCache(None), Workers(), titles), Phase("top", 1, 1, 0.1)
    monkeypatch.setattr("tlexport.train.features.KEPT_BYTES", row * len(pixels) - 1)
    source.inputs(images[1], None, Recipe(), phase)
    assert titles.seen == []
    monkeypatch.setattr("tlexport.train.features.KEPT_BYTES", row * len(pixels))
    source.inputs(images[1], None, Recipe(), phase)
    assert titles.seen == ["features of the frozen stages"]


def test_features_come_from_the_cache_and_a_damaged_entry_is_computed_again(images: Parts, tmp_path: Path) -> None:
    trunk, titles = FrozenTrunk(network_of(SMALL), Contract(PREPROCESS), 2, CPU), Titles()
    source, phase = FeatureSource(trunk, ArrayCache(tmp_path, 10**9), Workers(), titles), Phase("top", 2, 1, 0.1)
    part, all_of_it = few(images[0], 20), torch.arange(20)
    first = source.inputs(part, None, Recipe(), phase).batch(all_of_it, 1, torch.Generator())
    again = source.inputs(part, None, Recipe(), phase).batch(all_of_it, 1, torch.Generator())
    assert torch.equal(first, again)
    assert len(titles.seen) == 1
    (entry,) = tmp_path.glob("*.npy")
    entry.write_bytes(entry.read_bytes()[:-4])
    assert torch.equal(first, source.inputs(part, None, Recipe(), phase).batch(all_of_it, 1, torch.Generator()))
    assert len(titles.seen) == 2
    other = FrozenTrunk(network_of(SMALL, seed=1), Contract(PREPROCESS), 2, CPU)
    FeatureSource(other, ArrayCache(tmp_path, 10**9), Workers(), titles).inputs(part, None, Recipe(), phase)
    assert len(titles.seen) == 3  # other weights, other features


def test_with_augmentation_each_epoch_sees_the_next_view(images: Parts) -> None:
    trunk, titles = FrozenTrunk(network_of(SMALL), Contract(PREPROCESS), 2, CPU), Titles()
    recipe, part = Recipe(augment="medium", views=3), few(images[0], 20)
    source = FeatureSource(trunk, ArrayCache(None), Workers(), titles)
    inputs = source.inputs(part, Augment("medium", flip=True), recipe, Phase("top", 2, 9, 0.1))
    views = [inputs.batch(torch.arange(20), epoch, torch.Generator()) for epoch in range(6)]
    assert len(titles.seen) == 3
    assert not torch.equal(views[0], views[1])
    assert torch.equal(views[0], views[3])
    assert torch.equal(views[2], views[5])


# --- augmentation -------------------------------------------------------------------------------------------------------------


def test_augmentation_follows_its_generator(images: Parts) -> None:
    pixels = torch.from_numpy(images[0].pixels)
    once, again, other = (crop_and_flip(pixels, 0.7, True, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert once.shape == pixels.shape
    assert not torch.equal(once, pixels.float())
    assert 0 <= float(once.min()) <= float(once.max()) <= 255.001  # interpolation rounds


@given(st.integers(0, 2**32), st.integers(8, 40), st.integers(8, 40))
def test_augmentation_mirrors_only_where_it_may(seed: int, height: int, width: int) -> None:
    ramp = torch.linspace(0, 255, width).to(torch.uint8).view(1, 1, width, 1).expand(64, height, width, 3)
    for flip in (False, True):
        row = crop_and_flip(ramp, 0.7, flip, torch.Generator().manual_seed(seed))[:, 0, :, 0]
        rising = int((row[:, -1] > row[:, 0]).sum())
        assert rising == 64 if not flip else 0 < rising < 64


@pytest.mark.parametrize("level", ["light", "medium", "strong"])
def test_every_level_gives_pixels_that_the_seeds_fix(images: Parts, level: Any) -> None:
    pixels = torch.from_numpy(images[0].pixels[:40])

    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return Augment(level, flip=True)(pixels, torch.Generator().manual_seed(seed))

    once, again, other = drawn(1), drawn(1), drawn(2)
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert (once.shape, once.dtype) == (pixels.shape, torch.float32)
    assert 0 <= float(once.min()) <= float(once.max()) <= 255.001


@given(st.integers(0, 2**32), st.sampled_from([(12, 5), (12, 3, 8, 8), (12, 6, 1, 1)]))
def test_mixing_blends_inputs_and_targets_by_the_same_shares(seed: int, shape: tuple[int, ...]) -> None:
    inputs = torch.arange(12.0).view(-1, *([1] * (len(shape) - 1))).expand(shape).clone()  # each row is its own number
    targets = torch.eye(12)
    mixed, mix = mix_batch(inputs, torch.Generator().manual_seed(seed))
    assert 0 <= mix.share <= 1
    assert sorted(mix.partner.tolist()) == list(range(12))
    blended = mix.blend(targets)
    torch.testing.assert_close(blended.sum(1), torch.ones(12))
    # the mean of a mixed row is given by its targets
    torch.testing.assert_close(mixed.flatten(1).mean(1), blended @ torch.arange(12.0), rtol=1e-4, atol=1e-3)


# --- balance, distillation, the rate ----------------------------------------------------------------------------------------


def test_balancing_gives_every_class_the_same_say() -> None:
    labels = torch.tensor([0] * 90 + [1] * 9 + [2])
    weights = class_weights(labels, 3)
    assert (weights * torch.bincount(labels)).tolist() == pytest.approx([100 / 3] * 3)
    drawn = labels[balanced_indices(labels.repeat(30), 3, torch.Generator().manual_seed(0)) % 100]
    assert torch.bincount(drawn).tolist() == pytest.approx([1000] * 3, rel=0.15)


def test_a_teacher_pulls_the_loss_towards_its_answers() -> None:
    objective = Objective(2, 0.0, None)
    targets, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    like_teacher, like_label = torch.tensor([[0.0, 3.0]]), torch.tensor([[3.0, 0.0]])
    assert objective(like_label, targets, None) < objective(like_teacher, targets, None)
    assert objective(like_teacher, targets, teacher) < objective(like_label, targets, teacher)


def test_rates_fall_from_stage_to_stage() -> None:
    stages = [nn.Linear(2, 2) for _ in range(3)]
    chosen = make_optimizer(stages, Recipe(stage_decay=0.5), 0.4)
    found = {id(p): group["lr"] for group in chosen.param_groups for p in group["params"]}
    assert [found[id(stage.weight)] for stage in stages] == pytest.approx([0.1, 0.2, 0.4])


@pytest.mark.parametrize(("schedule", "last"), [("cosine", 0.0), ("one-cycle", 0.0), ("constant", 1.0)])
def test_schedules_end_where_they_say(schedule: Any, last: float) -> None:
    recipe = Recipe(schedule=schedule, warmup=0.1)
    rates = [rate(step, 100, recipe) for step in range(101)]
    assert max(rates) == 1
    assert rates[100] == pytest.approx(last, abs=1e-9)
    assert rates.index(1.0) == (29 if schedule == "one-cycle" else 9)


def test_the_range_test_finds_a_rate_that_learns_and_leaves_the_network_alone() -> None:
    torch.manual_seed(0)
    features = torch.randn(256, 8)
    labels = (features.sum(1) > 0).long()
    top = nn.Sequential(nn.Linear(8, 2))
    before = snapshot(top)

    def loss_of(module: nn.Module, step: int) -> Tensor:
        rows = torch.arange(32) + 32 * (step % 8)
        return nn.functional.cross_entropy(module(features[rows]), labels[rows])

    lr = find_lr(top, lambda module, lr: torch.optim.SGD(module.parameters(), lr=lr), loss_of)
    assert 1e-3 <= lr <= 1.0
    assert snapshot(top) == before


def test_the_steepest_descent_is_taken_and_none_gives_a_default() -> None:
    assert steepest([1e-4, 1e-3, 1e-2, 1e-1], [2.0, 1.9, 1.0, 3.0]) == pytest.approx(0.0067)
    assert steepest([1e-4, 1e-3], [1.0, 2.0]) == 1e-3
    assert steepest([], []) == 1e-3


# --- stopping, and what is kept -----------------------------------------------------------------------------------------------


def as_is(loaded: Tensor, _: torch.Generator) -> Tensor:
    return loaded


def contrary(count: int = 64) -> tuple[Inputs, Inputs]:
    """What is learnt from the first part is wrong in the second, so validation gets worse with every epoch."""
    features = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
    labels = (features[:, 0] > 0).long()
    return tuple(Inputs(lambda indices, *_: features[indices], as_is, wanted, CPU) for wanted in (labels, 1 - labels))  # type: ignore[return-value]


@pytest.mark.parametrize("patience", [1, 3])
def test_training_stops_when_validation_no_longer_gets_better(patience: int) -> None:
    torch.manual_seed(0)
    learn, check = contrary()
    recipe = Recipe(patience=patience, warmup=0)
    epochs = list(epochs_of(nn.Sequential(nn.Linear(4, 2)), learn, check, Phase("head", 0, 20, 0.05), recipe, 5))
    assert len(epochs) == 1 + patience
    assert [epoch.epoch for epoch in epochs] == list(range(5, 6 + patience))
    assert all(epoch.val_loss >= epochs[0].val_loss for epoch in epochs)


def test_training_goes_on_while_validation_gets_better() -> None:
    torch.manual_seed(0)
    learn, _ = contrary()
    recipe = Recipe(patience=1, warmup=0)
    epochs = list(epochs_of(nn.Sequential(nn.Linear(4, 2)), learn, learn, Phase("head", 0, 12, 0.1), recipe))
    assert len(epochs) == 12
    assert epochs[-1].val_top1 > 0.9
    assert epochs[-1].train_loss < epochs[0].train_loss


def test_batch_norm_statistics_follow_in_a_short_run() -> None:
    torch.manual_seed(0)
    values = 5 + torch.randn(64, 3, 4, 4)
    norm = nn.BatchNorm2d(3, momentum=0.001)  # as in torchvision's EfficientNet, for hundreds of thousands of steps
    top = nn.Sequential(norm, nn.Flatten(), nn.Linear(48, 2))
    inputs = Inputs(lambda indices, *_: values[indices], as_is, torch.arange(64) % 2, CPU)
    list(epochs_of(top, inputs, inputs, Phase("full", 0, 10, 0.001), Recipe(batch_size=16)))
    # forty steps: at a momentum of 0.001 the mean would have come to 0.2
    assert norm.running_mean is not None
    assert float((norm.running_mean - 5).abs().max()) < 0.3


def test_batches_are_loaded_ahead_and_come_in_order() -> None:
    asked: list[int] = []

    def load(indices: Tensor, epoch: int) -> Tensor:
        asked.append(int(indices[0]))
        return indices * epoch

    inputs = Inputs(load, as_is, torch.arange(10), torch.device("meta"))  # any that is not the CPU
    coming = inputs.loaded(torch.arange(10).split(1), 3)
    seen = [next(coming)]
    end = time.monotonic() + 60  # another thread loads ahead, when it gets to run
    while len(asked) < LOADED_AHEAD and time.monotonic() < end:
        time.sleep(0.01)
    assert len(asked) >= LOADED_AHEAD
    seen += coming
    assert [int(indices) for indices, _ in seen] == asked == list(range(10))
    assert [int(loaded) for _, loaded in seen] == list(range(0, 30, 3))


def test_what_fails_while_loading_ahead_is_raised() -> None:
    def load(indices: Tensor, epoch: int) -> Tensor:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(Inputs(load, as_is, torch.arange(2), torch.device("meta")).loaded(torch.arange(2).split(1), 0))


@pytest.mark.slow
def test_a_compiled_network_computes_and_trains_the_same() -> None:
    network = network_of(SMALL)
    top = nn.Sequential(*list(network.stages.values())[-2:]).eval()
    features = torch.randn(4, 96, 7, 7, generator=torch.Generator().manual_seed(0))
    plain = top(features)
    fast = compiled(top)
    torch.testing.assert_close(fast(features), plain, rtol=1e-4, atol=1e-5)
    fast(features).sum().backward()
    assert all(parameter.grad is not None for parameter in top.parameters())  # the very same parameters


def test_the_weights_of_the_best_epoch_are_kept(images: Parts) -> None:
    learn = few(images[0], 60)
    # validated on the same images under other names: the better they are learnt, the worse it gets
    check = LabelledImages(learn.pixels, (learn.labels + 1) % 10, "renamed")
    recipe = Recipe(strategy="partial", epochs=6, head_epochs=4, lr=0.02, batch_size=16, warmup=0)
    network = network_of(SMALL)
    fit = train(network, recipe, (learn, check))
    assert fit.best == max(fit.history, key=lambda epoch: (epoch.val_top1, -epoch.val_loss))
    assert fit.best != fit.history[-1]
    whole = nn.Sequential(Contract(PREPROCESS), network)
    inputs = Inputs(lambda indices, *_: torch.from_numpy(check.pixels[indices.numpy()]), as_is, check.labels, CPU)
    loss, top1 = evaluate(whole, inputs)
    assert loss == pytest.approx(fit.best.val_loss, abs=1e-4)
    assert top1 == fit.best.val_top1
    assert abs(fit.history[-1].val_loss - fit.best.val_loss) > 1e-2


def test_the_bar_shows_loss_accuracy_and_speed(images: Parts) -> None:
    progress = Watching()
    recipe = Recipe(epochs=1, batch_size=16)
    fit = train(network_of(SMALL), recipe, (few(images[0], 40), few(images[1], 20)), progress)
    assert all(word in progress.texts[0] for word in ("loss", "top-1", "img/s"))
    assert f"{100 * fit.history[0].val_top1:.1f} %" in progress.texts[-1]


# --- what goes wrong ----------------------------------------------------------------------------------------------------------


def poisoned(path: Path, name: str, value: float) -> Path:
    """The embedded weights with one tensor spoiled."""
    state = initial_network(Recipe(weights="embedded"), 10).net.state_dict()
    state[name].fill_(value)
    save_file(state, path)
    return path


@pytest.mark.parametrize(
    ("strategy", "tensor", "value"),
    [("head", "features.0.0.weight", math.nan), ("full", "features.3.block.0.1.running_var", -1.0)],
    ids=["training", "validation"],
)
def test_a_loss_that_is_no_number_ends_the_training(strategy: str, tensor: str, value: float, digits: Path, tmp_path: Path) -> None:
    weights = poisoned(tmp_path / "weights.safetensors", tensor, value)
    # one epoch of one batch: BatchNorm's statistics, which only validation uses, do not recover
    recipe = Recipe.parse(
        {"weights": str(weights), "strategy": strategy, "epochs": 1, "image_size": SIDE, "batch_size": 256}, "the test's recipe"
    )
    with pytest.raises(StepFailed, match="not finite in epoch 1") as caught:
        finetune(str(digits), recipe, tmp_path / "run", FinetuneSettings(device="cpu", threads=1))
    assert "--lr" in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]


def interrupt() -> None:
    """Ctrl-C."""
    signal.raise_signal(signal.SIGINT)


def test_an_interrupt_leaves_a_checkpoint_that_can_be_used(digits: Path, tmp_path: Path) -> None:
    recipe = Recipe(epochs=5, batch_size=32, **QUICK)
    # 90 images in batches of 32: four moves of the bar an epoch, the last one of them after validation
    progress = Watching(10, interrupt)
    trained = finetune(str(digits), recipe, tmp_path / "run", FinetuneSettings(device="cpu", threads=1), progress=progress)
    record = read_checkpoint(tmp_path / "run")
    assert record == trained.checkpoint
    assert record.interrupted
    assert trained.to_json()["interrupted"] is True
    assert record.metrics["epochs"] == 2
    assert load_network(tmp_path / "run", record)(torch.zeros(1, 3, SIDE, SIDE)).shape == (1, 10)
    # as far as it came, it is the uninterrupted run
    whole = finetune(str(digits), recipe, tmp_path / "whole", FinetuneSettings(device="cpu", threads=1))
    assert not whole.checkpoint.interrupted
    losses = [
        [json.loads(line)["val_loss"] for line in (tmp_path / name / HISTORY).read_text().splitlines()[:2]] for name in ("run", "whole")
    ]
    assert losses[0] == losses[1]


def test_an_interrupt_between_two_epochs_finds_history_and_weights_in_step(images: Parts) -> None:
    """The trackers, which may be slow, receive an epoch after it has been saved."""
    network, recipe = network_of("mobilenet_v3_small"), Recipe(epochs=5, **QUICK)
    trainer = Trainer(network, PREPROCESS, recipe, CPU, Watching(), Workers(), ArrayCache(None))
    nowhere = Saver(Path("unused"), enabled=False)
    try:
        fit = trainer.fit(phases_of(recipe, network), *images, nowhere, None, report=lambda epoch: interrupt())
    except KeyboardInterrupt:  # which would end pytest
        pytest.fail("the first epoch was lost")
    assert fit.interrupted
    assert [epoch.epoch for epoch in fit.history] == [1]
    assert fit.best == fit.history[0]


def test_an_interrupt_in_the_first_epoch_leaves_nothing(digits: Path, tmp_path: Path) -> None:
    progress = Watching(2, interrupt)
    with pytest.raises(KeyboardInterrupt):
        finetune(str(digits), Recipe(epochs=5, **QUICK), tmp_path / "run", FinetuneSettings(device="cpu", threads=1), progress=progress)
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_that_is_not_here_is_not_replaced_by_the_cpu(digits: Path, tmp_path: Path) -> None:
    absent = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(Unsupported, match=absent):
        finetune(str(digits), Recipe(**QUICK), tmp_path / "run", FinetuneSettings(device=absent))
    assert list(tmp_path.iterdir()) == []


def test_threads_are_those_asked_for_and_given_back(digits: Path, tmp_path: Path) -> None:
    before, seen = torch.get_num_threads(), []

    class Stopping(Watching):
        @contextmanager
        def task(self, title: str, total: int) -> Iterator[Task]:
            seen.append(torch.get_num_threads())
            raise KeyboardInterrupt
            yield

    with pytest.raises(KeyboardInterrupt):
        finetune(str(digits), Recipe(**QUICK), tmp_path / "run", FinetuneSettings(device="cpu", threads=before + 2), progress=Stopping())
    assert seen == [before + 2]
    assert torch.get_num_threads() == before

"""Short training of a whole network after pruning or for INT8 (quantization-aware training).

Most of the loss is distillation from the float checkpoint's logits.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tlexport.contract import Preprocess
from tlexport.errors import StepFailed
from tlexport.network import Contract, Network
from tlexport.ports import Pixels, Progress
from tlexport.recipe import Recipe
from tlexport.train.fake_quant import Activations, FakeQuantization
from tlexport.train.loop import EVALUATION_BATCH, batches, make_optimizer, rate
from tlexport.train.objective import Objective

OBSERVED = 4  # batches that set the ranges of activations before rounding starts
# MobileNetV3-small on digits, with activations that INT8 ruins: 1e-4 recovered less, 1e-3 changed the float network more than INT8
EPOCHS, LR = 6, 3e-4


@dataclass(frozen=True)
class Examples:
    """Labelled training images with their preprocessing."""

    preprocess: Preprocess  # of the checkpoint
    pixels: Pixels  # uint8 (image, height, width, channel)
    labels: Tensor | Sequence[int]  # class indices (image,)


@dataclass(frozen=True)
class RecoverySettings:
    """How a network is trained."""

    seed: int  # of the order of images
    epochs: int = EPOCHS  # passes over the images
    lr: float = LR  # peak rate of AdamW
    simulate: Activations | None = None  # type of the activations after INT8 quantization; None: train in float


def logits_of(network: Network, preprocess: Preprocess, pixels: Pixels) -> Tensor:
    """Logits in evaluation mode: uint8 (image, height, width, channel) -> float32 (image, class)."""
    contract = Contract(preprocess)
    with torch.no_grad():
        return torch.cat([network(contract(part)) for part in torch.from_numpy(pixels).split(EVALUATION_BATCH)])


def quantization_aware(
    network: Network, examples: Examples, activations: Activations, settings: RecoverySettings, progress: Progress
) -> Network:
    """Train a copy of a network for INT8. The network itself is the teacher and does not change.

    The copy is a float network too; any graph can be made from it.

    Args:
        network: on the CPU.
        examples: training images.
        activations: type of the activations after quantization; replaces that of ``settings``.
        settings: see :func:`recover`.
        progress: receives progress.

    Raises:
        StepFailed: the loss is not finite.
    """
    trained = copy.deepcopy(network)
    teacher = logits_of(network, examples.preprocess, examples.pixels)
    recover(trained, examples, teacher, dataclasses.replace(settings, simulate=activations), progress)
    return trained


def recover(network: Network, examples: Examples, teacher: Tensor, settings: RecoverySettings, progress: Progress) -> None:
    """Train all weights of a network in place, including the stages that its recipe kept frozen.

    The network stays in evaluation mode: BatchNorm keeps its statistics, and dropout is off. On a CPU, the same arguments and number of
    threads give the same bits. After an error or Ctrl-C the network has its original weights.

    Args:
        network: on the CPU.
        examples: training images.
        teacher: the float checkpoint's logits for these images, float32 (image, class).
        settings: epochs, rate and seed.
        progress: receives progress.

    Raises:
        StepFailed: the loss is not finite.
    """
    run = _Recovery(network, examples, teacher, settings.simulate)
    before = {name: tensor.clone() for name, tensor in network.net.state_dict().items()}
    try:
        run.train(Recipe(epochs=settings.epochs, seed=settings.seed), settings.lr, progress)
    except BaseException:
        network.load(before)
        raise
    finally:
        network.zero_grad(set_to_none=True)
        network.to(memory_format=torch.contiguous_format)  # for other layouts the exporter adds nodes that compute the strides


class _Recovery:
    """The values that every training step reads."""

    def __init__(self, network: Network, examples: Examples, teacher: Tensor, simulate: Activations | None) -> None:
        self.network = network.eval().requires_grad_().to(memory_format=torch.channels_last)
        self.contract = Contract(examples.preprocess)
        self.pixels, self.labels, self.teacher = examples.pixels, torch.as_tensor(examples.labels), teacher
        self.simulation = FakeQuantization(simulate, examples.preprocess.std) if simulate else None

    def train(self, recipe: Recipe, lr: float, progress: Progress) -> None:
        """Train all epochs with the rate schedule of fine-tuning."""
        torch.manual_seed(recipe.seed)
        generator = torch.Generator().manual_seed(recipe.seed)
        optimizer = make_optimizer(list(self.network.stages.values()), recipe, lr)
        objective = Objective(self.network.num_classes, recipe.label_smoothing, None)
        order = [
            part for _ in range(recipe.epochs) for part in batches(torch.randperm(len(self.labels), generator=generator), recipe.batch_size)
        ]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, len(order), recipe))
        self._observe_ranges(order[:OBSERVED])
        title = "quantization-aware training" if self.simulation else "recovery training"
        with progress.task(title, len(self.labels) * recipe.epochs) as advance:
            for indices in order:
                loss = objective(self._logits(indices), objective.targets(self.labels[indices]), self.teacher[indices])
                if not math.isfinite(loss.item()):
                    raise StepFailed("the loss is not finite; the weights are unchanged", "lower the learning rate")
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                advance(len(indices), f"loss {loss.item():.3f}")

    def _observe_ranges(self, parts: list[Tensor]) -> None:
        if self.simulation is not None:
            with torch.no_grad():
                for indices in parts:
                    self._logits(indices)
            self.simulation.quantizing = True

    def _logits(self, indices: Tensor) -> Tensor:
        """Image indices int64 (batch,) -> float32 (batch, class)."""
        images = self.contract(torch.from_numpy(self.pixels[indices.numpy()])).contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.simulation(self.network, images) if self.simulation else self.network(images)
        return logits

"""Short training of a whole network that lost something: to rounding (quantization-aware training), or to pruning.

What it lost it learns again from what it was: most of the loss is distillation from the float checkpoint's logits.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

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

OBSERVED = 4  # batches that give the ranges of activations before these are rounded
# on digits, MobileNetV3-small whose activations INT8 ruins: 1e-4 left more of the loss, 1e-3 moved the float network further than INT8 had
EPOCHS, LR = 6, 3e-4


def logits_of(network: Network, preprocess: Preprocess, pixels: Pixels) -> Tensor:
    """What a network says of images: uint8 (image, height, width, channel) -> float32 (image, class), in evaluation mode."""
    contract = Contract(preprocess)
    with torch.no_grad():
        return torch.cat([network(contract(part)) for part in torch.from_numpy(pixels).split(EVALUATION_BATCH)])


def quantization_aware(
    network: Network,
    preprocess: Preprocess,
    pixels: Pixels,
    labels: Tensor | Sequence[int],
    activations: Activations,
    *,
    epochs: int = EPOCHS,
    lr: float = LR,
    seed: int,
    progress: Progress,
) -> Network:
    """A copy of a network whose weights were trained to bear INT8; the network itself, which is the teacher, stays as it is.

    See :func:`recover`, also for the arguments and errors. The copy is a float network like the other, and any graph can be made of it.
    """
    trained = copy.deepcopy(network)
    teacher = logits_of(network, preprocess, pixels)
    recover(trained, preprocess, pixels, labels, teacher, epochs=epochs, lr=lr, seed=seed, progress=progress, simulate=activations)
    return trained


def recover(
    network: Network,
    preprocess: Preprocess,
    pixels: Pixels,
    labels: Tensor | Sequence[int],
    teacher: Tensor,
    *,
    epochs: int,
    lr: float,
    seed: int,
    progress: Progress,
    simulate: Activations | None = None,
) -> None:
    """Train all weights of a network in place, also those of stages that its recipe kept frozen.

    It stays in evaluation mode: BatchNorm's statistics are what they were, and nothing is dropped out. On a CPU the same arguments give
    the same bits at the same number of threads. Whatever ends it early, an error or Ctrl-C, leaves the weights as they were before.

    Args:
        network: on the CPU.
        preprocess: of the checkpoint.
        pixels: training images, uint8 (image, height, width, channel).
        labels: class indices (image,).
        teacher: the float checkpoint's logits for these images, float32 (image, class).
        epochs: passes over the images.
        lr: peak rate of AdamW.
        seed: of the order of images.
        progress: where to tell what happens.
        simulate: type of the activations that INT8 will have; None: train in float.

    Raises:
        StepFailed: the loss is not finite.
    """
    run = _Recovery(network, preprocess, pixels, labels, teacher, simulate)
    before = {name: tensor.clone() for name, tensor in network.net.state_dict().items()}
    try:
        run.train(Recipe(epochs=epochs, seed=seed), lr, progress)
    except BaseException:
        network.load(before)
        raise
    finally:
        network.zero_grad(set_to_none=True)
        network.to(memory_format=torch.contiguous_format)  # of other layouts the exporter writes the strides out, node by node


class _Recovery:
    """What a step of the training reads."""

    def __init__(
        self,
        network: Network,
        preprocess: Preprocess,
        pixels: Pixels,
        labels: Tensor | Sequence[int],
        teacher: Tensor,
        simulate: Activations | None,
    ) -> None:
        self.network = network.eval().requires_grad_().to(memory_format=torch.channels_last)
        self.contract = Contract(preprocess)
        self.pixels, self.labels, self.teacher = pixels, torch.as_tensor(labels), teacher
        self.simulation = FakeQuantization(simulate, preprocess.std) if simulate else None

    def train(self, recipe: Recipe, lr: float, progress: Progress) -> None:
        """All epochs, at a rate that rises and falls as it does in fine-tuning."""
        torch.manual_seed(recipe.seed)
        generator = torch.Generator().manual_seed(recipe.seed)
        optimizer = make_optimizer(list(self.network.stages.values()), recipe, lr)
        objective = Objective(self.network.num_classes, recipe.label_smoothing, None)
        order = [
            part for _ in range(recipe.epochs) for part in batches(torch.randperm(len(self.labels), generator=generator), recipe.batch_size)
        ]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, len(order), recipe))
        self._settle_ranges(order[:OBSERVED])
        title = "quantization-aware training" if self.simulation else "recovery training"
        with progress.task(title, len(self.labels) * recipe.epochs) as advance:
            for indices in order:
                loss = objective(self._logits(indices), objective.targets(self.labels[indices]), self.teacher[indices])
                if not math.isfinite(loss.item()):
                    raise StepFailed("the loss is not finite; the weights are what they were before", "lower the learning rate")
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                advance(len(indices), f"loss {loss.item():.3f}")

    def _settle_ranges(self, parts: list[Tensor]) -> None:
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

"""Multinomial logistic regression on stored features, with the regularisation chosen by cross-validation.

A linear classifier on fixed features is a convex problem: L-BFGS (Liu and Nocedal 1989) finds its optimum in seconds, where AdamW over
20 epochs stays a few points behind. The penalty is λ/2 times the squared weights, without the biases; the loss is a mean over images.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

STRENGTHS = tuple(10 ** (exponent / 2) for exponent in range(1, -8, -1))  # λ, strongest first: each solution starts the next
COMPONENTS = 192  # principal components in cross-validation; the penalty leaves the weights of the others small
FOLDS = 4
MOST_IMAGES = 3000  # in cross-validation, which repeats the fit; λ is scaled to the real number
PATH_STEPS, LAST_STEPS = 30, 100  # L-BFGS iterations: in cross-validation, where the start is close, and for the result
WORSE = 2  # cross-validation ends after this many strengths without a lower loss
# A feature is divided by the geometric mean of its own spread and that of all features. With its own spread alone, features that are
# nearly constant in a few images dominate elsewhere: over six image sets with 20 images a class that costs 3 points of top-1.
FLOOR = 0.05  # share of the common spread that is added to the divisor


@dataclass(frozen=True)
class Solution:
    """A linear classifier of the features."""

    weight: Tensor  # float32 (class, feature)
    bias: Tensor  # float32 (class,)
    strength: float  # λ
    top1: float  # by cross-validation on the training images, 0..1

    def logits(self, features: Tensor) -> Tensor:
        """float32 (image, feature) -> float32 (image, class)."""
        return F.linear(features, self.weight, self.bias)


def solve(features: Tensor, labels: Tensor, num_classes: int, weights: Tensor | None, seed: int) -> Solution:
    """Fit a classifier.

    Args:
        features: float32 (image, feature), on the device that computes.
        labels: int64 class indices (image,), on the same device.
        num_classes: number of classes.
        weights: class weights in the loss, float32 (class,); None: equal.
        seed: of the folds.

    Raises:
        ValueError: a feature is not finite.
    """
    if not torch.isfinite(features).all():
        raise ValueError("the features of the frozen stages are not finite")
    mean, spread = features.mean(0), features.std(0, unbiased=False)
    common = spread.square().mean().sqrt().clamp(min=1e-12)
    scale = (spread * common).sqrt() + FLOOR * common
    scaled = (features - mean) / scale
    costs = torch.ones(len(labels), device=features.device) if weights is None else weights.to(features.device)[labels]
    axes = _principal_axes(scaled)
    strength, top1, start = _choose(scaled @ axes, labels, num_classes, costs, seed)
    start = torch.cat([axes @ start[:-1], start[-1:]])
    # the best penalty of the mean loss falls with the number of images, of which a fold holds fewer
    strength *= min(len(labels), MOST_IMAGES) * (1 - 1 / FOLDS) / len(labels)
    parameters = _minimise(scaled, labels, num_classes, costs, strength, start, LAST_STEPS)
    weight = (parameters[:-1] / scale[:, None]).T.contiguous()
    return Solution(weight, parameters[-1] - weight @ mean, strength, top1)


def _principal_axes(features: Tensor) -> Tensor:
    """The directions of largest variance: float32 (feature, component), orthonormal."""
    count = min(COMPONENTS, *features.shape)
    if len(features) < features.shape[1]:  # the eigenvectors of the smaller of the two products
        values, vectors = torch.linalg.eigh(features @ features.T)
        axes: Tensor = features.T @ vectors[:, -count:] / values[-count:].clamp(min=1e-6).sqrt()
    else:
        axes = torch.linalg.eigh(features.T @ features)[1][:, -count:]
    return axes


def _choose(features: Tensor, labels: Tensor, num_classes: int, costs: Tensor, seed: int) -> tuple[float, float, Tensor]:
    """The strength with the smallest mean loss over the held-out folds, its top-1 accuracy there, and the mean of its solutions."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(labels), generator=generator)[:MOST_IMAGES]
    fold = _folds(labels[chosen.to(labels.device)].cpu(), generator).to(labels.device)
    chosen = chosen.to(labels.device)
    features, labels, costs = features[chosen], labels[chosen], costs[chosen]
    starts: list[Tensor | None] = [None] * FOLDS
    lowest, best, worse = float("inf"), (STRENGTHS[0], 0.0, torch.zeros(features.shape[1] + 1, num_classes, device=features.device)), 0
    for strength in STRENGTHS:
        loss = right = 0.0
        for number in range(FOLDS):
            inside, outside = fold != number, fold == number
            start = _minimise(features[inside], labels[inside], num_classes, costs[inside], strength, starts[number], PATH_STEPS)
            starts[number] = start
            logits = features[outside] @ start[:-1] + start[-1]
            loss += (F.cross_entropy(logits, labels[outside], reduction="none") * costs[outside]).sum().item()
            right += int((logits.argmax(1) == labels[outside]).sum())
        if loss < lowest:
            mean = torch.stack([start for start in starts if start is not None]).mean(0)
            lowest, best, worse = loss, (strength, right / len(labels), mean), 0
        else:
            worse += 1
            if worse == WORSE:
                break
    return best


def _folds(labels: Tensor, generator: torch.Generator) -> Tensor:
    """A fold for each image, 0 to FOLDS - 1, stratified by class: int64 (image,)."""
    fold = torch.empty_like(labels)
    for label in labels.unique():
        members = torch.where(labels == label)[0]
        order = torch.randperm(len(members), generator=generator)
        # a random first fold, or the single images of many classes would all be in fold 0
        first = int(torch.randint(FOLDS, (), generator=generator))
        fold[members[order]] = (torch.arange(len(members)) + first) % FOLDS
    return fold


def _minimise(
    features: Tensor, labels: Tensor, num_classes: int, costs: Tensor, strength: float, start: Tensor | None, steps: int
) -> Tensor:
    """Weights and, in the last row, biases: float32 (feature + 1, class)."""
    parameters = torch.zeros(features.shape[1] + 1, num_classes, device=features.device) if start is None else start.clone()
    parameters.requires_grad_(True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=steps, tolerance_grad=1e-5, tolerance_change=1e-9, line_search_fn="strong_wolfe")
    total = costs.sum()

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = features @ parameters[:-1] + parameters[-1]
        value = (F.cross_entropy(logits, labels, reduction="none") * costs).sum() / total
        value = value + 0.5 * strength * parameters[:-1].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return parameters.detach()

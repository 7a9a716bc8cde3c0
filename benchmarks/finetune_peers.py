"""The peers of ``tlx finetune``, each in its own process; started by ``benchmarks/finetune_speed.py``::

    python benchmarks/finetune_peers.py plain|fastai JOB.json

This file imports nothing of tlexport, so that the peers do not pay for its start-up. Both peers keep the weights of the epoch with the best
validation accuracy, as ``tlx finetune`` does.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.data import DataLoader

LR = 1e-3  # the usual rate of Adam and fastai; tlx uses its own default


@dataclass(frozen=True)
class Job:
    """The task of every contender."""

    data: str  # a folder with train/ and val/
    weights: str  # a torchvision state dict, .pth
    trained: list[str]  # names of the trained parameters; the others stay frozen
    mode: str  # frozen, last2 or full
    backbone: str
    size: int  # side of the network's input in pixels
    resize: int  # shorter side before the centre crop, pixels
    mean: list[float]
    std: list[float]
    epochs: int
    batch_size: int
    workers: int
    device: str  # cpu or cuda
    seed: int
    out: str  # output folder


@dataclass(frozen=True)
class Outcome:
    """The result of every contender."""

    top1: float  # of the kept weights on the validation images, 0..1
    val_images: int
    epochs: int
    train_images_per_s: float | None = None  # during the training halves of the epochs, if known
    wait_share: float | None = None  # share of the training halves spent waiting for the next batch, 0..1


class Waiting:
    """Iterates over a loader and sums the waiting time."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Any]:
        started = time.perf_counter()
        for batch in self.loader:
            self.seconds += time.perf_counter() - started
            yield batch
            started = time.perf_counter()


def plain(job: Job) -> Outcome:
    """The loop of PyTorch's transfer-learning tutorial.

    As in the tutorial: an ImageFolder decoded again in every epoch, frozen parameters without gradient, ``model.train()`` on the whole
    network in every epoch, then validation, and the best weights saved at once. Differences: Adam at a constant rate, since SGD with the
    tutorial's schedule is far from converged after 20 epochs of a few hundred images; no augmentation, as for all contenders.
    """
    import torch
    from torch import nn
    from torch.utils.data import DataLoader
    from torchvision import datasets, models, transforms

    torch.manual_seed(job.seed)
    device = torch.device(job.device)
    prepare = transforms.Compose(
        [transforms.Resize(job.resize), transforms.CenterCrop(job.size), transforms.ToTensor(), transforms.Normalize(job.mean, job.std)]
    )
    train, val = (datasets.ImageFolder(str(Path(job.data) / part), prepare) for part in ("train", "val"))
    loader = Waiting(DataLoader(train, batch_size=job.batch_size, shuffle=True, num_workers=job.workers))
    val_loader = DataLoader(val, batch_size=job.batch_size, num_workers=job.workers)
    net = models.get_model(job.backbone, num_classes=len(train.classes))
    net.load_state_dict(torch.load(job.weights, weights_only=True))
    net.to(device)
    for name, parameter in net.named_parameters():
        parameter.requires_grad = name in job.trained
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam([parameter for parameter in net.parameters() if parameter.requires_grad], lr=LR)

    best, train_s, kept = -1.0, 0.0, Path(job.out) / "best.pth"
    for epoch in range(job.epochs):
        started = time.perf_counter()
        net.train()
        loss_sum = 0.0
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            optimizer.zero_grad()
            loss = criterion(net(images), labels)
            loss.backward()
            optimizer.step()
            loss_sum += loss.item() * len(labels)
        train_s += time.perf_counter() - started
        net.eval()
        right = 0
        with torch.no_grad():
            for images, labels in val_loader:
                right += int((net(images.to(device)).argmax(1) == labels.to(device)).sum())
        top1 = right / len(val)
        print(f"epoch {epoch + 1}: loss {loss_sum / len(train):.4f}, val {top1:.4f}", flush=True)
        if top1 > best:
            best = top1
            torch.save(net.state_dict(), kept)
    net.load_state_dict(torch.load(kept, weights_only=True))
    return Outcome(best, len(val), job.epochs, round(len(train) * job.epochs / train_s, 1), round(loader.seconds / train_s, 3))


def fastai(job: Job) -> Outcome:
    """fastai's ``vision_learner`` with its own head, rates and schedules: ``fit_one_cycle`` on the frozen trunk, or ``fine_tune``."""
    import torch
    from fastai.vision.all import ImageDataLoaders, Resize, SaveModelCallback, accuracy, vision_learner
    from fastai.vision.learner import _default_meta, model_meta
    from torchvision import models

    torch.manual_seed(job.seed)
    trained: set[int] = set()

    def backbone(pretrained: bool) -> nn.Module:
        """The architecture for fastai; its pretrained weights are those of the job."""
        state = torch.load(job.weights, weights_only=True)
        net: nn.Module = models.get_model(job.backbone, num_classes=len(dls.vocab))
        net.load_state_dict(state)
        trained.update(id(parameter) for name, parameter in net.named_parameters() if name in job.trained)
        return net

    def below_above_head(model: nn.Sequential) -> list[list[nn.Parameter]]:
        """Parameter groups for ``last2``: frozen stages, trained stages, fastai's head."""
        body, head = list(model[0].parameters()), list(model[1].parameters())
        return [[p for p in body if id(p) not in trained], [p for p in body if id(p) in trained], head]

    known = dict(model_meta.get(getattr(models, job.backbone), _default_meta))
    known.pop("weights", None)
    model_meta[backbone] = known | {"stats": (job.mean, job.std)}  # fastai's table of an architecture's cut, groups and normalisation
    loaders = {"bs": job.batch_size, "num_workers": job.workers, "device": torch.device(job.device), "seed": job.seed}
    dls = ImageDataLoaders.from_folder(job.data, train="train", valid="val", item_tfms=Resize(job.size), **loaders)
    splitter = below_above_head if job.mode == "last2" else None
    learn = vision_learner(dls, backbone, metrics=accuracy, splitter=splitter, path=Path(job.out))
    best = SaveModelCallback(monitor="accuracy")
    if job.mode == "frozen":
        learn.fit_one_cycle(job.epochs, LR, cbs=best)
    elif job.mode == "full":
        learn.fine_tune(job.epochs - 1, cbs=best)  # after one epoch of the head alone
    else:
        base = 2e-3  # fine_tune's default, with the lowest group frozen
        learn.freeze()
        learn.fit_one_cycle(1, slice(base), pct_start=0.99, cbs=best)
        learn.freeze_to(1)
        learn.fit_one_cycle(job.epochs - 1, slice(base / 200, base / 2), pct_start=0.3, div=5.0, cbs=best)
    _, top1 = learn.validate()
    return Outcome(round(float(top1), 6), len(dls.valid_ds), job.epochs)


PEERS: dict[str, Callable[[Job], Outcome]] = {"plain": plain, "fastai": fastai}


def main() -> None:
    job = Job(**json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))
    outcome = PEERS[sys.argv[1]](job)
    (Path(job.out) / "outcome.json").write_text(json.dumps(asdict(outcome)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

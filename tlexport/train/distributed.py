"""Training in several processes, started by ``torchrun`` and recognised by its environment. In one process, all of this does nothing.

The processes see the same images in the same order. Each takes its share of every batch (gradients are averaged by
DistributedDataParallel) and of every feature extraction; all decide alike, and the first one writes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tlexport.errors import StepFailed, Unsupported, UsageError


@dataclass(frozen=True)
class Workers:
    """The rank of this process."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0  # rank on this machine, which selects the GPU

    @property
    def first(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """The device of a name. With several processes, ``cuda`` means the GPU of each process.

        Raises:
            Unsupported: a GPU that is not here.
        """
        chosen = torch.device(f"cuda:{self.local_rank}" if name == "cuda:0" and self.count > 1 else name)
        if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
            raise Unsupported(
                f"--device {name}: torch finds {torch.cuda.device_count()} CUDA GPUs here", "use --device auto, or see: tlx doctor"
            )
        return chosen

    def share(self, indices: Tensor) -> Tensor:
        """This process's part of a batch, int64 (batch,) -> int64 (share,)."""
        return indices[self.rank :: self.count]

    def gather(self, rows: Tensor, total: int) -> Tensor:
        """Gather the results of each process for its :meth:`share` of ``range(total)``: (share, ...) -> (total, ...)."""
        if self.count == 1:
            return rows
        longest = -(-total // self.count)
        padded = torch.zeros((longest, *rows.shape[1:]), dtype=rows.dtype)
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(self.count)]
        dist.all_gather(parts, padded)
        return torch.stack(parts, dim=1).flatten(0, 1)[:total]

    def wrap(self, module: nn.Module, device: torch.device) -> nn.Module:
        """The module with averaged gradients; unchanged in one process."""
        if self.count == 1:
            return module
        return DistributedDataParallel(module, device_ids=[device.index] if device.type == "cuda" else None)

    def total(self, *values: float) -> list[float]:
        """Sums over all processes."""
        if self.count == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        return [float(value) for value in tensor]

    def wait(self) -> None:
        """Wait for all processes."""
        if self.count > 1:
            dist.barrier()


def place_among_workers() -> Workers:
    """This process among those that ``torchrun`` started, or the only one.

    Raises:
        UsageError: a variable that torchrun sets is missing or no number, or the numbers do not fit one another.
    """
    hint = "start with torchrun, which sets it, or take it out of the environment: env -u RANK -u WORLD_SIZE -u LOCAL_RANK tlx ..."
    if not os.environ.get("RANK") or not os.environ.get("WORLD_SIZE"):  # other launchers may set one of the two
        return Workers()
    found = {}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        text = os.environ.get(name, "0")
        if not re.fullmatch("[0-9]{1,6}", text):
            raise UsageError(f"the environment variable {name} is {text!r}; torchrun sets a whole number", hint)
        found[name] = int(text)
    place = Workers(found["RANK"], found["WORLD_SIZE"], found["LOCAL_RANK"])
    if not place.rank < place.count or place.local_rank > place.rank:
        raise UsageError(f"RANK={place.rank}, WORLD_SIZE={place.count}, LOCAL_RANK={place.local_rank} do not fit one another", hint)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if place.count > 1 and not os.environ.get(name):
            raise UsageError(f"WORLD_SIZE is {place.count}, and the environment variable {name} is not set", hint)
    if place.count > 1 and not re.fullmatch("[0-9]{1,5}", port := os.environ["MASTER_PORT"]):
        raise UsageError(f"the environment variable MASTER_PORT is {port!r}; the number of a port was expected", hint)
    return place


@contextmanager
def workers() -> Iterator[Workers]:
    """Join the processes that ``torchrun`` started (gloo, because all exchanged tensors are in host memory)."""
    place = place_among_workers()
    if place.count == 1:
        yield place
        return
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    except (RuntimeError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise StepFailed(f"the processes of torchrun do not find one another: {reason}", "check MASTER_ADDR and MASTER_PORT") from error
    try:
        yield place
    finally:
        dist.destroy_process_group()

"""Several processes: what ``torchrun`` starts is recognised by its environment; without it everything here is a no-op.

The processes see the same images in the same order. Each takes its share of every batch (gradients are averaged by
DistributedDataParallel) and of every feature extraction; all decide alike, and the first one writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tlexport.errors import Unsupported


@dataclass(frozen=True)
class Workers:
    """This process among all."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0  # among those of this machine: which GPU is its own

    @property
    def first(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """The device of a name: of ``cuda:0``, where there are several processes, each one's own GPU.

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
        """Put together what each process computed of its :meth:`share` of ``range(total)``: (share, ...) -> (total, ...)."""
        if self.count == 1:
            return rows
        longest = -(-total // self.count)
        padded = torch.zeros((longest, *rows.shape[1:]), dtype=rows.dtype)
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(self.count)]
        dist.all_gather(parts, padded)
        return torch.stack(parts, dim=1).flatten(0, 1)[:total]

    def wrap(self, module: nn.Module, device: torch.device) -> nn.Module:
        """The module with averaged gradients; itself where there is one process."""
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
        """Until all processes are here."""
        if self.count > 1:
            dist.barrier()


@contextmanager
def workers() -> Iterator[Workers]:
    """Join the processes that ``torchrun`` started (gloo: every tensor that is exchanged as a whole lies in host memory)."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 or "RANK" not in os.environ:
        yield Workers()
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Workers(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))
    finally:
        dist.destroy_process_group()

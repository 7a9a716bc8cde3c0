"""Inputs of the trained stages, loaded ahead on a GPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

LOADED_AHEAD = 3  # batches in pinned memory


@dataclass(frozen=True)
class Inputs:
    """The inputs of the trained stages for one part of the data, in two steps.

    ``load`` maps image indices int64 (batch,) and the epoch to what is kept of them in host memory: features, or pixels where there
    are none. It draws nothing at random, so it may run ahead. ``see`` maps that and a generator to float32 (batch, ...) on
    ``device``: for pixels it augments and runs the frozen stages.
    """

    load: Callable[[Tensor, int], Tensor]
    see: Callable[[Tensor, torch.Generator], Tensor]
    labels: Tensor  # int64 (image,), host memory
    device: torch.device
    teacher: Tensor | None = None  # logits of the teacher, float32 (image, class), host memory
    kept: bool = False  # ``load`` returns stored features

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor, epoch: int, generator: torch.Generator) -> Tensor:
        """Both steps."""
        return self.see(self.load(indices, epoch), generator)

    def loaded(self, parts: Iterable[Tensor], epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Each batch of indices with the result of :attr:`load`; on a GPU the next batches load during computation."""
        if self.device.type == "cpu":
            yield from ((indices, self.load(indices, epoch)) for indices in parts)
            return
        with ThreadPoolExecutor(1, thread_name_prefix="load") as pool:
            coming: deque[tuple[Tensor, Future[Tensor]]] = deque()
            for indices in parts:
                coming.append((indices, pool.submit(self.load, indices, epoch)))
                if len(coming) > LOADED_AHEAD:
                    first, future = coming.popleft()
                    yield first, future.result()
            for first, future in coming:
                yield first, future.result()

"""The order of training samples: one global order an epoch, whatever the number of processes.

Every global batch is a stretch of that order, and each process takes its part of the stretch. A
run that goes on with another number of processes, but the same total batch, sees the same batches.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import torch
from mmengine.dist import get_dist_info
from torch.utils.data import Sampler


class EpochBatches(Sampler[list[int]]):
    """Batches of one process, as a `batch_sampler`; deterministic from (seed, epoch).

    Args:
        groups: for every index of the data set, what it belongs to (its picture, say): members of
            a group stay together, so that a batch holds several sentences of a picture, which only
            the words tell apart. None shuffles the indices themselves.
        batch_size: of this process; the total batch is that times the number of processes.

    The last, incomplete total batch is left out, unless it is the only one: then the order is
    filled up from its beginning until every process has as many.
    """

    def __init__(self, groups: Sequence[Hashable] | int, batch_size: int, seed: int = 0) -> None:
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0
        self.rank, self.world_size = get_dist_info()
        self.members: list[list[int]]
        if isinstance(groups, int):
            self.members = [[index] for index in range(groups)]
        else:
            found: dict[Hashable, list[int]] = {}
            for index, group in enumerate(groups):
                found.setdefault(group, []).append(index)
            self.members = list(found.values())
        self.count = sum(map(len, self.members))
        self.total_batch = batch_size * self.world_size
        self.consumed = 0  # samples of this epoch that an earlier run has used up

    @property
    def first_batch(self) -> int:
        """Number of the batch the epoch goes on with: 0 unless the run was resumed in it."""
        return self.consumed // self.total_batch

    def __len__(self) -> int:
        return max(1, self.count // self.total_batch)

    def order(self) -> list[int]:
        """The epoch's global order of indices."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        groups = torch.randperm(len(self.members), generator=generator).tolist()
        return [index for group in groups for index in self.members[group]]

    def __iter__(self) -> Iterator[list[int]]:
        order = self.order()
        if self.count < self.total_batch:
            if self.consumed:
                return  # the epoch's only batch
            part = -(-self.count // self.world_size)
            filled = [order[i % self.count] for i in range(part * self.world_size)]
            yield filled[self.rank * part : (self.rank + 1) * part]
            return
        for start in range(self.consumed, self.count - self.total_batch + 1, self.total_batch):
            own = start + self.rank * self.batch_size
            yield order[own : own + self.batch_size]

    def set_epoch(self, epoch: int, consumed: int = 0) -> None:
        """Another order for every epoch, from sample `consumed` of it on."""
        self.epoch, self.consumed = epoch, consumed

"""Order of training refs that keeps a picture's refs together."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import torch
from mmengine.dist import get_dist_info
from torch.utils.data import Sampler


class PictureSampler(Sampler[int]):
    """Shuffles pictures, and gives all refs of one before those of the next.

    Batches then hold several sentences of the same picture, which only the words tell apart.
    Deterministic from (seed, epoch); each rank takes one stretch, the last filled up from the
    beginning so that every rank has as many refs.

    Args:
        pictures: for every index of the data set, the id of its picture.
    """

    def __init__(self, pictures: Sequence[Hashable], seed: int = 0) -> None:
        self.seed, self.epoch = seed, 0
        self.rank, self.world_size = get_dist_info()
        self.groups: dict[Hashable, list[int]] = {}
        for index, picture in enumerate(pictures):
            self.groups.setdefault(picture, []).append(index)
        self.count = -(-len(pictures) // self.world_size)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        groups = list(self.groups.values())
        order = torch.randperm(len(groups), generator=generator).tolist()
        indices = [index for group in order for index in groups[group]]
        missing = self.count * self.world_size - len(indices)
        indices += indices[:missing]
        return iter(indices[self.rank * self.count : (self.rank + 1) * self.count])

    def set_epoch(self, epoch: int) -> None:
        """Another order for every epoch."""
        self.epoch = epoch

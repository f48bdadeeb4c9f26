"""`MixedRefs`: training items of several data sets, as one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property

from torch.utils.data import ConcatDataset

from refer.datasets.refs import RefDataset
from refer.datasets.source import Item, Ref


class MixedRefs(ConcatDataset[Item]):
    """The items of every part one after the other, as gRefCOCO is trained together with RefCOCO.

    The parts' ids may be the same for different things; pictures are told apart by their paths.
    """

    def __init__(self, parts: Sequence[RefDataset]) -> None:
        super().__init__(parts)
        self.parts = list(parts)

    @property
    def refs(self) -> list[Ref]:
        """The refs of all parts."""
        return [ref for part in self.parts for ref in part.refs]

    @property
    def pictures(self) -> list[str]:
        """Path of the picture of every item."""
        return [path for part in self.parts for path in part.pictures]

    @cached_property
    def data_hash(self) -> str:
        """sha256 (hex) over the parts' own."""
        joined = " ".join(part.data_hash for part in self.parts)
        return hashlib.sha256(joined.encode()).hexdigest()

    def set_epoch(self, epoch: int) -> None:
        """Draw the random sentences of this epoch from now on."""
        for part in self.parts:
            part.set_epoch(epoch)

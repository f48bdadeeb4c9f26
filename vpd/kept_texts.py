"""Text features by sentence: the latest ones in memory, all of them on disk if asked for.

Shapes: T tokens, D text channels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import torch
from torch import Tensor

from vpd.cache import TensorCache, digest_of

IN_MEMORY = 256 * 2**20  # bytes


class KeptTexts:
    """Features float [T, D] of sentences, on the device where they were made or asked for."""

    def __init__(self) -> None:
        self.on_disk: TensorCache | None = None
        self._latest: OrderedDict[str, Tensor] = OrderedDict()

    def find(self, sentences: Iterable[str], device: torch.device) -> dict[str, Tensor]:
        """Those of the sentences that are kept."""
        asked = list(dict.fromkeys(sentences))
        found = {s: self._latest[s] for s in asked if s in self._latest}
        if self.on_disk is not None:
            for sentence in [s for s in asked if s not in found]:
                stored = self.on_disk.get(digest_of(sentence.encode()))
                if stored is not None:
                    # Once, and not at every use.
                    found[sentence] = stored.to(device, non_blocking=True)
        return found

    def store(self, sentence: str, feature: Tensor) -> Tensor:
        """A new sentence's features, as they will be found from now on: the disk may round."""
        if self.on_disk is None:
            return feature
        return self.on_disk.put(digest_of(sentence.encode()), feature).to(feature.device)

    def remember(self, used: dict[str, Tensor]) -> None:
        """Keep these in memory, in place of those not used for longest."""
        for sentence, feature in used.items():
            self._latest[sentence] = feature.detach()
            self._latest.move_to_end(sentence)
        size = next(iter(used.values())).nbytes
        while len(self._latest) * size > IN_MEMORY:
            self._latest.popitem(last=False)

    def refresh(self) -> None:
        """Take notice of what other processes have kept on disk since."""
        if self.on_disk is not None:
            self.on_disk.refresh()

    def forget(self) -> None:
        """Nothing is in memory any more; the disk keeps what it has."""
        self._latest.clear()

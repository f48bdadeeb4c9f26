"""Latents of training pictures, encoded once: in memory by path, on disk by content.

Shapes: P pictures, H W pixels, c channels of a latent, h w its cells.

The picture is never augmented and the VAE never trained, so they cannot go stale.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vpd import DiffusionBackbone
from vpd.cache import TensorCache


class KeptLatents:
    """Latents of one backbone.

    Args:
        in_memory: bytes of latents kept in memory; 0 keeps none.
        cache_dir: folder of those kept on disk; None keeps none.
        dtype: of those on disk.
    """

    def __init__(
        self, in_memory: int = 0, cache_dir: str | None = None, dtype: str = "float32"
    ) -> None:
        self.in_memory, self.cache_dir, self.dtype = in_memory, cache_dir, dtype
        self.by_name: dict[str, Tensor] = {}
        self._on_disk: TensorCache | None = None

    def encode(
        self,
        backbone: DiffusionBackbone,
        image: Tensor,
        names: Sequence[str] | None,
        content: Sequence[bytes] | None = None,
    ) -> Tensor:
        """image float [P, 3, H, W] -> latents [P, c, h, w] on its device, of which only those that
        are kept nowhere are encoded.

        names: of the pictures, the same for the same pixels; without them nothing is kept.
        content: digests of the pictures; without them nothing is kept on disk.
        """
        on_disk = self._disk(backbone, image) if content is not None else None
        if names is None or not (self.in_memory or on_disk is not None):
            return backbone.encode_image(image)
        ids = list(names)
        found = {i: self.by_name[i] for i in ids if i in self.by_name}
        # One row for every picture not seen before, however often it stands in the batch.
        fresh = {i: row for row, i in enumerate(ids) if i not in found}
        for i, row in fresh.items():
            kept = None
            if on_disk is not None and content is not None:
                kept = on_disk.get(content[row])
            if kept is None:
                # One by one: rounding depends on a batch's size, and what is kept must depend
                # neither on the pictures beside it nor on where a resumed run began.
                kept = backbone.encode_image(image[row : row + 1])[0]
                if on_disk is not None and content is not None:
                    kept = on_disk.put(content[row], kept)
            found[i] = kept
        size = next(iter(found.values())).nbytes
        for i in ids:
            if (len(self.by_name) + 1) * size <= self.in_memory:
                self.by_name.setdefault(i, found[i].cpu())
        if fresh:
            return torch.stack([found[i].to(image.device, non_blocking=True) for i in ids])
        return torch.stack([found[i] for i in ids]).to(image.device, non_blocking=True)

    def refresh(self) -> None:
        """Take notice of what other processes have kept on disk since."""
        if self._on_disk is not None:
            self._on_disk.refresh()

    def _disk(self, backbone: DiffusionBackbone, image: Tensor) -> TensorCache | None:
        if self._on_disk is None and self.cache_dir is not None:
            height, width = image.shape[-2:]
            # Not before the first picture: it depends on the size, and on autocast.
            self._on_disk = backbone.latent_cache(self.cache_dir, (height, width), self.dtype)
        return self._on_disk

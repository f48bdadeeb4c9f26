"""The time embedding of a timestep that never changes: computed once, for as long as its weights
stay what they are.

Shapes: D embedding channels. The projection that every residual block makes of it stays where it
is: it adds nothing that a pass would notice, and leaving it out needs diffusers' block rewritten.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor


class ConstantTime:
    """The embedding of one timestep.

    It is kept while the embedding's weights are frozen and the same (storage, version, device,
    dtype), and the precision asked for is the same; it is made anew after a load, a move, a cast or
    under another autocast. Weights that may be trained are never folded. A write that goes round
    torch's version counters (`weight.data.copy_(...)`) needs a call of `forget`.

    Args:
        unet: its owner's; only `time_proj` and `time_embedding` are used.
        timestep: the constant.
    """

    def __init__(self, unet: UNet2DConditionModel, timestep: int) -> None:
        self.unet, self.timestep = unet, timestep
        self._kept: Tensor | None = None
        self._key: tuple[Any, ...] = ()
        self._weights: list[Tensor] = []  # holds their memory, so that no address comes twice

    def __call__(self, like: Tensor) -> Tensor:
        """float [1, D] on the device of `like` and in its dtype: exactly what computing it gives.

        One row for a whole batch: it broadcasts.
        """
        weights = list(self.unet.time_embedding.parameters())
        if any(w.requires_grad or w.is_inference() for w in weights):
            self.forget()
            return self._embed(like)
        if torch.compiler.is_compiling():  # a tracer's tensors have no address, and fold it anyway
            return self._embed(like)
        kind = like.device.type
        auto = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        key = (
            like.dtype,
            like.device,
            auto,
            *((id(w), w._version, w.data_ptr(), w.dtype, w.device) for w in weights),
        )
        if self._kept is None or key != self._key:
            # A tensor of inference mode could not take part in a training step later.
            with torch.inference_mode(False), torch.no_grad():
                self._kept = self._embed(torch.empty((), dtype=like.dtype, device=like.device))
            self._key, self._weights = key, [w.detach() for w in weights]
        return self._kept

    def forget(self) -> None:
        """Compute it anew at the next pass."""
        self._kept, self._key, self._weights = None, (), []

    def _embed(self, like: Tensor) -> Tensor:
        time = torch.full((1,), self.timestep, dtype=torch.long, device=like.device)
        embedded: Tensor = self.unet.time_embedding(self.unet.time_proj(time).to(like.dtype))
        return embedded

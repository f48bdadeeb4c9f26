"""The architecture that a file of LDM-named weights was made with, read off its tensor shapes.

Only the number of attention heads leaves no trace in the shapes; Stable Diffusion 1.x has 8.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vpd.errors import WeightsError

_MOST = 256  # parts of one kind; a name with a greater number would have us look for all before it


def unet_config(state: Mapping[str, Tensor], num_heads: int, where: str) -> dict[str, Any]:
    """diffusers `UNet2DConditionModel` arguments for an LDM UNet `state` (names without prefix)."""
    try:
        blocks = 1 + max(_numbers(state, r"input_blocks\.(\d+)\."))
        widths: list[int] = []
        attention: list[bool] = []
        per_level = [0]
        for number in range(1, blocks):
            if f"input_blocks.{number}.0.op.weight" in state:
                per_level.append(0)
                continue
            if per_level[-1] == 0:
                widths.append(state[f"input_blocks.{number}.0.out_layers.3.weight"].shape[0])
                attention.append(f"input_blocks.{number}.1.norm.weight" in state)
            per_level[-1] += 1
        depth = 1 + max(_numbers(state, r"middle_block\.1\.transformer_blocks\.(\d+)\."))
        projection = state["middle_block.1.proj_in.weight"]
        config: dict[str, Any] = {
            "in_channels": state["input_blocks.0.0.weight"].shape[1],
            "out_channels": state["out.2.weight"].shape[0],
            "block_out_channels": tuple(widths),
            "layers_per_block": per_level[0],
            "down_block_types": tuple(
                "CrossAttnDownBlock2D" if has else "DownBlock2D" for has in attention
            ),
            "up_block_types": tuple(
                "CrossAttnUpBlock2D" if has else "UpBlock2D" for has in reversed(attention)
            ),
            "cross_attention_dim": state[
                "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
            ].shape[1],
            "transformer_layers_per_block": depth,
            # diffusers reads an integer here as the number of heads in v1 configs.
            "attention_head_dim": num_heads,
            "use_linear_projection": projection.ndim == 2,
        }
    except (KeyError, ValueError, IndexError) as error:
        raise WeightsError(
            f"{where}: no Stable Diffusion 1.x UNet can be read from it; first problem: {error}"
        ) from error
    if len(set(per_level)) != 1 or len(widths) != 4:
        raise WeightsError(
            f"{where}: the UNet has {per_level} layers in its levels; four levels of equal depth "
            "are needed"
        )
    odd = [width for width in widths if width % num_heads or width % 32]
    if odd:
        raise WeightsError(
            f"{where}: UNet widths {widths} must divide by 32 and by num_heads={num_heads}; "
            "pass the number of heads the model was trained with"
        )
    return config


def vae_config(state: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """diffusers `AutoencoderKL` arguments for an LDM encoder `state` (names without prefix)."""
    try:
        levels = 1 + max(_numbers(state, r"encoder\.down\.(\d+)\."))
        layers = 1 + max(_numbers(state, r"encoder\.down\.0\.block\.(\d+)\."))
        widths = tuple(
            state[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] for level in range(levels)
        )
        return {
            "in_channels": state["encoder.conv_in.weight"].shape[1],
            "latent_channels": state["quant_conv.weight"].shape[0] // 2,
            "block_out_channels": widths,
            "layers_per_block": layers,
            "down_block_types": ("DownEncoderBlock2D",) * levels,
            "up_block_types": ("UpDecoderBlock2D",) * levels,
        }
    except (KeyError, ValueError, IndexError) as error:
        raise WeightsError(
            f"{where}: no KL autoencoder can be read from it; first problem: {error}"
        ) from error


def text_config(state: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """transformers `CLIPTextConfig` arguments for CLIP text weights (`embeddings.`, `encoder.`)."""
    try:
        vocabulary, width = state["embeddings.token_embedding.weight"].shape
        return {
            "vocab_size": vocabulary,
            "hidden_size": width,
            "max_position_embeddings": state["embeddings.position_embedding.weight"].shape[0],
            "intermediate_size": state["encoder.layers.0.mlp.fc1.weight"].shape[0],
            "num_hidden_layers": 1 + max(_numbers(state, r"encoder\.layers\.(\d+)\.")),
            "num_attention_heads": max(1, width // 64),  # every CLIP has heads of 64
            "hidden_act": "quick_gelu",
        }
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{where}: no CLIP text encoder can be read; {error}") from error


def _numbers(state: Mapping[str, Tensor], pattern: str) -> set[int]:
    found = {int(match[1]) for key in state if (match := re.match(pattern, key))}
    if not found:
        raise KeyError(f"no key matches {pattern}")
    if max(found) > _MOST:
        raise ValueError(f"a key that matches {pattern} has number {max(found):.6g}")
    return found

"""Light checkpointing: what is cheap to compute again is not kept for the backward pass.

Shapes: N pictures or pairs, C channels, h w cells of a level, L = h w of them, D time channels.

Between the large products of a UNet lie normalisations and activations that keep a tensor each for
the backward pass and take next to no time to compute, and a feed-forward layer whose hidden width
is eight times its input's (GEGLU's two halves). These are much of what a step keeps: here only
their inputs are kept. What the attention layers and convolutions keep, which is dear to compute
again, stays. Outputs and gradients are the same bits.

The two passes below compute what diffusers' own forwards do, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def fits(module: nn.Module) -> bool:
    """Whether a block is of the kind that `residual` or `attended` computes: Stable Diffusion's."""
    if isinstance(module, ResnetBlock2D):
        return (
            module.time_embedding_norm == "default"
            and module.time_emb_proj is not None
            and not module.skip_time_act
            and module.upsample is None
            and module.downsample is None
        )
    return (
        isinstance(module, BasicTransformerBlock)
        and module.norm_type == "layer_norm"
        and module.attn2 is not None
        and module.pos_embed is None
        and not module.only_cross_attention
        and module._chunk_size is None
    )


def residual(block: ResnetBlock2D, hidden: Tensor, emb: Tensor) -> Tensor:
    """A residual block: [N, C, h, w] and the time embedding [1 or N, D] to [N, C', h, w]."""

    def active(norm: nn.Module, x: Tensor) -> Tensor:
        activated: Tensor = block.nonlinearity(norm(x))
        return activated

    x = block.conv1(_again(lambda x: active(block.norm1, x), hidden))
    x = x + block.time_emb_proj(block.nonlinearity(emb))[:, :, None, None]
    x = block.conv2(block.dropout(_again(lambda x: active(block.norm2, x), x)))
    if block.conv_shortcut is not None:
        # As diffusers has it: DDP warns of gradients with other strides than their weights.
        hidden = block.conv_shortcut(hidden.contiguous() if block.training else hidden)
    out: Tensor = (hidden + x) / block.output_scale_factor
    return out


def attended(
    block: BasicTransformerBlock,
    tokens: Tensor,
    context: Tensor,
    pairs: Callable[[Tensor], Tensor] = lambda tokens: tokens,
    light: bool = True,
) -> Tensor:
    """A transformer block: tokens [N, L, C], context [N, T, D] to tokens [N, L, C].

    pairs: the step from pictures to pairs, behind the self-attention. light: keep the feed-forward
    layer's input alone.
    """
    tokens = pairs(block.attn1(block.norm1(tokens)) + tokens)
    tokens = block.attn2(block.norm2(tokens), encoder_hidden_states=context) + tokens

    def forward(tokens: Tensor) -> Tensor:
        made: Tensor = block.ff(block.norm3(tokens))
        return made

    return (_again(forward, tokens) if light else forward(tokens)) + tokens


def _again(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return function(x)
    kept: Tensor = checkpoint(function, x, use_reentrant=False)
    return kept

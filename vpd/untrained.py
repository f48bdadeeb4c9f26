"""Random weights that a head can learn from: what the usual initial values throw away is kept.

As diffusers and transformers initialise them, an untrained VAE mixes a picture into near noise, an
untrained CLIP drowns each word in the average of those before it, and untrained cross-attention
looks at all words alike. Trained weights have none of these faults; an untrained tiny model need
not have them either. Nothing here touches weights that were loaded.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import nn
from transformers import CLIPTextModel

TOKEN_STD, POSITION_STD = 1.0, 0.2  # transformers draws both with 0.02
SHARPER, LOUDER = 3.0, 2.0


@torch.no_grad()
def initialise(unet: UNet2DConditionModel, vae: AutoencoderKL, text: CLIPTextModel) -> None:
    """Draw or rescale initial weights in place, from torch's global generator."""
    _keep_the_picture(vae)
    wake(unet, text)


@torch.no_grad()
def wake(unet: UNet2DConditionModel, text: CLIPTextModel) -> None:
    """Words told apart by the text encoder, and heard by the UNet, before any training."""
    nn.init.normal_(text.embeddings.token_embedding.weight, std=TOKEN_STD)
    nn.init.normal_(text.embeddings.position_embedding.weight, std=POSITION_STD)
    _look_at_words(unet)


def _keep_the_picture(vae: AutoencoderKL) -> None:
    """Orthogonal convolutions and silent residual branches: a latent is a linear sketch."""
    for module in vae.encoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.orthogonal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in vae.encoder.modules():
        last = None
        if isinstance(module, ResnetBlock2D):
            last = module.conv2
        elif isinstance(module, Attention):
            last = module.to_out[0]
        if last is not None:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
    nn.init.orthogonal_(vae.quant_conv.weight)


def _look_at_words(unet: UNet2DConditionModel) -> None:
    """Cross-attention that prefers some words from the start, and is heard."""
    for name, parameter in unet.named_parameters():
        if ".attn2.to_q." in name or ".attn2.to_k." in name:
            parameter.mul_(SHARPER)
        elif ".attn2.to_v." in name or name.endswith(".attn2.to_out.0.weight"):
            parameter.mul_(LOUDER)

"""Transformer layers in which the cells of a map read one another and then the words.

Shapes: B pairs, T tokens, D channels of the text encoder, C channels and h w cells of the map.
Source: the vision-language decoder of CRIS (Wang et al. 2022, section 3.3), on torch's own layer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WordLayers(nn.Module):
    """What compares: "the largest", "left of the star" cannot be told from a cell and its
    neighbours, however well each knows what it is.

    Args:
        channels: of the map.
        text_channels: of the text features.
        layers: each is attention over cells, attention to words, and two linear layers.
        heads: of both attentions.
        grid: learned places along each side; another number of cells takes them resized.
    """

    def __init__(
        self, channels: int, text_channels: int, layers: int, heads: int = 4, grid: int = 8
    ) -> None:
        super().__init__()
        self.place = nn.Parameter(nn.init.trunc_normal_(Tensor(1, channels, grid, grid), std=0.02))
        self.text = nn.Linear(text_channels, channels)
        layer = nn.TransformerDecoderLayer(
            channels,
            heads,
            4 * channels,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerDecoder(layer, layers)
        for parameter in self.layers.parameters():  # the copies would all begin alike
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, features: Tensor, text: Tensor) -> Tensor:
        """features [B, C, h, w], text [B, T, D] -> float32 [B, C, h, w].

        In float32 under autocast too: the layers are small, and torch's half-precision attention
        on CPUs takes several times as long as its float32 one.
        """
        size = features.shape[-2:]
        place: Tensor = self.place
        if place.shape[-2:] != size:
            place = F.interpolate(place, size=size, mode="bilinear", align_corners=False)
        with torch.autocast(features.device.type, enabled=False):
            cells = (features.float() + place).flatten(2).transpose(1, 2)
            found: Tensor = self.layers(cells, self.text(text.float()))
        return found.transpose(1, 2).unflatten(2, size)

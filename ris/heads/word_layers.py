"""Transformer layers in which the cells of a map read the words and then one another.

Shapes: B pairs, T tokens, D channels of the text encoder, C channels and h w cells of the map.
Source: the vision-language decoder of CRIS (Wang et al. 2022, section 3.3), the order reversed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WordLayer(nn.Module):
    """Attention to the words, attention over cells, two linear layers; each normed first and added.

    The words come first: what a cell is compared by ("largest", "left of") has to be read before
    the comparison, and a layer that compares first wastes its comparison.
    """

    def __init__(self, channels: int, text_channels: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))
        self.words = nn.MultiheadAttention(
            channels, heads, kdim=text_channels, vdim=text_channels, batch_first=True
        )
        self.others = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.linear = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)
        )

    def forward(self, cells: Tensor, text: Tensor) -> Tensor:
        """cells [B, h * w, C], text [B, T, D] -> [B, h * w, C]."""
        read, compare, think = self.norms
        cells = cells + self.words(read(cells), text, text, need_weights=False)[0]
        own = compare(cells)
        cells = cells + self.others(own, own, own, need_weights=False)[0]
        found: Tensor = cells + self.linear(think(cells))
        return found


class WordLayers(nn.Module):
    """What compares: "the largest", "left of the star" cannot be told from a cell and its
    neighbours, however well each knows what it is.

    Args:
        channels: of the map.
        text_channels: of the text features.
        layers: how many.
        heads: of both attentions.
        grid: learned places along each side; another number of cells takes them resized.
    """

    def __init__(
        self, channels: int, text_channels: int, layers: int, heads: int = 4, grid: int = 8
    ) -> None:
        super().__init__()
        self.channels = channels
        self.place = nn.Parameter(nn.init.trunc_normal_(Tensor(1, channels, grid, grid), std=0.02))
        self.layers = nn.ModuleList(
            WordLayer(channels, text_channels, heads) for _ in range(layers)
        )

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
            cells, text = (features.float() + place).flatten(2).transpose(1, 2), text.float()
            for layer in self.layers:
                cells = layer(cells, text)
        return cells.transpose(1, 2).unflatten(2, size)

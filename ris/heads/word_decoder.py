"""VPD's decoder, with every level of the pyramid first told what the words say to it.

Shapes: B pairs, T tokens, D channels of the text encoder, C_l channels of level l, h w its cells,
W word channels.
Source of the fusion: pixel-word attention of LAVT (Yang et al. 2022, section 3.2), read from the
paper; there it stands inside the image encoder, here behind a frozen one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ris.heads.vpd_decoder import VPDDecoder
from ris.heads.word_layers import WordLayers


class PixelWordAttention(nn.Module):
    """For each cell, the words that matter there: softmax over tokens of query . key, on values.

    Attributes:
        written_out: run the formula itself instead of torch's fused kernel, which rounds otherwise
            and which no exporter knows without a dimension of heads.
    """

    written_out = False

    def __init__(self, in_channels: int, text_channels: int, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(in_channels, channels, 1)
        self.key = nn.Linear(text_channels, channels)
        self.value = nn.Linear(text_channels, channels)

    def forward(self, features: Tensor, text: Tensor, read: Tensor | None = None) -> Tensor:
        """features [B, C, h, w], text [B, T, D], read bool [B, T], the tokens that are attended to
        (None: all) -> [B, W, h, w]."""
        query = self.query(features)
        height, width = query.shape[-2:]
        cells, keys, values = query.flatten(2).transpose(1, 2), self.key(text), self.value(text)
        allowed = None if read is None else read[:, None]
        if self.written_out:
            scores = cells.shape[-1] ** -0.5 * cells @ keys.transpose(1, 2)
            if allowed is not None:
                scores = scores.masked_fill(~allowed, float("-inf"))
            words = scores.softmax(dim=-1) @ values
        else:
            words = F.scaled_dot_product_attention(cells, keys, values, attn_mask=allowed)
        return words.transpose(1, 2).unflatten(2, (height, width))


class WordDecoder(nn.Module):
    """Pyramid and text features -> two-channel logits, `subpixel` times the finest level's size.

    Args:
        in_channels: channels of the four levels, finest first.
        text_channels: channels of the text features.
        channels: hidden width of the decoder.
        word_channels: channels that the words add to each level.
        layers: transformer layers over the second finest level (see `WordLayers`).
        num_classes, subpixel, input_norm: as for `VPDDecoder`.
    """

    reads_words = True

    def __init__(
        self,
        in_channels: Sequence[int],
        text_channels: int,
        channels: int = 64,
        word_channels: int = 64,
        num_classes: int = 2,
        subpixel: int = 4,
        input_norm: bool = True,
        layers: int = 0,
    ) -> None:
        super().__init__()
        self.words = nn.ModuleList(
            PixelWordAttention(width, text_channels, word_channels) for width in in_channels
        )
        widths = [width + word_channels for width in in_channels]
        self.decoder = VPDDecoder(widths, channels, num_classes, subpixel, input_norm)
        self.layers = WordLayers(channels, text_channels, layers) if layers else None

    def forward(self, pyramid: Sequence[Tensor], text: Tensor) -> Tensor:
        """Four maps [B, C_l, h / 2^l, w / 2^l], finest first, and text float [B, T, D] -> logits
        [B, num_classes, h * subpixel, w * subpixel]."""
        return self.with_cells(pyramid, text)[0]

    def with_cells(self, pyramid: Sequence[Tensor], text: Tensor) -> tuple[Tensor, Tensor | None]:
        """As `forward`, and what `layers` made of the second finest level: float32
        [B, channels, h / 2, w / 2], None without layers."""
        fused = [
            torch.cat([level, words(level, text)], dim=1)
            for level, words in zip(pyramid, self.words, strict=True)
        ]
        if self.layers is None:
            return self.decoder(fused), None
        layers, seen = self.layers, []

        def between(features: Tensor) -> Tensor:
            seen.append(layers(features, text))
            return seen[0]

        return self.decoder(fused, between), seen[0]

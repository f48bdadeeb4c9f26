"""Heads of generalized referring segmentation: region tokens, minimap, "nothing here".

Shapes: B pairs, T tokens, D text channels, C_l channels of level l, g the grid's side, Q = g * g
regions, d their width, M mask channels, h w cells of the finest level, s the decoder's subpixel.
Source: ReLA (Liu et al. 2023 and its published code): a region's mask filter and its minimap logits
together give the two channels of the mask. ReLA's regions attend to a pixel decoder in nine layers;
here they pool the diffusion pyramid once, and a filter that is the same for all pairs is added to
theirs, since features that know the words already tell much.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Build = Callable[..., nn.Module]


class GRESOutput(NamedTuple):
    """Logits. mask [B, 2, h * s, w * s]; minimap [B, 2, g, g] and no_target [B, 2], where the head
    has them. Channel 1 means referred, or nothing here."""

    mask: Tensor
    minimap: Tensor | None
    no_target: Tensor | None


class GRESHead(nn.Module):
    """Mask decoder plus region tokens that say where, and whether anything at all.

    Args:
        in_channels: channels of the pyramid's levels, finest first.
        text_channels: channels of the text features.
        build: makes the mask decoder from its config (`ris.heads.build_head`).
        mask: config of the mask decoder.
        regions: False leaves the plain mask decoder, without minimap and no-target head.
        no_target: False leaves out the no-target head; a rule on the mask's size then decides.
        language: False keeps the regions from the words.
        grid: regions along each side (ReLA: 10).
        width, heads, feedforward: of the region tokens (ReLA: 256, 8, 2048).
        mask_channels: channels of the mask features that a region's filter is laid on.
    """

    reads_words = True

    def __init__(
        self,
        in_channels: Sequence[int],
        text_channels: int,
        build: Build,
        mask: Mapping[str, Any] | None = None,
        *,
        regions: bool = True,
        no_target: bool = True,
        language: bool = True,
        grid: int = 10,
        width: int = 256,
        heads: int = 8,
        feedforward: int = 2048,
        mask_channels: int = 32,
    ) -> None:
        super().__init__()
        config = dict(mask or {"type": "VPDDecoder"})
        channels = mask_channels if regions else 2
        self.decoder = build({**config, "num_classes": channels}, in_channels, text_channels)
        self.decoder_reads_words = bool(getattr(self.decoder, "reads_words", False))
        self.regions: RegionTokens | None = None
        self.nothing: nn.Module | None = None
        if regions:
            self.regions = RegionTokens(
                in_channels, text_channels, grid, width, heads, feedforward, language
            )
            self.minimap = nn.Linear(width, 2)
            self.filters = _mlp(width, width, width, mask_channels)
            self.own = nn.Parameter(torch.randn(2, mask_channels) / mask_channels**0.5)
            if no_target:
                self.nothing = _mlp(width, width, 2)

    def forward(
        self, pyramid: Sequence[Tensor], text: Tensor, words: Tensor | None = None
    ) -> GRESOutput:
        """Levels [B, C_l, ...], text float [B, T, D], words bool [B, T], True where a token is no
        padding -> logits."""
        decoder = self.decoder
        features = decoder(pyramid, text) if self.decoder_reads_words else decoder(pyramid)
        if self.regions is None:
            return GRESOutput(features, None, None)
        tokens = self.regions(pyramid, text, words)
        minimap = self.minimap(tokens)
        # The sum over regions of minimap x (filter . features), the linear part taken first.
        kernel = self.own + torch.einsum("bqa,bqm->bam", minimap, self.filters(tokens))
        mask = torch.einsum("bam,bmhw->bahw", kernel, features)
        grid = minimap.transpose(1, 2).unflatten(2, (self.regions.grid, self.regions.grid))
        nothing = None if self.nothing is None else self.nothing(tokens).mean(dim=1)
        return GRESOutput(mask, grid, nothing)


class RegionTokens(nn.Module):
    """A grid of tokens pooled from every level; they read the sentence, then one another."""

    def __init__(
        self,
        in_channels: Sequence[int],
        text_channels: int,
        grid: int,
        width: int,
        heads: int,
        feedforward: int,
        language: bool,
    ) -> None:
        super().__init__()
        self.grid = grid
        # Normed, for the levels' scales differ by orders of magnitude, and the maps' again.
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for channels in in_channels)
        self.levels = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in in_channels)
        self.place = nn.Parameter(torch.zeros(1, grid * grid, width))
        nn.init.trunc_normal_(self.place, std=0.02)
        self.language: nn.MultiheadAttention | None = None
        if language:
            self.query = nn.LayerNorm(width)
            self.language = nn.MultiheadAttention(
                width, heads, kdim=text_channels, vdim=text_channels, batch_first=True
            )
        self.others = nn.TransformerEncoderLayer(
            width, heads, feedforward, dropout=0.0, batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, pyramid: Sequence[Tensor], text: Tensor, words: Tensor | None) -> Tensor:
        """-> [B, Q, d]."""
        layers = zip(pyramid, self.norms, self.levels, strict=True)
        pooled = sum(
            F.adaptive_avg_pool2d(project(norm(level)), self.grid)
            for level, norm, project in layers
        )
        assert isinstance(pooled, Tensor)
        tokens = pooled.flatten(2).transpose(1, 2) + self.place
        if self.language is not None:
            padding = None if words is None else ~words
            read, _ = self.language(
                self.query(tokens), text, text, key_padding_mask=padding, need_weights=False
            )
            tokens = tokens + read
        found: Tensor = self.norm(self.others(tokens))
        return found


def _mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inner, outer in pairwise(widths):
        layers += [nn.Linear(inner, outer), nn.ReLU()]
    return nn.Sequential(*layers[:-1])

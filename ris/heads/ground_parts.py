"""What grounding heads are built of: their input and output, positions, layers, phrase queries.

Shapes: C captions (one pass of the backbone each), S phrases of all of them, K the most phrases of
a caption, T tokens, D text channels, d width, N cells or tokens, h w cells, L decoder layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PhraseInput(NamedTuple):
    """What the words say: text float [C, T, D]; words bool [C, T], no padding there; inside bool
    [S, T], tokens of the phrase; caption int64 [S]; alone float [S, D], the phrase by itself; maps:
    where each token looked, [C, T, h_l, w_l] a level, finest first, of a backbone that says so;
    owners: `caption` once more, on the host."""

    text: Tensor
    words: Tensor
    inside: Tensor
    caption: Tensor
    alone: Tensor
    owners: Sequence[int]
    maps: tuple[Tensor, ...] = ()


class GroundOutput(NamedTuple):
    """boxes: cxcywh shares [L, S, 4], the last layer the answer; mask: logits [S, h, w]; edges:
    logits [S, 4, N] of where x1, y1, x2, y2 are, N places from 0 to 1. None where the head has no
    such part."""

    boxes: Tensor | None
    mask: Tensor | None
    edges: Tensor | None = None


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between."""
    layers: list[nn.Module] = []
    for inner, outer in pairwise(widths):
        layers += [nn.Linear(inner, outer), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def text_mlp(inner: int, outer: int, dropout: float) -> nn.Sequential:
    """RefTR's map of text features to the width of the layers."""
    return nn.Sequential(
        nn.Linear(inner, outer),
        nn.LayerNorm(outer),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(outer, outer),
        nn.LayerNorm(outer),
        nn.ReLU(),
    )


def sine_positions(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """DETR's position encoding of a grid: float [height * width, channels], y before x.

    Half of the channels each, sines and cosines in turn, of the cell's number (from 1) over the
    side, times 2 pi.
    """
    half = channels // 2
    step = torch.arange(half, device=device)
    period = 10000 ** (2 * (step // 2) / half)

    def axis(count: int) -> Tensor:
        place = torch.arange(1, count + 1, device=device) / count * 2 * math.pi
        angle = place[:, None] / period
        return torch.where(step % 2 == 0, angle.sin(), angle.cos())

    rows = axis(height)[:, None].expand(height, width, half)
    columns = axis(width)[None].expand(height, width, half)
    return torch.cat([rows, columns], dim=2).reshape(height * width, 2 * half)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each normed after; positions join queries and keys only."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.feed = nn.Sequential(
            nn.Linear(width, feedforward),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(feedforward, width),
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.drop = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, places: Tensor, padding: Tensor | None) -> Tensor:
        """tokens, places float [C, N, d]; padding bool [C, N], True is not read -> [C, N, d]."""
        asked = tokens + places
        read, _ = self.attention(asked, asked, tokens, key_padding_mask=padding, need_weights=False)
        tokens = self.norms[0](tokens + self.drop(read))
        out: Tensor = self.norms[1](tokens + self.drop(self.feed(tokens)))
        return out


class DecoderLayer(nn.Module):
    """Phrases read one another, then words and cells, then feed-forward; each normed after."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.within = EncoderLayer(width, heads, feedforward, dropout)
        self.cross = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.drop = nn.Dropout(dropout)

    def forward(
        self,
        phrases: Tensor,
        places: Tensor,
        absent: Tensor,
        memory: Tensor,
        memory_places: Tensor,
        padding: Tensor,
    ) -> Tensor:
        """phrases, places [C, K, d], absent bool [C, K]; memory, memory_places [C, N, d], padding
        bool [C, N] -> [C, K, d]."""
        own = self.within
        asked = phrases + places
        read, _ = own.attention(asked, asked, phrases, key_padding_mask=absent, need_weights=False)
        phrases = own.norms[0](phrases + own.drop(read))
        read, _ = self.cross(
            phrases + places,
            memory + memory_places,
            memory,
            key_padding_mask=padding,
            need_weights=False,
        )
        phrases = self.norm(phrases + self.drop(read))
        out: Tensor = own.norms[1](phrases + own.drop(own.feed(phrases)))
        return out


class PhraseQuery(nn.Module):
    """A phrase as a query: its tokens pooled as they stand in the caption, the whole caption, and
    the phrase by itself. CLIP's end token, which has read everything, stands for BERT's [CLS]."""

    def __init__(self, width: int, text_channels: int, dropout: float) -> None:
        super().__init__()
        self.key = nn.Linear(width, width)
        self.score = nn.Linear(width, width)
        self.pooled = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width))
        self.alone = text_mlp(text_channels, width, dropout)
        self.join = mlp(2 * width, width, width)
        self.learned = nn.Parameter(torch.zeros(2 * width))
        nn.init.normal_(self.learned, std=0.02)

    def forward(self, tokens: Tensor, said: PhraseInput) -> tuple[Tensor, Tensor]:
        """tokens float [C, T, d], encoded -> content and position of the queries, [S, d] each."""
        end = said.words.sum(dim=1) - 1
        whole = tokens[torch.arange(len(tokens), device=end.device), end][said.caption]
        pooled = pool_tokens(
            self.score(tokens)[said.caption], self.key(whole), tokens[said.caption], said.inside
        )
        within = self.pooled(pooled) + whole
        joined = self.join(torch.cat([within, self.alone(said.alone)], dim=1))
        content, place = (joined.repeat(1, 2) + self.learned).chunk(2, dim=1)
        return content, place


def pool_tokens(scores: Tensor, key: Tensor, values: Tensor, inside: Tensor) -> Tensor:
    """Attention over the tokens of a phrase only: scores, values [S, T, d], key [S, d], inside
    bool [S, T] -> [S, d]."""
    weight = torch.einsum("std,sd->st", scores, key) / key.shape[1] ** 0.5
    weight = weight.masked_fill(~inside, float("-inf")).softmax(dim=1)
    return torch.einsum("st,std->sd", weight, values)


class Slots:
    """Phrases of all captions, side by side [S, ...], against by caption [C, K, ...]."""

    def __init__(self, owners: Sequence[int], captions: int, device: torch.device) -> None:
        # On the host: sizes that depend on values would have to wait for the device.
        taken = [0] * captions
        rank = []
        for owner in owners:
            rank.append(taken[owner])
            taken[owner] += 1
        self.shape = captions, max(1, *taken)
        absent = torch.ones(self.shape, dtype=torch.bool)
        absent[list(owners), rank] = False
        # A caption without phrases would leave its attention nothing to read.
        absent[[owner for owner, count in enumerate(taken) if not count]] = False
        self.absent = absent.to(device, non_blocking=True)
        both = torch.tensor([list(owners), rank], dtype=torch.int64)
        self.caption, self.rank = both.to(device, non_blocking=True)

    def spread(self, values: Tensor) -> Tensor:
        """[S, d] -> [C, K, d], zeros where there is no phrase."""
        out = values.new_zeros((*self.shape, values.shape[1]))
        return out.index_put((self.caption, self.rank), values)

    def gather(self, values: Tensor) -> Tensor:
        """[..., C, K, d] -> [..., S, d]."""
        return values[..., self.caption, self.rank, :]


def upsampled(maps: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Nearest, as DETR's mask head does."""
    return F.interpolate(maps, size=tuple(size), mode="nearest")

"""Token merging: self-attention over fewer tokens, those that look alike being run as one.

Shapes: B pairs, N = h*w tokens of a level, G = N / 4 kept tokens (one of each 2 x 2 cells),
S = N - G others, R merged ones, C channels.

Source: the description in D. Bolya and J. Hoffman, "Token Merging for Fast Stable Diffusion", 2023:
of each 2 x 2 window one token is a destination; each other token's most similar destination (by
cosine) is found; the `ratio` N most similar ones join theirs, averaged; behind the self-attention
each gets its destination's output. The paper draws a window's destination at random; here it is the
upper left one, so that a picture always gives the same masks. A named trade: it loses accuracy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor

LARGEST = 0.75  # every token but the destinations


class Grid:
    """The latent's cells [h, w] of the pass that is running; the processors read it."""

    def __init__(self) -> None:
        self.cells: tuple[int, int] = (0, 0)


class MergingProcessor:
    """Self-attention over merged tokens.

    Args:
        inner: the processor that runs the attention.
        ratio: share of the tokens that are merged away, above 0 and up to 0.75.
        grid: cells of level 0 in the running pass.
        level: of the layer; its cells are those of level 0 by 2^level.
    """

    def __init__(self, inner: Any, ratio: float, grid: Grid, level: int) -> None:
        self.inner, self.ratio, self.grid, self.level = inner, ratio, grid, level

    def __call__(self, attn: Attention, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """hidden_states [B, N, C] -> [B, N, C]."""
        h, w = (side >> self.level for side in self.grid.cells)
        merge, unmerge = merging(hidden_states, (h, w), self.ratio)
        return unmerge(self.inner(attn, merge(hidden_states), *args, **kwargs))


@torch.no_grad()
def merging(
    tokens: Tensor, cells: tuple[int, int], ratio: float
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """(merge, unmerge) by the likeness of `tokens` [B, N, C], N = h*w cells, both sides even.

    merge: [B, N, C'] -> [B, N - R, C'], R = int(ratio N); unmerge: the way back, in which merged
    tokens are copies. The same tokens always merge in the same way.
    """
    h, w = cells
    count = h * w
    away = min(int(ratio * count), count - count // 4)
    places = torch.arange(count, device=tokens.device).view(h, w)
    kept = places[::2, ::2].reshape(-1)  # [G]
    others = torch.ones(count, dtype=torch.bool, device=tokens.device)
    others[kept] = False
    rest = places.reshape(-1)[others]  # [S]
    unit = F.normalize(tokens.float(), dim=-1)
    likeness, nearest = (unit[:, rest] @ unit[:, kept].transpose(1, 2)).max(dim=-1)  # [B, S]
    order = likeness.argsort(dim=-1, descending=True, stable=True)
    merged, alone = order[:, :away], order[:, away:].sort(dim=-1).values
    target = nearest.gather(1, merged)  # [B, R] into G
    # Sums by a matrix product: additions at scattered places have no fixed order on a GPU.
    joins = tokens.new_zeros(len(tokens), len(kept), away).scatter_(1, target[:, None], 1.0)
    sizes = 1 + joins.sum(dim=-1, keepdim=True)

    def merge(x: Tensor) -> Tensor:
        other = x[:, rest]
        joined = x[:, kept] + joins.to(x.dtype) @ _rows(other, merged)
        return torch.cat([_rows(other, alone), joined / sizes.to(x.dtype)], dim=1)

    def unmerge(x: Tensor) -> Tensor:
        single, joined = x[:, : alone.shape[1]], x[:, alone.shape[1] :]
        batch = torch.arange(len(x), device=x.device)[:, None]
        found = x.new_zeros(len(x), count, x.shape[-1])
        found[:, kept] = joined
        found[batch, rest[alone]] = single
        found[batch, rest[merged]] = _rows(joined, target)
        return found

    return merge, unmerge


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """x [B, n, C], index [B, m] into n -> [B, m, C]."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))

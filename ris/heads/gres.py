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

from ris.errors import OptionError
from ris.heads.word_decoder import WordDecoder
from ris.heads.word_layers import WordLayers

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
        existence: how the regions' votes on "nothing here" become one: 'mean' (ReLA), or 'any',
            where one region that sees something outweighs the rest, and the mask is heard too.
        language: False keeps the regions from the words.
        region_masks: False leaves the mask to the plain decoder; the regions then only say where,
            and whether.
        region_cells: the regions also see the cells that the mask decoder has compared (the
            `layers` of `WordDecoder`), and teach them nothing.
        region_gradient: False keeps what the regions learn from the pyramid, and so from the text
            adapter: the mask is then learned as by the plain head.
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
        region_masks: bool = True,
        region_gradient: bool = True,
        region_cells: bool = False,
        existence: str = "mean",
        grid: int = 10,
        width: int = 256,
        heads: int = 8,
        feedforward: int = 2048,
        mask_channels: int = 32,
    ) -> None:
        super().__init__()
        if existence not in ("mean", "any"):
            raise OptionError(f"existence {existence!r} is unknown; choose mean or any")
        config = dict(mask or {"type": "VPDDecoder"})
        channels = mask_channels if regions and region_masks else 2
        self.decoder = build({**config, "num_classes": channels}, in_channels, text_channels)
        self.decoder_reads_words = bool(getattr(self.decoder, "reads_words", False))
        self.region_cells = regions and region_cells
        compared = getattr(self.decoder, "layers", None)
        if self.region_cells and not isinstance(compared, WordLayers):
            raise OptionError(
                f"region_cells wants a mask decoder that compares cells, not {config}; give "
                "model.head.mask.type='WordDecoder' and its layers, or leave region_cells out"
            )
        self.regions: RegionTokens | None = None
        self.nothing: nn.Module | None = None
        self.any_evidence: AnyEvidence | None = None
        if regions:
            widths = list(in_channels)
            if self.region_cells and isinstance(compared, WordLayers):
                widths.append(compared.channels)
            self.regions = RegionTokens(
                widths, text_channels, grid, width, heads, feedforward, language
            )
            self.minimap = nn.Linear(width, 2)
            self.region_gradient = region_gradient
            self.filters: nn.Module | None = None
            if region_masks:
                self.filters = _mlp(width, width, width, mask_channels)
                self.own = nn.Parameter(torch.randn(2, mask_channels) / mask_channels**0.5)
            if no_target:
                self.nothing = _mlp(width, width, 2)
                self.any_evidence = AnyEvidence() if existence == "any" else None

    def forward(
        self, pyramid: Sequence[Tensor], text: Tensor, words: Tensor | None = None
    ) -> GRESOutput:
        """Levels [B, C_l, ...], text float [B, T, D], words bool [B, T], True where a token is no
        padding -> logits."""
        decoder, cells = self.decoder, None
        if self.region_cells:
            assert isinstance(decoder, WordDecoder)
            features, cells = decoder.with_cells(pyramid, text)
        else:
            features = decoder(pyramid, text) if self.decoder_reads_words else decoder(pyramid)
        if self.regions is None:
            return GRESOutput(features, None, None)
        if not self.region_gradient:
            pyramid = [level.detach() for level in pyramid]
        if cells is not None:
            pyramid = [*pyramid, cells.detach().to(pyramid[0].dtype)]
        tokens = self.regions(pyramid, text, words)
        minimap = self.minimap(tokens)
        mask = features
        if self.filters is not None:
            # The sum over regions of minimap x (filter . features), the linear part taken first.
            kernel = self.own + torch.einsum("bqa,bqm->bam", minimap, self.filters(tokens))
            mask = torch.einsum("bam,bmhw->bahw", kernel, features)
        grid = minimap.transpose(1, 2).unflatten(2, (self.regions.grid, self.regions.grid))
        if self.nothing is None:
            return GRESOutput(mask, grid, None)
        votes = self.nothing(tokens)
        if self.any_evidence is None:
            return GRESOutput(mask, grid, votes.mean(dim=1))
        return GRESOutput(mask, grid, self.any_evidence(votes, mask))


class AnyEvidence(nn.Module):
    """Something is referred to if one place says so: a soft maximum over the regions' votes, their
    mean, the mask's surest cells and its size. A mean alone asks every region of the picture.

    The mask is heard, not taught: its gradient is cut, so that a vote cannot bend its shape."""

    SUREST = 16  # cells of the mask; a small thing covers no more

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.3))
        self.size = nn.Parameter(torch.tensor(0.0))
        self.bias = nn.Parameter(torch.tensor(0.0))

    def forward(self, votes: Tensor, mask: Tensor) -> Tensor:
        """votes [B, Q, 2] and mask [B, 2, h, w], logits -> logits [B, 2]; channel 1: nothing."""
        seen = votes[..., 0].float() - votes[..., 1].float()
        cells = (mask[:, 1] - mask[:, 0]).detach().float().flatten(1)
        surest = cells.topk(min(self.SUREST, cells.shape[1]), dim=1).values.mean(dim=1)
        covered = cells.sigmoid().sum(dim=1).log1p()
        there = seen.logsumexp(dim=1) + seen.mean(dim=1) + self.bias
        there = there + self.weight * surest + self.size * covered
        return torch.stack([there, -there], dim=1) / 2


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
        pooled = sum(_averages(project(norm(level)), self.grid) for level, norm, project in layers)
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


def _averages(cells: Tensor, grid: int) -> Tensor:
    """[B, d, H, W] -> [B, d, grid, grid], the means of torch's adaptive pooling."""
    if not torch.are_deterministic_algorithms_enabled():
        return F.adaptive_avg_pool2d(cells, grid)
    # CUDA has no backward pass of it with a fixed order of sums; products with two matrices have.
    rows, columns = (_shares(size, grid, cells) for size in cells.shape[-2:])
    return rows @ cells @ columns.T


def _shares(size: int, grid: int, like: Tensor) -> Tensor:
    """[grid, size]: row g averages cells floor(g size / grid) to ceil((g + 1) size / grid)."""
    cells = torch.arange(size, device=like.device)
    place = torch.arange(grid, device=like.device)[:, None]
    first, last = place * size // grid, -(-(place + 1) * size // grid)
    inside = ((cells >= first) & (cells < last)).to(like.dtype)
    return inside / inside.sum(dim=1, keepdim=True)


def _mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inner, outer in pairwise(widths):
        layers += [nn.Linear(inner, outer), nn.ReLU()]
    return nn.Sequential(*layers[:-1])

"""`PhrasePixelHead`: every cell of the picture reads the caption once; each phrase then asks the
cells by filters of its own, and by where its tokens looked in the UNet. Made for small backbones
and minutes of training; nothing here is published.

Shapes: C captions, S phrases, T tokens, D text channels, C_l channels of level l, h w cells of the
finest level, M channels of a caption's map, Q of a phrase's, s the decoder's subpixel, N places
along a side.

A box is read off the profiles of the phrase's map: the most telling cell of each column, and the
mean of the column, say by convolution along the row of columns how likely the phrase's things reach
it. The left edge is the first such column from the left, the right edge the first from the right
(so that "two circles" get one box around both); rows give the upper and lower. The box is the
expected place of each edge (as integral regression has it: Sun et al. 2018; Li et al. 2020,
generalized focal loss), so edges fall between cells and the loss on boxes reaches every cell.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ris.errors import OptionError
from ris.heads.ground_parts import GroundOutput, PhraseInput, mlp
from ris.heads.reftr import check_answers
from ris.heads.vpd_decoder import VPDDecoder
from ris.heads.word_decoder import PixelWordAttention


class PhrasePixelHead(nn.Module):
    """Pixel-word attention on each level and a decoder, once a caption; filters of each phrase; a
    mask's logits and the edges of a box.

    Args:
        in_channels: channels of the four levels, finest first.
        text_channels: channels of the text features.
        answers: 'boxes', 'masks' or 'both'.
        channels: hidden width of the decoder.
        word_channels: channels that the words add to each level.
        map_channels: channels of a caption's map, which the filters are laid on.
        phrase_channels: channels of a phrase's map, the first of them its mask's logits.
        subpixel: as for `VPDDecoder`.
        width: hidden width of what makes the filters, and of the convolutions along the profiles.
        looks: levels of attention maps that are read (of the phrase's tokens, mean and maximum). A
            map's place among the channels of the pyramid is its token's, which the cells cannot
            know to be the phrase's; untrained, the mean over a phrase's tokens already points into
            three of four of its boxes. 0 for a backbone without maps.
    """

    reads_words = True

    def __init__(
        self,
        in_channels: Sequence[int],
        text_channels: int,
        *,
        answers: str = "both",
        channels: int = 64,
        word_channels: int = 64,
        map_channels: int = 32,
        phrase_channels: int = 8,
        subpixel: int = 4,
        width: int = 64,
        looks: int = 2,
    ) -> None:
        super().__init__()
        self.answers = check_answers(answers)
        self.words = nn.ModuleList(
            PixelWordAttention(channels, text_channels, word_channels) for channels in in_channels
        )
        widths = [channels + word_channels for channels in in_channels]
        self.decoder = VPDDecoder(widths, channels, map_channels, subpixel, input_norm=True)
        self.filters = mlp(2 * text_channels, width, phrase_channels * (map_channels + 1))
        # The mask's logits are the first of a phrase's channels, the rest is for the edges.
        self.phrase_channels = phrase_channels if answers != "masks" else 1
        self.norm = nn.BatchNorm2d(2 * looks) if looks else None
        self.join = nn.Sequential(
            nn.Conv2d(phrase_channels + 2 * looks, 4 * phrase_channels, 1),
            nn.ReLU(),
            nn.Conv2d(4 * phrase_channels, self.phrase_channels, 1),
        )
        self.looks = looks
        self.edges = EdgeProfiles(phrase_channels, width) if answers != "masks" else None

    def forward(self, pyramid: Sequence[Tensor], said: PhraseInput) -> GroundOutput:
        """Levels [C, C_l, ...], finest first, and what the words say -> answers of S phrases."""
        levels = [
            torch.cat([level, words(level, said.text, said.words)], dim=1)
            for level, words in zip(pyramid, self.words, strict=True)
        ]
        maps = self.decoder(levels)
        inside = said.inside[..., None].to(said.text.dtype)
        pooled = (said.text[said.caption] * inside).sum(dim=1) / inside.sum(dim=1)
        filters = self.filters(torch.cat([pooled, said.alone], dim=1))
        filters = filters.unflatten(1, (-1, maps.shape[1] + 1))
        kernel, bias = filters[..., :-1] / maps.shape[1] ** 0.5, filters[..., -1]
        own = torch.einsum("sqm,smhw->sqhw", kernel, maps[said.caption]) + bias[..., None, None]
        if self.norm is not None:
            own = torch.cat([own, self.norm(self._looked(said, own.shape[-2:]))], dim=1)
        own = self.join(own)
        mask = None if self.answers == "boxes" else own[:, 0]
        if self.edges is None:
            return GroundOutput(None, mask)
        edges = self.edges(own)
        return GroundOutput(expected_box(edges)[None], mask, edges)

    def _looked(self, said: PhraseInput, size: torch.Size) -> Tensor:
        """Where the phrase's tokens looked: [S, 2 * levels, *size]."""
        if len(said.maps) != self.looks:
            raise OptionError(
                f"head.looks is {self.looks}, the backbone gives {len(said.maps)} levels of "
                "attention maps; set model.head.looks to that (0 with attention_maps=False)"
            )
        inside = said.inside[:, :, None, None]
        count = said.inside.sum(dim=1)[:, None, None]
        found = []
        for level in said.maps:
            own = level[said.caption].float() * inside
            both = torch.stack([own.sum(dim=1) / count, own.amax(dim=1)], dim=1)
            found.append(F.interpolate(both, size=size, mode="bilinear", align_corners=False))
        return torch.cat(found, dim=1)


class EdgeProfiles(nn.Module):
    """A phrase's map -> logits of where each edge of its box is, along the side it lies on."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.along = nn.Sequential(
            nn.Conv1d(2 * channels, hidden, 5, padding=2),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Conv1d(hidden, hidden, 5, padding=2),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Conv1d(hidden, 2, 5, padding=2),
        )
        last = self.along[-1]
        assert isinstance(last, nn.Conv1d)
        assert last.bias is not None
        nn.init.constant_(last.bias, -3.0)  # of some sixty columns few are the first

    def forward(self, maps: Tensor) -> Tensor:
        """[S, Q, h, w] -> float [S, 4, N], N = max(h, w), in the order x1, y1, x2, y2."""
        # Both sides share the convolutions: a row of columns is read as a column of rows is.
        sides = [torch.cat([maps.amax(dim), maps.mean(dim)], dim=1) for dim in (2, 3)]
        longest = max(side.shape[2] for side in sides)
        sides = [
            side if side.shape[2] == longest else F.interpolate(side, longest, mode="linear")
            for side in sides
        ]
        reached = self.along(torch.cat(sides)).float()
        low = first_place(reached[:, 0])
        high = first_place(reached[:, 1].flip(1)).flip(1)
        (left, top), (right, bottom) = low.chunk(2), high.chunk(2)
        return torch.stack([left, top, right, bottom], dim=1)


def first_place(logits: Tensor) -> Tensor:
    """Logits [S, N] of each place being reached -> log-probability [S, N] that it is the first."""
    before = F.logsigmoid(-logits)
    return F.logsigmoid(logits) + before.cumsum(dim=1) - before


def expected_box(edges: Tensor) -> Tensor:
    """Logits [S, 4, N] -> cxcywh shares [S, 4]: the mean place of each edge, places from 0 to 1."""
    places = torch.linspace(0, 1, edges.shape[2], device=edges.device)
    x1, y1, x2, y2 = (edges.softmax(dim=2) @ places).unbind(dim=1)
    return torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1).abs(), (y2 - y1).abs()], dim=1)

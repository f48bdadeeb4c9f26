"""`RefTRHead`: boxes and masks of phrases as in RefTR, on one level of the diffusion pyramid.

Shapes: C captions, S phrases, K the most phrases of a caption, T tokens, D text channels, C_l
channels of level l, d width, h w cells of the level that is read, L decoder layers.
Source: Li and Sigal 2021 (Referring Transformer), sections 3.2 to 3.4, and facts of its published
code. What differs: the pyramid already knows the caption; it has no level of stride 4, so the mask
head's last step has no finer map to add; CLIP's end token stands for BERT's [CLS].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ris.errors import OptionError
from ris.heads.ground_parts import (
    DecoderLayer,
    EncoderLayer,
    GroundOutput,
    PhraseInput,
    PhraseQuery,
    Slots,
    mlp,
    sine_positions,
    text_mlp,
    upsampled,
)

ANSWERS = ("boxes", "masks", "both")
MOST_TOKENS = 128


def check_answers(answers: str) -> str:
    """`answers`, which must be one of ANSWERS. Raises OptionError."""
    if answers not in ANSWERS:
        raise OptionError(f"head.answers is {answers!r}; choose {', '.join(ANSWERS)}")
    return answers


class RefTRHead(nn.Module):
    """Encoder over words and cells, phrase queries, decoder, box head, mask head.

    Args:
        in_channels: channels of the pyramid's levels, finest first.
        text_channels: channels of the text features.
        answers: 'boxes' (the published first stage), 'both' (the second), or 'masks' alone.
        width, heads, feedforward, dropout: of the layers (RefTR: 256, 8, 2048, 0.1).
        encoder_layers, decoder_layers: RefTR: 6 and 6, in two of its ReferIt recipes 6 and 3.
        level: of the pyramid that is read; 2 has stride 32, as RefTR's.
    """

    reads_words = True

    def __init__(
        self,
        in_channels: Sequence[int],
        text_channels: int,
        *,
        answers: str = "boxes",
        width: int = 256,
        heads: int = 8,
        feedforward: int = 2048,
        dropout: float = 0.1,
        encoder_layers: int = 6,
        decoder_layers: int = 6,
        level: int = 2,
    ) -> None:
        super().__init__()
        self.answers = check_answers(answers)
        if not 0 <= level < len(in_channels):
            raise OptionError(f"head.level is {level}; the pyramid has 0 to {len(in_channels) - 1}")
        if decoder_layers < 1 or width % (4 * heads):
            raise OptionError(
                f"decoder_layers {decoder_layers} must be 1 or more, and width {width} a multiple "
                f"of 4 x heads ({heads})"
            )
        self.level = level
        self.project = nn.Sequential(
            nn.Conv2d(in_channels[level], width, 1),
            nn.GroupNorm(math.gcd(32, width), width),
        )
        self.text = text_mlp(text_channels, width, dropout)
        self.text_places = nn.Parameter(torch.zeros(MOST_TOKENS, width))
        self.kinds = nn.Parameter(torch.zeros(2, width))  # of a token: a word, a cell
        for learned in (self.text_places, self.kinds):
            nn.init.normal_(learned, std=0.02)
        options = width, heads, feedforward, dropout
        self.encoder = nn.ModuleList(EncoderLayer(*options) for _ in range(encoder_layers))
        self.query = PhraseQuery(width, text_channels, dropout)
        self.decoder = nn.ModuleList(DecoderLayer(*options) for _ in range(decoder_layers))
        for matrix in self.parameters():
            if matrix.ndim > 1 and matrix is not self.text_places and matrix is not self.kinds:
                nn.init.xavier_uniform_(matrix)
        self.box: nn.Sequential | None = None
        if answers != "masks":
            self.box = mlp(width, width, width, 4)
            last = self.box[-1]
            assert isinstance(last, nn.Linear)
            # Every box begins as the middle half of the picture.
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.mask: MaskHead | None = None
        if answers != "boxes":
            self.mask = MaskHead(width, heads, [in_channels[i] for i in reversed(range(level))])

    def forward(self, pyramid: Sequence[Tensor], said: PhraseInput) -> GroundOutput:
        """Levels [C, C_l, ...], finest first, and what the words say -> answers of S phrases."""
        features = self.project(pyramid[self.level])
        height, width = features.shape[-2:]
        words = self.text(said.text)
        count = words.shape[1]
        tokens = torch.cat([words, features.flatten(2).transpose(1, 2)], dim=1)
        grid = sine_positions(height, width, tokens.shape[2], tokens.device)
        places = torch.cat([self.text_places[:count] + self.kinds[0], grid + self.kinds[1]])
        places = places.to(tokens.dtype).expand_as(tokens)
        seen = torch.ones((len(tokens), height * width), dtype=torch.bool, device=said.words.device)
        padding = ~torch.cat([said.words, seen], dim=1)
        for layer in self.encoder:
            tokens = layer(tokens, places, padding)
        content, place = self.query(tokens[:, :count], said)
        slots = Slots(said.owners, len(tokens), tokens.device)
        phrases, place = slots.spread(content), slots.spread(place)
        answers = []
        for layer in self.decoder:
            phrases = layer(phrases, place, slots.absent, tokens, places, padding)
            answers.append(slots.gather(phrases))
        boxes = mask = None
        if self.box is not None:
            boxes = self.box(torch.stack(answers)).float().sigmoid()
        if self.mask is not None:
            memory = tokens[:, count:].transpose(1, 2).unflatten(2, (height, width))
            finer = [pyramid[i] for i in reversed(range(self.level))]
            mask = self.mask(answers[-1], features, memory, finer, said.caption)
        return GroundOutput(boxes, mask)


class MaskHead(nn.Module):
    """DETR's mask head: where the query looks, beside the features, refined level by level.

    Args:
        width: of queries and memory.
        heads: attention maps.
        finer: channels of the levels that are added, coarsest first.
    """

    def __init__(self, width: int, heads: int, finer: Sequence[int]) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Conv2d(width, width, 1)
        joined = 2 * width + heads
        widths = [width // 2**step for step in range(1, len(finer) + 3)]
        self.first = nn.Sequential(_step(joined, joined), _step(joined, widths[0]))
        self.adapters = nn.ModuleList(
            nn.Conv2d(channels, own, 1) for channels, own in zip(finer, widths, strict=False)
        )
        self.steps = nn.ModuleList(_step(a, b) for a, b in pairwise(widths))
        self.last = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(
        self,
        query: Tensor,
        features: Tensor,
        memory: Tensor,
        finer: Sequence[Tensor],
        caption: Tensor,
    ) -> Tensor:
        """query [S, d]; features, memory [C, d, h, w]; finer levels, coarsest first; caption int64
        [S] -> logits [S, h', w'], twice as fine as the finest level."""
        asked = self.query(query).unflatten(1, (self.heads, -1))
        keys = self.key(memory).unflatten(1, (self.heads, -1))[caption]
        looked = torch.einsum("snc,snchw->snhw", asked, keys) / asked.shape[2] ** 0.5
        looked = looked.flatten(2).softmax(dim=2).view_as(looked)
        maps = self.first(torch.cat([features[caption], memory[caption], looked], dim=1))
        for step, adapter, level in zip(self.steps, self.adapters, finer, strict=False):
            added: Tensor = adapter(level)
            maps = step(upsampled(maps, level.shape[-2:]) + added[caption])
        height, width = maps.shape[-2:]
        maps = self.steps[-1](upsampled(maps, (2 * height, 2 * width)))
        out: Tensor = self.last(maps)[:, 0]
        return out


def _step(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inner, outer, 3, padding=1),
        nn.GroupNorm(math.gcd(8, outer), outer),
        nn.ReLU(),
    )

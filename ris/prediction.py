"""`Prediction`: what a predictor says of one picture.

Shapes: S expressions, T tokens, H W the picture's own size, h w cells of the attention maps.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

WORD_END = "</w>"  # CLIP's mark on the last piece of a word


@dataclass
class Prediction:
    """What one call of `Predictor.predict` found, at the picture's own size.

    Attributes:
        expressions: the S expressions asked.
        masks: bool [S, H, W].
        probabilities: float32 [S, H, W] in [0, 1], softmax of the two channels.
        scores: float32 [S] in [0, 1]: mean probability inside the mask, 0 where the mask is empty.
        truncated: S bools: whether the expression had more tokens than the model takes.
        boxes: float32 [S, 4], the tight box of each mask, xyxy in pixels of the picture, the far
            edges exclusive (x2 - x1 is the width); NaN where the mask is empty.
        no_target: float32 [S] in [0, 1], probability that nothing in the picture is meant, of
            models that were trained to say so (above 0.5 the mask is empty); None of others.
        attention: where each token looked, on request: float32 [S, T, h, w] in [0, 1], summing to
            1 over T. Coarse: one cell for 16 x 16 pixels of the model's square, which the whole
            picture is squashed to, so h = w = 32 for 512; T maps at the picture's size would take
            gigabytes.
        tokens: beside `attention`, the T tokens of each expression as CLIP's pieces (`</w>` ends a
            word), the begin token first, the end token and the padding last.
        has_masks: False of models that answer with boxes alone: masks are then empty, scores NaN.
        has_boxes: the boxes were predicted as such, not read off the masks, and cut at the
            picture's edges.
        captions, spans: of grounding models, which also take "[a circle] next to [a square]": for
            each answer the caption it was asked in, and the characters [start, end) that are its
            phrase.
        trades: what was given up for speed (`vpd.trades`), for people; empty on the exact path.
    """

    expressions: list[str]
    masks: np.ndarray
    probabilities: np.ndarray
    scores: np.ndarray
    truncated: list[bool]
    boxes: np.ndarray
    no_target: np.ndarray | None = None
    attention: np.ndarray | None = None
    tokens: list[list[str]] | None = None
    has_masks: bool = True
    has_boxes: bool = False
    captions: list[str] | None = None
    spans: list[tuple[int, int]] | None = None
    trades: list[str] = field(default_factory=list)

    def words(self, index: int) -> list[tuple[str, np.ndarray]]:
        """(word, float32 [h, w]) of expression `index`: the mean map of the word's pieces.

        Special tokens and padding are left out. Empty without `attention`.
        """
        if self.attention is None or self.tokens is None:
            return []
        found: list[tuple[str, np.ndarray]] = []
        maps: list[np.ndarray] = []
        text = ""
        for piece, one in zip(self.tokens[index], self.attention[index], strict=True):
            special = piece.startswith("<|") and piece.endswith("|>")
            if not special:
                text += piece.removesuffix(WORD_END)
                maps.append(one)
            # A sentence that was cut can end within a word.
            if maps and (special or piece.endswith(WORD_END)):
                found.append((text, np.stack(maps).mean(axis=0)))
                text, maps = "", []
        if maps:
            found.append((text, np.stack(maps).mean(axis=0)))
        return found


def tight_boxes(masks: np.ndarray) -> np.ndarray:
    """bool [S, H, W] -> float32 [S, 4]: xyxy, far edges exclusive; NaN where a mask is empty."""
    boxes = np.full((len(masks), 4), np.nan, np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        if len(columns):
            box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes

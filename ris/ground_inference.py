"""Latents and captions to boxes and masks of their phrases.

Shapes: P pictures, C captions of all of them, S phrases of one picture, H W its own size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from refer.boxes import to_pixels
from ris.errors import OptionError
from ris.grounding import GroundAnswer, GroundRefer
from ris.phrase_text import Span, bracketed
from ris.prediction import Prediction, tight_boxes
from vpd import text

Size = tuple[int, int]


@torch.inference_mode()
def ground_pictures(
    model: GroundRefer,
    latents: Tensor,
    sizes: Sequence[Size],
    expressions: Sequence[Sequence[str]],
    square: Size,
    dtype: torch.dtype,
) -> list[Prediction]:
    """Predictions of P pictures, one answer a phrase: "[the red circle] next to [a square]" is a
    caption with two; text without brackets is one phrase itself.

    Args are those of `ris.inference.segment`. Raises OptionError for brackets that do not pair;
    vpd.TextError for an empty expression.
    """
    captions: list[str] = []
    owners: list[int] = []
    spans: list[Span] = []
    pictures: list[int] = []
    for number, part in enumerate(expressions):
        for expression in part:
            if not expression.strip():
                raise text.TextError(f"an expression is {expression!r}; it must have words")
            try:
                caption, own = bracketed(expression)
            except ValueError as error:
                raise OptionError(f"{error}; write: [the red circle] next to [a square]") from None
            owners += [len(captions)] * len(own)
            spans += own
            captions.append(caption)
            pictures.append(number)
    index = torch.tensor(pictures)
    with torch.autocast(latents.device.type, dtype, enabled=dtype != torch.float32):
        answers = model.ground(latents, captions, owners, spans, square, index)
    counts = text.token_counts(model.backbone.tokenizer, captions)
    found = []
    for number, size in enumerate(sizes):
        here = [i for i, owner in enumerate(owners) if pictures[owner] == number]
        one = _decide([answers[i] for i in here], size)
        one.expressions = [captions[owners[i]][slice(*spans[i])] for i in here]
        one.truncated = [counts[owners[i]] > model.backbone.token_length for i in here]
        one.captions = [captions[owners[i]] for i in here]
        one.spans = [spans[i] for i in here]
        one.trades = model.backbone.trade_names
        found.append(one)
    return found


def _decide(answers: Sequence[GroundAnswer], size: Size) -> Prediction:
    """Masks, scores and boxes at a picture's own size."""
    height, width = size
    drawn = [answer.probability for answer in answers if answer.probability is not None]
    probabilities = np.zeros((len(answers), height, width), np.float32)
    if drawn:
        probabilities = (
            F.interpolate(
                torch.stack(drawn)[:, None].float(), size=size, mode="bilinear", align_corners=False
            )[:, 0]
            .cpu()
            .numpy()
        )
    masks = probabilities > 0.5
    scores = (probabilities * masks).sum((1, 2)) / masks.sum((1, 2)).clip(min=1)
    boxes = [answer.box for answer in answers if answer.box is not None]
    found = Prediction(
        expressions=[],
        masks=masks,
        probabilities=probabilities,
        scores=scores.astype(np.float32),
        truncated=[],
        boxes=tight_boxes(masks),
        has_masks=bool(drawn),
        has_boxes=bool(boxes),
    )
    if boxes:
        pixels = to_pixels(torch.stack(boxes).float().cpu(), height, width).numpy()
        edges = np.array([width, height, width, height], np.float32)
        found.boxes = pixels.clip(0, edges).astype(np.float32)
    if not drawn:
        found.scores = np.full(len(answers), np.nan, np.float32)
    return found

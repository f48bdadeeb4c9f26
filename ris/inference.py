"""Latents and expressions to predictions: pairs in batches, whatever pictures they are of.

Shapes: P pictures, S expressions of one picture, B pairs of a batch, T tokens, H W a picture's own
size, h w cells of the attention maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ris.errors import OptionError
from ris.general import GeneralRefer
from ris.ground_inference import ground_pictures
from ris.grounding import GroundRefer
from ris.models import VPDRefer
from ris.prediction import Prediction, tight_boxes
from vpd import FeaturePyramid, text

Size = tuple[int, int]


@torch.inference_mode()
def segment(
    model: VPDRefer,
    latents: Tensor,
    sizes: Sequence[Size],
    expressions: Sequence[Sequence[str]],
    square: Size,
    dtype: torch.dtype,
    attention: bool,
) -> list[Prediction]:
    """Predictions of P pictures.

    Args:
        latents: float [P, c, h, w].
        sizes: (height, width) of each picture.
        expressions: one list a picture.
        square: (height, width) that the pictures were squashed to.
        dtype: precision of UNet and head, by autocast unless float32.
        attention: also return the attention maps.

    Raises OptionError if the model forms no attention maps; vpd.TextError for an empty expression.
    """
    if isinstance(model, GroundRefer):
        if attention:
            raise OptionError(
                "attention is for segmenters; a grounding model reads a caption once for all of "
                "its phrases; leave attention out"
            )
        return ground_pictures(model, latents, sizes, expressions, square, dtype)
    backbone = model.backbone
    if attention and not backbone.features.map_layers:
        raise OptionError(
            "this model was built with attention_maps=False, so there is no attention to return; "
            "leave attention out, or train with attention maps"
        )
    asked = [expression for part in expressions for expression in part]
    index = torch.tensor(
        [number for number, part in enumerate(expressions) for _ in part], device=latents.device
    )
    backbone.encode_text(asked)  # all at once, and refused before anything is computed
    looked: list[np.ndarray] = []

    def keep_maps(module: Any, inputs: Any, pyramid: FeaturePyramid) -> None:
        looked.extend(_mean_maps(pyramid.maps).cpu().numpy())

    # The pyramid is made deep within the system; the maps are read as they pass.
    hook = backbone.register_forward_hook(keep_maps) if attention else None
    probabilities: list[np.ndarray] = []
    nothing: list[float] = []
    try:
        for start in range(0, len(asked), model.sentence_batch):
            part = slice(start, start + model.sentence_batch)
            # Only the pictures of this part: the UNet's picture-only work runs once for each.
            pictures, which = index[part].unique(return_inverse=True)
            with torch.autocast(latents.device.type, dtype, enabled=dtype != torch.float32):
                logits, none = _run(model, latents[pictures], asked[part], which, square)
            nothing += none
            for row, picture in zip(logits, index[part].tolist(), strict=True):
                # From the model's square to the picture's own grid, before the decision.
                own = F.interpolate(
                    row[None], size=sizes[picture], mode="bilinear", align_corners=False
                )
                probabilities.append(own.softmax(dim=1)[0, 1].cpu().numpy())
    finally:
        if hook is not None:
            hook.remove()
    found, start = [], 0
    for own_expressions in expressions:
        part = slice(start, start + len(own_expressions))
        start = part.stop
        one = _decide(model, asked[part], np.stack(probabilities[part]), nothing[part])
        if attention:
            one.attention = np.stack(looked[part])
            one.tokens = _tokens(model, asked[part])
        found.append(one)
    return found


def _run(
    model: VPDRefer, latents: Tensor, asked: list[str], which: Tensor, square: Size
) -> tuple[Tensor, list[float]]:
    """Logits float32 [B, 2, *square], and the B probabilities that nothing is there (or none)."""
    if not isinstance(model, GeneralRefer):
        return model.logits(latents, asked, square, which).float(), []
    output = model.output(latents, asked, which)
    nothing: list[float] = []
    if output.no_target is not None:
        nothing = output.no_target.float().softmax(dim=1)[:, 1].tolist()
    return model.upsample(output.mask.float(), square), nothing


def _decide(
    model: VPDRefer, asked: list[str], probabilities: np.ndarray, nothing: list[float]
) -> Prediction:
    """Masks, scores and boxes of the S expressions of one picture; probabilities [S, H, W]."""
    masks = probabilities > 0.5
    none = np.array(nothing, np.float32) if nothing else None
    if none is not None:
        masks &= (none <= 0.5)[:, None, None]
    inside = (probabilities * masks).sum((1, 2)) / masks.sum((1, 2)).clip(min=1)
    lengths = text.token_counts(model.backbone.tokenizer, asked)
    return Prediction(
        asked,
        masks,
        probabilities,
        inside.astype(np.float32),
        truncated=[length > model.backbone.token_length for length in lengths],
        boxes=tight_boxes(masks),
        no_target=none,
        trades=model.backbone.trade_names,
    )


def _tokens(model: VPDRefer, asked: list[str]) -> list[list[str]]:
    """The tokens that were looked for: of a model that ignores the sentence, its own word's."""
    read = ["object"] * len(asked) if model.ignore_sentence else asked
    tokenizer = model.backbone.tokenizer
    ids = text.tokenize(tokenizer, read, model.backbone.token_length)
    return [tokenizer.convert_ids_to_tokens(row) for row in ids.tolist()]


def _mean_maps(maps: dict[int, Tensor]) -> Tensor:
    """Maps of all levels [B, T, h_l, w_l] -> their mean float32 [B, T, h, w] at the finest."""
    size = maps[min(maps)].shape[-2:]
    resized = [
        F.interpolate(one.float(), size=size, mode="bilinear", align_corners=False)
        for one in maps.values()
    ]
    return torch.stack(resized).mean(dim=0)

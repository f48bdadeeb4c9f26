"""Predictions as files: overlays, masks, COCO run lengths. Each is written beside and renamed.

Shapes: S expressions, H W pixels of the picture.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from refer.files import draft_of
from ris.errors import OptionError
from ris.prediction import Prediction
from ris.visual import overlay


def save_png(picture: Image.Image, path: Path) -> None:
    """Write a PNG; its folder is made. Raises OptionError, naming the file, where it cannot be."""
    try:
        with draft_of(path) as draft:
            picture.save(draft, format="PNG")
    except OSError as error:
        raise OptionError(
            f"{path} cannot be written: {error.strerror or error}; make room there, or name "
            "another place"
        ) from error


def save_masks(found: Prediction, folder: Path, stem: str) -> None:
    """One black and white PNG an expression: `<stem>_<index>.png`; none of boxes alone."""
    for index, mask in enumerate(found.masks if found.has_masks else ()):
        save_png(Image.fromarray(mask.astype(np.uint8) * 255), folder / f"{stem}_{index}.png")


def draw_overlay(picture: Image.Image, found: Prediction) -> Image.Image:
    """All masks on the picture; the legend says where nothing was found to match."""
    labels = found.expressions
    if found.no_target is not None:
        labels = [
            f"{text} (nothing here)" if nothing > 0.5 else text
            for text, nothing in zip(labels, found.no_target, strict=True)
        ]
    return overlay(
        np.asarray(picture),
        list(found.masks) if found.has_masks else [None] * len(labels),
        labels,
        boxes=list(found.boxes) if found.has_boxes else [],
    )


def described(found: Prediction, name: str) -> dict[str, Any]:
    """JSON values of a prediction: the picture's `name`, size, and for each of the S expressions
    score, box (xyxy in pixels, None where empty), area in pixels, and the mask as COCO RLE
    {'size': [H, W], 'counts': str}, which pycocotools decodes; score and mask are None of models
    that answer with boxes alone. Phrases also name their caption and span; trades in use are
    named."""
    height, width = found.masks.shape[1:]
    rles = coco.encode(np.asfortranarray(found.masks.transpose(1, 2, 0), dtype=np.uint8))
    answers: list[dict[str, Any]] = []
    for index, rle in enumerate(rles):
        box = found.boxes[index]
        answer = {
            "expression": found.expressions[index],
            "score": float(found.scores[index]) if found.has_masks else None,
            "box": None if np.isnan(box).any() else box.tolist(),
            "area": int(found.masks[index].sum()),
            "truncated": found.truncated[index],
            "segmentation": {"size": [height, width], "counts": rle["counts"].decode()}
            if found.has_masks
            else None,
        }
        if found.captions is not None and found.spans is not None:
            answer |= {"caption": found.captions[index], "span": list(found.spans[index])}
        if found.no_target is not None:
            answer["no_target"] = float(found.no_target[index])
        answers.append(answer)
    content = {"picture": name, "height": height, "width": width, "answers": answers}
    return {**content, "trades": found.trades} if found.trades else content

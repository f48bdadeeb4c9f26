"""Boxes as pixels and as shares of a picture.

Shapes: N boxes, any leading sizes; xyxy in pixels; cxcywh (centre, width, height) in [0, 1], x as
shares of the picture's width, y of its height. Shares stay what they are when a picture is resized,
whether its aspect is kept or not.
"""

from __future__ import annotations

import torch
from torch import Tensor


def to_shares(boxes: Tensor, height: float, width: float) -> Tensor:
    """xyxy pixels [..., 4] of a picture -> cxcywh shares, of the same dtype and device."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    cx, cy = (x1 + x2) / (2 * width), (y1 + y2) / (2 * height)
    return torch.stack([cx, cy, (x2 - x1) / width, (y2 - y1) / height], -1)


def to_pixels(shares: Tensor, height: float, width: float) -> Tensor:
    """cxcywh shares [..., 4] -> xyxy pixels of a picture of this size; not cut at its edges."""
    cx, cy, w, h = shares.unbind(-1)
    return torch.stack(
        [(cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height],
        -1,
    )


def hull(boxes: Tensor) -> Tensor:
    """The smallest box around boxes: xyxy [M, 4] -> [4], M > 0."""
    return torch.cat([boxes[:, :2].amin(0), boxes[:, 2:].amax(0)])

"""Boxes read off a mask: one a connected part. This is no detector.

Shapes: H W pixels, N boxes.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def boxes_of(
    probability: NDArray[np.floating], size: tuple[int, int], least: float = 0.0005
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Boxes of the connected parts (8 neighbours) of `probability` > 0.5, best first.

    Args:
        probability: float [H, W], of each pixel to be referred to.
        size: (height, width) of the picture, to which the boxes are scaled.
        least: share of the picture that a part must cover; smaller ones are noise.

    Returns:
        boxes float [N, 4], xyxy in pixels of the picture, and scores [N]: the mean probability
        inside the part.
    """
    mask = (probability > 0.5).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    sums = np.bincount(labels.ravel(), weights=probability.ravel(), minlength=count)[1:]
    low = stats[1:, [cv2.CC_STAT_LEFT, cv2.CC_STAT_TOP]].astype(np.float64)
    sides = stats[1:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]]
    scale = np.array([size[1] / mask.shape[1], size[0] / mask.shape[0]])
    boxes = np.concatenate([low * scale, (low + sides) * scale], axis=1)
    scores = sums / np.maximum(areas, 1)
    kept = np.flatnonzero(areas >= least * mask.size)
    order = kept[np.argsort(-scores[kept], kind="stable")]
    return boxes[order], scores[order]

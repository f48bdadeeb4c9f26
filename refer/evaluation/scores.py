"""Pixel counts to P@X, oIoU and mIoU."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from refer.evaluation.protocol import EvaluationError, ResProtocol

UNKNOWN = -1


class ItemRecord(NamedTuple):
    """What is kept of one (ref, sentence): pixel counts, and maybe the predicted mask.

    `sentence_index` is the sentence's position within its ref; it and `image_id` are -1 if unknown.
    `mask` is a COCO RLE {'size': [H, W], 'counts': str} at the size the counts were made.
    """

    ref_id: int
    sent_id: int
    image_id: int
    sentence_index: int
    intersection: int
    union: int
    pred_area: int
    target_area: int
    mask: dict[str, Any] | None = None

    @property
    def numbers(self) -> tuple[int, ...]:
        """All but the mask."""
        return self[:8]

    def problem(self) -> str | None:
        """Why these counts cannot come from two masks; None if they can."""
        inter, union, pred, target = self.intersection, self.union, self.pred_area, self.target_area
        if not 0 <= inter <= min(pred, target) or union != pred + target - inter:
            return (
                f"intersection {inter}, union {union}, pred_area {pred} and target_area {target} "
                "do not agree"
            )
        return None


def iou(record: ItemRecord, protocol: ResProtocol) -> float | None:
    """IoU of an item in [0, 1]; None where the protocol leaves it out of P@X and mIoU."""
    if record.union:
        return record.intersection / record.union
    return {"zero": 0.0, "one": 1.0, "skip": None}[protocol.empty_union]


def score(records: Iterable[ItemRecord], protocol: ResProtocol) -> dict[str, Any]:
    """Scores of the records as they are, in percent: P@X for each threshold, oIoU, mIoU.

    With them the int counts n_items (items in P@X and mIoU) and n_empty_union (items where
    prediction and truth are both empty). Sums are over ints, or rounded once, so order
    does not matter.

    Raises EvaluationError if there is nothing to score.
    """
    passed = [0] * len(protocol.thresholds)
    ious: list[float] = []
    total_intersection = total_union = empty = 0
    for record in records:
        intersection, union = record.intersection, record.union
        total_intersection += intersection
        total_union += union
        if union == 0:
            empty += 1
            if protocol.empty_union == "skip":
                continue
            intersection, union = (1 if protocol.empty_union == "one" else 0), 1
        ious.append(intersection / union)
        for index, passes in enumerate(protocol.passes(intersection, union)):
            passed[index] += passes
    if not ious:
        raise EvaluationError(f"nothing to score: {empty} items, all skipped as empty")
    if total_union:
        overall = total_intersection / total_union
    else:
        overall = 1.0 if protocol.empty_union == "one" else 0.0
    return {
        **{
            f"P@{threshold:g}": 100 * count / len(ious)
            for threshold, count in zip(protocol.thresholds, passed, strict=True)
        },
        "oIoU": 100 * overall,
        "mIoU": 100 * math.fsum(ious) / len(ious),
        "n_items": len(ious),
        "n_empty_union": empty,
    }

"""Generalized referring comprehension (GREC): boxes for several targets or none.

Shapes: N predicted boxes, M true boxes of an item (one sentence); boxes float xyxy in pixels of the
original picture.

Source: gRefCOCO's `RefExpEvaluator` (mdetr). Boxes scored 0.7 or more count. An item is right when
every target is met by one box and no box is left over (F1 = 1), or when nothing is named and no box
is given. Boxes meet by the generalized IoU, as the code has it, though its name says IoU: 'iou' is
the other reading, and which one it was stands beside the score.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from refer.evaluation.protocol import EvaluationError
from refer.options import check_option

Boxes = NDArray[np.float64]
Match = Literal["giou", "iou"]


@dataclass(frozen=True)
class GrecProtocol:
    """Thresholds of the metric; the defaults are the published code's.

    Args:
        match: 'giou' (the published code) or 'iou' (its name).
        score: least score of a box that counts.
        overlap: least (G)IoU at which a box meets a target.
    """

    match: Match = "giou"
    score: float = 0.7
    overlap: float = 0.5

    def __post_init__(self) -> None:
        check_option("match", self.match, Match)

    def describe(self) -> str:
        """In words, for whoever reads a score."""
        name = "generalized IoU" if self.match == "giou" else "IoU"
        return f"boxes scored >= {self.score:g}, {name} >= {self.overlap:g}, F1 = 1"


class GrecItem(NamedTuple):
    """One sentence: scored boxes and true ones; no true box means that nothing is named."""

    key: tuple[int, int]
    boxes: Boxes
    scores: Boxes
    truth: Boxes


class GrecEvaluator:
    """Collects items and scores them; evaluators of shards merge.

    Args:
        protocol: the thresholds.
    """

    def __init__(self, protocol: GrecProtocol | None = None) -> None:
        self.protocol = protocol or GrecProtocol()
        self._items: dict[tuple[int, int], GrecItem] = {}

    def __len__(self) -> int:
        return len(self._items)

    def update(
        self, ref_id: int, sent_id: int, boxes: ArrayLike, scores: ArrayLike, truth: ArrayLike
    ) -> None:
        """Add an item: boxes [N, 4] and scores [N], true boxes [M, 4] (M = 0: nothing is named).

        Raises EvaluationError for other shapes, boxes whose corners are swapped or not finite, and
        an item that came before with other content.
        """
        key = (int(ref_id), int(sent_id))
        item = GrecItem(key, _boxes(boxes, "boxes"), _floats(scores), _boxes(truth, "truth"))
        if len(item.boxes) != len(item.scores):
            raise EvaluationError(f"item {key}: {len(item.boxes)} boxes, {len(item.scores)} scores")
        known = self._items.get(key)
        if known is not None and not all(map(np.array_equal, known[1:], item[1:])):
            raise EvaluationError(f"item {key} was evaluated twice with different results")
        self._items[key] = item

    def merge(self, other: GrecEvaluator) -> GrecEvaluator:
        """Take in another evaluator's items; returns self."""
        if other.protocol != self.protocol:
            raise EvaluationError(f"protocols differ: {self.protocol} and {other.protocol}")
        for key, boxes, scores, truth in other._items.values():
            self.update(*key, boxes, scores, truth)
        return self

    def compute(self) -> dict[str, float]:
        """F1_score (Pr@(F1=1, IoU>=0.5)), T_acc, N_acc, AP and AP50, all fractions.

        Items that name nothing count in F1_score. AP is COCO's, of one class, over all boxes
        whatever their score; boxes where nothing is named are wrong ones.

        Raises EvaluationError if there are no items.
        """
        if not self._items:
            raise EvaluationError("no items to score; the split is empty or nothing was evaluated")
        items = [self._items[key] for key in sorted(self._items)]
        right = sum(f1(item, self.protocol) >= 1.0 for item in items)
        given = [bool((item.scores >= self.protocol.score).any()) for item in items]
        named = [len(item.truth) > 0 for item in items]
        targeted, empty = sum(named), len(items) - sum(named)
        both = sum(g and n for g, n in zip(given, named, strict=True))
        neither = sum(not g and not n for g, n in zip(given, named, strict=True))
        ap, ap50 = average_precision(items)
        return {
            "F1_score": right / len(items),
            "T_acc": both / targeted if targeted else 0.0,
            "N_acc": neither / empty if empty else 0.0,
            "AP": ap,
            "AP50": ap50,
        }


def f1(item: GrecItem, protocol: GrecProtocol) -> float:
    """F1 of an item's boxes against its targets, matched one to one, the best pair first."""
    boxes = item.boxes[item.scores >= protocol.score]
    if not len(item.truth):
        return 0.0 if len(boxes) else 1.0
    overlaps = overlap(boxes, item.truth, protocol.match)
    met = 0
    for _ in range(min(overlaps.shape)):
        row, column = np.unravel_index(int(overlaps.argmax()), overlaps.shape)
        if overlaps[row, column] < protocol.overlap:
            break
        met += 1
        overlaps[row, :] = overlaps[:, column] = -np.inf
    missed, spare = len(item.truth) - met, len(boxes) - met
    return 2 * met / (2 * met + spare + missed)


def overlap(boxes: Boxes, truth: Boxes, kind: Match) -> Boxes:
    """IoU or generalized IoU (Rezatofighi et al. 2019) of all pairs: [N, 4], [M, 4] -> [N, M]."""
    low = np.maximum(boxes[:, None, :2], truth[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], truth[None, :, 2:])
    inside = np.prod((high - low).clip(min=0), axis=2)
    union = _areas(boxes)[:, None] + _areas(truth)[None] - inside
    found = np.divide(inside, union, out=np.zeros_like(inside), where=union > 0)
    if kind == "iou":
        return found
    low = np.minimum(boxes[:, None, :2], truth[None, :, :2])
    high = np.maximum(boxes[:, None, 2:], truth[None, :, 2:])
    hull = np.prod(high - low, axis=2)
    return found - np.divide(hull - union, hull, out=np.zeros_like(hull), where=hull > 0)


def average_precision(items: Sequence[GrecItem]) -> tuple[float, float]:
    """COCO's AP and AP50 of one class, an item being an image; 0 without any true box."""
    truth: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for number, item in enumerate(items, start=1):
        for box in item.truth:
            truth.append(
                {"id": len(truth) + 1, "image_id": number, "category_id": 1, "iscrowd": 0,
                 "bbox": _xywh(box), "area": float(_areas(box[None])[0])}
            )  # fmt: skip
        for box, score in zip(item.boxes, item.scores, strict=True):
            found.append(
                {"image_id": number, "category_id": 1, "bbox": _xywh(box), "score": float(score)}
            )
    if not truth or not found:
        return 0.0, 0.0
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": number} for number in range(1, len(items) + 1)],
            "annotations": truth,
            "categories": [{"id": 1, "name": "target"}],
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
        evaluation.params.useCats = False
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0]), float(evaluation.stats[1])


def _areas(boxes: Boxes) -> Boxes:
    return np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)


def _xywh(box: Boxes) -> list[float]:
    x, y, right, bottom = (float(value) for value in box)
    return [x, y, right - x, bottom - y]


def _floats(values: Any) -> Boxes:
    array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, np.float64)
    return array.reshape(-1)


def _boxes(values: Any, name: str) -> Boxes:
    array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, np.float64)
    if array.size == 0:
        return np.zeros((0, 4))
    if array.ndim != 2 or array.shape[1] != 4:
        raise EvaluationError(f"{name} is {array.shape}; want [N, 4], xyxy")
    if not np.isfinite(array).all() or (array[:, 2:] < array[:, :2]).any():
        raise EvaluationError(f"{name} holds a box that is not finite, or not x1 <= x2, y1 <= y2")
    return array

"""Generalized referring segmentation (GRES), with several targets or none.

Scores: gIoU, cIoU, N-acc, T-acc, Pr@X.

Shapes: N items (one a sentence), H W pixels.

Source: ReLA's `ReferEvaluator` (main branch). An item's truth is the union of its targets' masks,
empty where the sentence names nothing. Intersection and union are of the raw predicted mask, also
where the no-target head says "nothing here":

| truth     | said      | gIoU adds | cIoU adds to I, U | counted as |
|-----------|-----------|-----------|-------------------|------------|
| nothing   | nothing   | 1         | 0, 0              | TP         |
| nothing   | something | 0         | 0, U              | FN         |
| something | nothing   | 0         | 0, U              | FP         |
| something | something | I / U     | I, U              | TN         |

gIoU is the mean over all items; cIoU the sum of I over the sum of U; Pr@X counts items with targets
alone; N-acc is TP / (TP + FN), T-acc TN / (TN + FP).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from refer.evaluation.gres_scores import GresRecord, score
from refer.evaluation.protocol import EvaluationError, ints
from refer.options import DrawnAt, OverlapRule, check_option

NoTargetRule = Literal["head", "pixels"]
MaskSize = Literal["input", "original"]


@dataclass(frozen=True)
class GresProtocol:
    """What decides the scores beside the table above.

    Args:
        no_target: who says "nothing here": the model's 'head' (ReLA), or 'pixels', a predicted mask
            of fewer than `pixels` pixels (papers on methods without such a head).
        pixels: see there.
        size: masks are compared at the network's 'input' size (ReLA: 480 x 480) or the picture's
            'original' one; it is stated, not enforced.
        overlap: pixels under several parts of a target's outline are the object's ('union', ReLA)
            or the background's ('drop', VPD and LAVT); None where it is not known. Stated, not
            enforced: the truth is drawn before it comes here.
        drawn_at: outlines were drawn at the 'input' size (ReLA), or at the picture's 'original' one
            and resized; None where it is not known. Stated, not enforced.
    """

    no_target: NoTargetRule = "head"
    pixels: int = 50
    size: MaskSize = "input"
    overlap: OverlapRule | None = "union"
    drawn_at: DrawnAt | None = "input"

    def __post_init__(self) -> None:
        check_option("no_target", self.no_target, NoTargetRule)
        check_option("size", self.size, MaskSize)
        if self.overlap is not None:
            check_option("overlap", self.overlap, OverlapRule)
        if self.drawn_at is not None:
            check_option("drawn_at", self.drawn_at, DrawnAt)
        if self.pixels < 0:
            raise ValueError(f"pixels is {self.pixels}; want 0 or more")

    def describe(self) -> str:
        """In words, for whoever reads a score."""
        rule = (
            "no-target head"
            if self.no_target == "head"
            else f"no target below {self.pixels} pixels"
        )
        drawn = f"drawn at {self.drawn_at} size" if self.drawn_at else "place not recorded"
        return (
            f"{rule}; masks at {self.size} size; outlines {drawn}, their overlapping parts: "
            f"{self.overlap or 'rule not recorded'}; Pr@X over items with targets, IoU >= X"
        )


class GresEvaluator:
    """Collects items; shards merge, and an item that comes again with the same content is dropped.

    Args:
        protocol: how items are scored.
    """

    def __init__(self, protocol: GresProtocol | None = None) -> None:
        self.protocol = protocol or GresProtocol()
        self._items: dict[tuple[str, int, int], GresRecord] = {}

    def __len__(self) -> int:
        return len(self._items)

    @property
    def records(self) -> list[GresRecord]:
        """The items, ordered by source, ref and sentence."""
        return [self._items[key] for key in sorted(self._items)]

    def update(self, pred: Any, target: Any, **items: Any) -> None:
        """Add N items: masks bool or {0, 1} [N, H, W], numpy's or torch's, and N of all else, by
        the names that `update_counts` has for it.

        Raises EvaluationError for masks of other values or shapes, lists of other lengths, truth
        that contradicts its number of targets, or no `pred_nt` where the head's word is asked for.
        """
        pred, target = _masks(pred, "pred"), _masks(target, "target")
        if pred.shape != target.shape:
            raise EvaluationError(f"pred is {pred.shape}, target is {target.shape}; want the same")
        counts = pred & target, pred | target, pred, target
        self.update_counts(*(found.sum((1, 2)).tolist() for found in counts), **items)

    def update_counts(
        self,
        intersection: Sequence[int],
        union: Sequence[int],
        pred_area: Sequence[int],
        target_area: Sequence[int],
        *,
        n_targets: Sequence[int],
        pred_nt: Sequence[bool] | None = None,
        source: str = "grefcoco",
        img_ids: Sequence[int],
        ref_ids: Sequence[int],
        sent_ids: Sequence[int],
        sents: Sequence[str] | None = None,
    ) -> None:
        """`update` by what was counted elsewhere, on a GPU for instance: pixels of N items.

        Raises EvaluationError as `update` does, and for counts that no two masks have.
        """
        pred_area, target_area = ints(pred_area, "pred_area"), ints(target_area, "target_area")
        if self.protocol.no_target == "pixels":
            said = [area < self.protocol.pixels for area in pred_area]
        elif pred_nt is None:
            raise EvaluationError("no_target='head' wants pred_nt, what the model's head says")
        else:
            said = [bool(one) for one in pred_nt]
        columns: dict[str, list[Any]] = {
            "n_targets": list(n_targets),
            "pred_nt": said,
            "img_ids": list(img_ids),
            "ref_ids": list(ref_ids),
            "sent_ids": list(sent_ids),
            "sents": list(sents) if sents is not None else [""] * len(pred_area),
            "intersections": ints(intersection, "intersection"),
            "unions": ints(union, "union"),
            "areas": pred_area,
            "truths": target_area,
        }
        for name, column in columns.items():
            if len(column) != len(pred_area):
                raise EvaluationError(f"{len(column)} {name} for {len(pred_area)} masks")
        records = []
        for row in zip(*columns.values(), strict=True):
            count, nothing, image, ref, sentence, text, both, either, area, true = row
            if count == 0 and true:
                raise EvaluationError(
                    f"ref {ref}, sentence {sentence} has no target, but its mask has {true} pixels"
                )
            if not 0 <= both <= min(area, true) or either != area + true - both:
                raise EvaluationError(
                    f"ref {ref}, sentence {sentence}: {both} pixels in both masks and {either} in "
                    f"either cannot be of masks of {area} and {true} pixels"
                )
            numbers = int(image), int(ref), int(sentence)
            counts = both, either, area
            records.append(GresRecord(source, *numbers, str(text), int(count), nothing, *counts))
        self.add(records)

    def add(self, records: Iterable[GresRecord]) -> None:
        """Add items by their records: all of them or, if one contradicts an earlier one, none."""
        fresh: dict[tuple[str, int, int], GresRecord] = {}
        for record in records:
            key = record.source, record.ref_id, record.sent_id
            known = fresh.get(key) or self._items.get(key)
            if known is not None and known != record:
                raise EvaluationError(
                    f"{key[0]} ref {key[1]}, sentence {key[2]} was evaluated twice with different "
                    f"results: {known} and {record}"
                )
            fresh[key] = record
        self._items.update(fresh)

    def merge(self, other: GresEvaluator) -> GresEvaluator:
        """Take in another evaluator's items; returns self. Raises EvaluationError."""
        if other.protocol != self.protocol:
            raise EvaluationError(f"protocols differ: {self.protocol} and {other.protocol}")
        self.add(other.records)
        return self

    def compute(self) -> dict[str, dict[str, float]]:
        """Scores by source; 'full' pools them where there are several.

        gIoU, cIoU and Pr@X in percent, T_acc and N_acc as fractions, as ReLA gives them.

        Raises EvaluationError if there are no items.
        """
        if not self._items:
            raise EvaluationError("no items to score; the split is empty or nothing was evaluated")
        sources: dict[str, list[GresRecord]] = {}
        for record in self.records:
            sources.setdefault(record.source, []).append(record)
        found = {source: score(records) for source, records in sources.items()}
        if len(sources) > 1:
            pooled = score(self.records)
            found["full"] = {k: v for k, v in pooled.items() if not k.endswith("_acc")}
        return found


def _masks(masks: Any, name: str) -> NDArray[np.bool_]:
    array = np.asarray(masks.detach().cpu() if hasattr(masks, "detach") else masks)
    if array.ndim != 3 or array.dtype.kind not in "bui" or ((array != 0) & (array != 1)).any():
        raise EvaluationError(
            f"{name} is {array.dtype} {array.shape}; want bool or {{0, 1}} ints [N, H, W]"
        )
    return array.astype(bool)

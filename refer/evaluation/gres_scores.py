"""The scores of generalized referring segmentation, from items alone.

Source: ReLA's `ReferEvaluator` (main branch); `refer.evaluation.gres` has its table of cases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

THRESHOLDS = (0.7, 0.8, 0.9)
_EXACT = tuple(Fraction(repr(x)) for x in THRESHOLDS)


class GresRecord(NamedTuple):
    """One item. ``source`` is its data set; ``n_targets`` 0 where nothing is named."""

    source: str
    img_id: int
    ref_id: int
    sent_id: int
    sent: str
    n_targets: int
    pred_nt: bool
    intersection: int
    union: int
    pred_area: int

    @property
    def gt_nt(self) -> bool:
        """Whether the sentence names nothing in the picture."""
        return self.n_targets == 0


def score(records: Sequence[GresRecord]) -> dict[str, float]:
    """The scores of one source's items (see `GresEvaluator.compute`)."""
    tally = {"TP": 0, "FN": 0, "FP": 0, "TN": 0}
    total_i = total_u = 0
    ious: list[float] = []
    passed = [0] * len(THRESHOLDS)
    for record in records:
        iou = 0.0
        if record.gt_nt and record.pred_nt:
            tally["TP"] += 1
            iou = 1.0
        elif record.gt_nt:
            tally["FN"] += 1
            total_u += record.union
        elif record.pred_nt:
            tally["FP"] += 1
            total_u += record.union
        else:
            tally["TN"] += 1
            total_i += record.intersection
            total_u += record.union
            if record.union:
                iou = record.intersection / record.union
                exact = Fraction(record.intersection, record.union)
                for index, threshold in enumerate(_EXACT):
                    passed[index] += exact >= threshold
        ious.append(iou)
    empty, targeted = tally["TP"] + tally["FN"], tally["TN"] + tally["FP"]
    return {
        "gIoU": 100 * math.fsum(ious) / len(ious),
        "cIoU": 100 * total_i / total_u if total_u else 0.0,
        # Without a single item that names nothing, ReLA gives 0 for both.
        "T_acc": tally["TN"] / targeted if empty and targeted else 0.0,
        "N_acc": tally["TP"] / empty if empty else 0.0,
        **{
            f"Pr@{threshold:g}": 100 * count / targeted if targeted else 0.0
            for threshold, count in zip(THRESHOLDS, passed, strict=True)
        },
    }


def always_empty(records: Sequence[GresRecord]) -> dict[str, float]:
    """The scores of a system that says "nothing here" to everything: what a score must beat."""
    return score(
        [record._replace(pred_nt=True, intersection=0, union=0, pred_area=0) for record in records]
    )


def by_targets(records: Sequence[GresRecord]) -> dict[str, dict[str, float]]:
    """Items, gIoU and right answers on presence (a share), for 0, 1, 2 and 3 or more targets."""
    groups: dict[str, list[GresRecord]] = {}
    for record in records:
        groups.setdefault(str(record.n_targets) if record.n_targets < 3 else "3+", []).append(
            record
        )
    return {
        name: {
            "items": len(group),
            "gIoU": score(group)["gIoU"],
            "presence": sum(r.pred_nt == r.gt_nt for r in group) / len(group),
        }
        for name, group in sorted(groups.items())
    }

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

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from refer.errors import DataFileError, MissingDataError
from refer.evaluation.protocol import EvaluationError, ints
from refer.files import write_json
from refer.options import OverlapRule, check_option

THRESHOLDS = (0.7, 0.8, 0.9)
_EXACT = tuple(Fraction(repr(x)) for x in THRESHOLDS)
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
    """

    no_target: NoTargetRule = "head"
    pixels: int = 50
    size: MaskSize = "input"
    overlap: OverlapRule | None = "union"

    def __post_init__(self) -> None:
        check_option("no_target", self.no_target, NoTargetRule)
        check_option("size", self.size, MaskSize)
        if self.overlap is not None:
            check_option("overlap", self.overlap, OverlapRule)
        if self.pixels < 0:
            raise ValueError(f"pixels is {self.pixels}; want 0 or more")

    def describe(self) -> str:
        """In words, for whoever reads a score."""
        rule = (
            "no-target head"
            if self.no_target == "head"
            else f"no target below {self.pixels} pixels"
        )
        return (
            f"{rule}; masks at {self.size} size; overlapping parts of an outline: "
            f"{self.overlap or 'rule not recorded'}; Pr@X over items with targets, IoU >= X"
        )


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


def save(folder: str | Path, dataset: str, evaluator: GresEvaluator) -> tuple[Path, Path]:
    """Write `<dataset>_results.json` and `<dataset>_detailed_results.json`, as ReLA names them.

    The second has ReLA's entries for each item, and with them what scoring again needs and, of the
    truth, by which rule it was drawn.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    results = [[source, scores] for source, scores in evaluator.compute().items()]
    details = [
        {
            "source": r.source,
            "img_id": r.img_id,
            "gt_nt": r.gt_nt,
            "pred_nt": r.pred_nt,
            "sent": r.sent,
            "sent_info": {"ref_id": r.ref_id, "sent_id": r.sent_id, "n_targets": r.n_targets},
            "I": r.intersection,
            "U": r.union,
            "cIoU": r.intersection / r.union if r.union else 0.0,
            "pred_area": r.pred_area,
            "overlap": evaluator.protocol.overlap,
        }
        for r in evaluator.records
    ]
    paths = (folder / f"{dataset}_results.json", folder / f"{dataset}_detailed_results.json")
    for path, content in zip(paths, (results, details), strict=True):
        write_json(path, content)
    return paths


def load(path: str | Path, protocol: GresProtocol | None = None) -> GresEvaluator:
    """The evaluator of a saved `<dataset>_detailed_results.json`, scored under `protocol`.

    The overlap rule is the file's, since its truth was drawn by it; None for older files, which do
    not say.

    Raises MissingDataError, or DataFileError naming the item, when it cannot be read so.
    """
    path = Path(path)
    protocol = protocol or GresProtocol()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingDataError(f"no file {path}; a test run on grefcoco writes it") from None
    except (OSError, ValueError) as error:
        raise DataFileError(f"{path} cannot be read: {error}") from error
    evaluator = GresEvaluator(replace(protocol, overlap=_overlap(path, content)))
    for number, item in enumerate(content):
        try:
            evaluator.add([_record(item, evaluator.protocol)])
        except (KeyError, TypeError, EvaluationError) as error:
            raise DataFileError(f"{path}, item {number}: {error}") from error
    return evaluator


def _overlap(path: Path, content: Sequence[Any]) -> OverlapRule | None:
    """The rule by which all items' truth was drawn; None where it is not said. Raises
    DataFileError when they do not agree."""
    known: dict[str, OverlapRule | None] = {
        repr(rule): rule for rule in (None, *get_args(OverlapRule))
    }
    found = {repr(item.get("overlap")) for item in content if isinstance(item, dict)}
    if len(found) > 1 or not found <= known.keys():
        raise DataFileError(
            f"{path}: items of overlap {', '.join(sorted(found))}; want one of "
            f"{', '.join(get_args(OverlapRule))} for all of them, or for none"
        )
    return known[found.pop()] if found else None


def _record(item: Mapping[str, Any], protocol: GresProtocol) -> GresRecord:
    info = item["sent_info"]
    nothing = item["pred_nt"]
    if protocol.no_target == "pixels":
        nothing = item["pred_area"] < protocol.pixels
    return GresRecord(
        item["source"], item["img_id"], info["ref_id"], info["sent_id"], item["sent"],
        info["n_targets"], bool(nothing), item["I"], item["U"], item["pred_area"],
    )  # fmt: skip


def _masks(masks: Any, name: str) -> NDArray[np.bool_]:
    array = np.asarray(masks.detach().cpu() if hasattr(masks, "detach") else masks)
    if array.ndim != 3 or array.dtype.kind not in "bui" or ((array != 0) & (array != 1)).any():
        raise EvaluationError(
            f"{name} is {array.dtype} {array.shape}; want bool or {{0, 1}} ints [N, H, W]"
        )
    return array.astype(bool)

"""`ResEvaluator`: predicted masks to scores, item by item, over any number of processes.

Shapes: N items, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from refer.evaluation.protocol import EvaluationError, ResProtocol, ints
from refer.evaluation.scores import UNKNOWN, ItemRecord, score


class ResEvaluator:
    """Collects the items of an evaluation; shards of it merge, and nothing is counted twice.

    An item is a (ref_id, sent_id). One that comes again with the same content is dropped and
    counted (samplers pad shards by repeating items); with other content it is an error. Evaluators
    can be pickled, or sent as plain arrays (`state`).

    Args:
        protocol: how the items are scored. Which sentences there are is up to whoever feeds it.
        label: what is evaluated, for messages ('refcoco val').
    """

    def __init__(self, protocol: ResProtocol, label: str = "") -> None:
        self.protocol, self.label = protocol, label
        self.duplicates = 0
        self._items: dict[tuple[int, int], ItemRecord] = {}

    def __len__(self) -> int:
        return len(self._items)

    @property
    def records(self) -> list[ItemRecord]:
        """The items, ordered by ref_id and sent_id."""
        return [self._items[key] for key in sorted(self._items)]

    def update(
        self,
        pred: Any,
        target: Any,
        ref_ids: Any,
        sent_ids: Any,
        image_ids: Any = None,
        sentence_index: Any = None,
        keep_masks: bool = False,
    ) -> None:
        """Add items: masks bool or {0, 1} ints [N, H, W], and N ids; or one [H, W] and one id.

        Arrays may be numpy's or torch's. `keep_masks` keeps `pred` in the records, so that they can
        be scored at another resolution later.

        Raises EvaluationError for masks of other values, shape or size than the protocol's.
        """
        pred, target = self._masks(pred, "pred"), self._masks(target, "target")
        if pred.shape != target.shape:
            raise EvaluationError(f"pred is {pred.shape}, target is {target.shape}; want the same")
        self.update_counts(
            (pred & target).sum((1, 2)),
            (pred | target).sum((1, 2)),
            pred.sum((1, 2)),
            target.sum((1, 2)),
            ref_ids=ref_ids,
            sent_ids=sent_ids,
            image_ids=image_ids,
            sentence_index=sentence_index,
            masks=pred if keep_masks else None,
        )

    def update_counts(
        self,
        intersection: Any,
        union: Any,
        pred_area: Any,
        target_area: Any,
        ref_ids: Any,
        sent_ids: Any,
        image_ids: Any = None,
        sentence_index: Any = None,
        masks: Any = None,
    ) -> None:
        """Add N items by their pixel counts, for whoever counts on the device (ints, N each).

        `masks` [N, H, W], if given, are the predictions, kept as in `update`.

        Raises EvaluationError if the counts contradict one another or lists differ in length, and
        for an item that came before with other content.
        """
        given = {
            "ref_ids": ref_ids,
            "sent_ids": sent_ids,
            "image_ids": image_ids,
            "sentence_index": sentence_index,
            "intersection": intersection,
            "union": union,
            "pred_area": pred_area,
            "target_area": target_area,
        }
        number = len(ints(ref_ids, "ref_ids"))
        columns = []
        for name, values in given.items():
            column = [UNKNOWN] * number if values is None else ints(values, name)
            if len(column) != number:
                raise EvaluationError(f"{len(column)} {name} for {number} ref_ids")
            columns.append(column)
        rles = [None] * number if masks is None else _encode(self._masks(masks, "masks"))
        if len(rles) != number:
            raise EvaluationError(f"{len(rles)} masks for {number} ref_ids")
        self._add([ItemRecord(*row) for row in zip(*columns, rles, strict=True)])

    def merge(self, other: ResEvaluator) -> ResEvaluator:
        """Take in the items of another evaluator of the same protocol; returns self.

        Raises EvaluationError, and changes nothing, if the two disagree about an item.
        """
        if other.protocol != self.protocol:
            raise EvaluationError(
                f"protocols differ: {self.protocol.describe()} and {other.protocol.describe()}"
            )
        self._add(other.records)
        self.duplicates += other.duplicates
        return self

    def compute(self) -> dict[str, Any]:
        """The scores (see `score`) and n_duplicates, the number of items that came again.

        Raises EvaluationError if there are no items.
        """
        if not self._items:
            raise EvaluationError(
                f"no items to score{f' for {self.label}' if self.label else ''}; "
                "the split is empty or nothing was evaluated"
            )
        return {**score(self.records, self.protocol), "n_duplicates": self.duplicates}

    def state(self) -> dict[str, Any]:
        """Plain content for a gather: 'numbers' int64 [N, 8], 'masks' (N RLEs or None), an int."""
        records = self.records
        numbers = np.array([record.numbers for record in records], np.int64).reshape(-1, 8)
        masks = [record.mask for record in records]
        return {"numbers": numbers, "masks": masks, "duplicates": self.duplicates}

    @classmethod
    def from_state(cls, protocol: ResProtocol, state: dict[str, Any]) -> ResEvaluator:
        """The evaluator whose `state` it was."""
        evaluator = cls(protocol)
        rows = zip(state["numbers"].tolist(), state["masks"], strict=True)
        evaluator._add([ItemRecord._make([*numbers, mask]) for numbers, mask in rows])
        evaluator.duplicates += state["duplicates"]
        return evaluator

    def _add(self, records: Sequence[ItemRecord]) -> None:
        """All of the records or, if one is refused, none."""
        fresh: dict[tuple[int, int], ItemRecord] = {}
        duplicates = 0
        for record in records:
            key = record.ref_id, record.sent_id
            if problem := record.problem():
                raise EvaluationError(f"ref {key[0]}, sentence {key[1]}: {problem}")
            known = fresh.get(key) or self._items.get(key)
            if known is not None:
                record = _same(known, record)
                duplicates += 1
            fresh[key] = record
        self._items.update(fresh)
        self.duplicates += duplicates

    def _masks(self, masks: Any, name: str) -> NDArray[np.bool_]:
        """bool [N, H, W] of what a caller handed in."""
        array = np.asarray(masks.detach().cpu() if hasattr(masks, "detach") else masks)
        if array.ndim == 2:
            array = array[None]
        size = self.protocol.size
        if array.ndim != 3 or (size is not None and array.shape[1:] != size):
            raise EvaluationError(
                f"{name} is {array.shape}; protocol {self.protocol.name!r} wants [N, H, W] at "
                f"{self.protocol.resolution}"
            )
        if array.dtype.kind not in "bui" or (
            array.dtype.kind != "b" and ((array != 0) & (array != 1)).any()
        ):
            raise EvaluationError(
                f"{name} is {array.dtype}{_span(array)}; want bool or ints in {{0, 1}}"
            )
        return array.astype(bool)


def _same(known: ItemRecord, again: ItemRecord) -> ItemRecord:
    """The one of two records of an item that holds more. Raises EvaluationError if they differ."""
    masks_differ = known.mask and again.mask and known.mask != again.mask
    if known.numbers != again.numbers or masks_differ:
        raise EvaluationError(
            f"ref {known.ref_id}, sentence {known.sent_id} was evaluated twice with different "
            f"results: {known.numbers} and {again.numbers}; evaluate every item once, or clear "
            "the evaluator between runs"
        )
    return known if known.mask else again


def _span(array: NDArray[Any]) -> str:
    return f" from {array.min()} to {array.max()}" if array.size else ""


def _encode(masks: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """COCO RLE of each mask, its counts as str so that JSON takes it."""
    rles = coco.encode(np.asfortranarray(masks.transpose(1, 2, 0), dtype=np.uint8))
    return [{"size": list(rle["size"]), "counts": rle["counts"].decode()} for rle in rles]

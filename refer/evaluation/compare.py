"""Two runs over the same items: is the difference of their scores more than the choice of pictures?

Shapes: N items, P pictures, R resamples.

Paired bootstrap (Efron and Tibshirani 1993) by picture: the sentences of a picture share its pixels
and often its object, so they are drawn together. oIoU is a ratio of sums, so its spread cannot be
had from items one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refer.evaluation.protocol import EvaluationError, ResProtocol
from refer.evaluation.records import RecordFile
from refer.evaluation.scores import UNKNOWN, ItemRecord, iou, score

Floats = NDArray[np.float64]
CHUNK = 250  # resamples drawn together: bounds the memory at CHUNK x P numbers


@dataclass(frozen=True)
class Difference:
    """A score of both runs in percent, B minus A in points, and the interval it lies in."""

    name: str
    a: float
    b: float
    low: float
    high: float

    @property
    def points(self) -> float:
        """B minus A, in points of a percent."""
        return self.b - self.a

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


class Change(NamedTuple):
    """An item in both runs, and its IoU in each, in [0, 1]."""

    a: ItemRecord
    b: ItemRecord
    iou_a: float
    iou_b: float


@dataclass(frozen=True)
class Comparison:
    """oIoU and mIoU compared, and every item that both score, the most changed first."""

    differences: tuple[Difference, ...]
    changes: list[Change]
    pictures: int
    resamples: int
    confidence: float


def compare(
    a: RecordFile,
    b: RecordFile,
    *,
    resamples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Comparison:
    """Compare two record files of the same items under the same protocol.

    resamples, seed: draws of P pictures with replacement, the same for both runs.
    confidence: of the percentile interval, in (0, 1).

    Raises EvaluationError if items, pictures, truth or protocol differ, if pictures are unknown, or
    there are fewer than two.
    """
    if not 0 < confidence < 1 or resamples < 1:
        raise EvaluationError(
            f"confidence is {confidence}, resamples {resamples}; want a fraction in (0, 1), and 1 "
            "or more"
        )
    one, two = _paired(a, b)
    ids = [record.image_id for record in one]
    pictures, place = np.unique(ids, return_inverse=True)
    if len(pictures) < 2:
        raise EvaluationError("the items are of one picture; at least two are needed to resample")
    # Sums of each picture, [P, 4] a run: intersection, union, IoU, scored items.
    sums = []
    for records in (one, two):
        columns = _columns(records, a.protocol)
        sums.append(
            np.stack([np.bincount(place, column, len(pictures)) for column in columns.T], axis=1)
        )
    drawn = _resampled(np.concatenate(sums, axis=1), resamples, seed)
    empty = 1.0 if a.protocol.empty_union == "one" else 0.0
    spreads = {
        "oIoU": _ratio(drawn[:, 4], drawn[:, 5], empty) - _ratio(drawn[:, 0], drawn[:, 1], empty),
        # A draw of skipped items alone has no mean; it is left out below.
        "mIoU": _ratio(drawn[:, 6], drawn[:, 7], np.nan) - _ratio(drawn[:, 2], drawn[:, 3], np.nan),
    }
    scores = [score(records, a.protocol) for records in (one, two)]
    tail = 100 * (1 - confidence) / 2
    differences = []
    for name, spread in spreads.items():
        low, high = np.nanpercentile(100 * spread, [tail, 100 - tail])
        differences.append(
            Difference(name, scores[0][name], scores[1][name], float(low), float(high))
        )
    return Comparison(
        tuple(differences), _changes(one, two, a.protocol), len(pictures), resamples, confidence
    )


def _paired(a: RecordFile, b: RecordFile) -> tuple[list[ItemRecord], list[ItemRecord]]:
    """The records of both in one order."""
    if a.protocol != b.protocol:
        mine, yours = a.protocol.describe(), b.protocol.describe()
        differ = [f"{k} is {mine[k]!r} and {yours[k]!r}" for k in mine if mine[k] != yours[k]]
        raise EvaluationError(
            f"the runs were scored under different protocols: {'; '.join(differ)}; test both alike"
        )
    one, two = ({(r.ref_id, r.sent_id): r for r in file.records} for file in (a, b))
    if one.keys() != two.keys():
        only = [sorted(one.keys() - two.keys()), sorted(two.keys() - one.keys())]
        said = "; ".join(
            f"{len(keys)} only in {name} (first: ref {keys[0][0]}, sentence {keys[0][1]})"
            for name, keys in zip("AB", only, strict=True)
            if keys
        )
        raise EvaluationError(
            f"the items differ: {said}; compare runs on the same data set, splitBy and split"
        )
    keys = sorted(one)
    for key in keys:
        first, second = one[key], two[key]
        where = f"ref {key[0]}, sentence {key[1]}"
        if first.image_id == UNKNOWN or second.image_id == UNKNOWN:
            raise EvaluationError(
                f"{where} was recorded without its picture (image_id); test again to compare"
            )
        if (first.image_id, first.target_area) != (second.image_id, second.target_area):
            raise EvaluationError(
                f"{where} is of picture {first.image_id} with {first.target_area} true pixels in "
                f"A, of {second.image_id} with {second.target_area} in B; the data differ"
            )
    if not keys:
        raise EvaluationError("no items to compare; both record files are empty")
    return [one[key] for key in keys], [two[key] for key in keys]


def _columns(records: Sequence[ItemRecord], protocol: ResProtocol) -> Floats:
    """[N, 4]: intersection, union, IoU, and 1 where the IoU counts."""
    rows = []
    for record in records:
        own = iou(record, protocol)
        rows.append((record.intersection, record.union, own or 0.0, float(own is not None)))
    return np.array(rows, np.float64)


def _resampled(sums: Floats, resamples: int, seed: int) -> Floats:
    """Sums [P, C] of each picture -> sums [R, C] over P pictures drawn with replacement."""
    generator = np.random.default_rng(seed)
    count = len(sums)
    parts = []
    for start in range(0, resamples, CHUNK):
        size = min(CHUNK, resamples - start)
        times = generator.multinomial(count, np.full(count, 1 / count), size=size)
        parts.append(times @ sums)
    return np.concatenate(parts)


def _ratio(above: Floats, below: Floats, otherwise: float) -> Floats:
    return np.divide(above, below, out=np.full_like(above, otherwise), where=below > 0)


def _changes(
    one: Sequence[ItemRecord], two: Sequence[ItemRecord], protocol: ResProtocol
) -> list[Change]:
    found = []
    for first, second in zip(one, two, strict=True):
        iou_a, iou_b = iou(first, protocol), iou(second, protocol)
        if iou_a is not None and iou_b is not None:
            found.append(Change(first, second, iou_a, iou_b))
    return sorted(found, key=lambda change: -abs(change.iou_b - change.iou_a))

"""Ranked boxes of phrases to Acc@0.5, recall at k and box mIoU; the protocols that are published.

Shapes: N ranked predictions, M true boxes of one phrase; boxes float xyxy in pixels.

| preset         | after                    | right if  | a phrase with several boxes            |
|----------------|--------------------------|-----------|----------------------------------------|
| `reftr`        | RefTR                    | IoU > 0.5 | one box around them (MERGED-BOX)       |
| `transvg`      | TransVG, SeqTR, REFER    | IoU >= .5 | one box around them (MERGED-BOX)       |
| `mdetr_any`    | MDETR, Flickr30k ANY-BOX | IoU >= .5 | any of them will do (ANY-BOX)          |
| `mdetr_merged` | MDETR, MERGED-BOX        | IoU >= .5 | one box around them (MERGED-BOX)       |

Coordinates are continuous. REFER counts pixels instead (x2 = x + w - 1, and 1 added to the sides of
the intersection), which cancels out. TransVG clamps predictions to its padded square before: that
is up to whoever feeds the evaluator.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from refer.errors import UnknownNameError
from refer.evaluation.grec import overlap
from refer.evaluation.protocol import EvaluationError, ThresholdOperator
from refer.options import check_option

Box = tuple[float, float, float, float]
Truth = Literal["any", "merged"]
Key = tuple[str, int]


@dataclass(frozen=True)
class GroundingProtocol:
    """How ranked boxes are scored; see the table above for the published ones.

    Args:
        name: the preset it is, or comes from.
        threshold: least IoU of a right box, in (0, 1].
        threshold_operator: a box is right at IoU 'gt' (above) or 'ge' (at or above) the threshold.
        truth: 'merged' compares with the smallest box around all true boxes of the phrase, 'any'
            with each of them and takes the best. The same where a phrase has one box.
        ranks: the k of R@k.

    Raises UnknownNameError or ValueError for a value outside these.
    """

    name: str = "reftr"
    threshold: float = 0.5
    threshold_operator: ThresholdOperator = "gt"
    truth: Truth = "merged"
    ranks: tuple[int, ...] = (1, 5, 10)

    def __post_init__(self) -> None:
        check_option("threshold_operator", self.threshold_operator, ThresholdOperator)
        check_option("truth", self.truth, Truth)
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; want more than 0 and at most 1")
        if not self.ranks or any(type(k) is not int or k < 1 for k in self.ranks):
            raise ValueError(f"ranks are {self.ranks}; want one or more whole numbers from 1 on")

    def right(self, ious: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which IoUs count as right."""
        if self.threshold_operator == "ge":
            return ious >= self.threshold
        return ious > self.threshold

    def describe(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        return {**asdict(self), "ranks": list(self.ranks)}

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> GroundingProtocol:
        """The protocol that `describe` gave. Raises ValueError for anything else."""
        # Without an entry, its default would be scored by and nobody would know.
        known = {field.name for field in fields(cls)}
        if set(description) != known:
            raise ValueError(
                f"a grounding protocol has {sorted(known)}, this one {sorted(description)}"
            )
        try:
            return msgspec.convert(dict(description), cls)
        except msgspec.ValidationError as error:
            raise ValueError(f"no grounding protocol: {error}") from error


GROUNDING_PROTOCOLS: dict[str, GroundingProtocol] = {
    preset.name: preset
    for preset in (
        GroundingProtocol("reftr"),
        GroundingProtocol("transvg", threshold_operator="ge"),
        GroundingProtocol("mdetr_any", threshold_operator="ge", truth="any"),
        GroundingProtocol("mdetr_merged", threshold_operator="ge"),
    )
}


def find_grounding_protocol(name: str) -> GroundingProtocol:
    """The preset `name`. Raises UnknownNameError, which lists the presets."""
    if name not in GROUNDING_PROTOCOLS:
        known = ", ".join(GROUNDING_PROTOCOLS)
        raise UnknownNameError(f"grounding protocol {name!r} is unknown; choose {known}")
    return GROUNDING_PROTOCOLS[name]


class GroundingItem(NamedTuple):
    """One phrase: N predicted boxes, best first, its M true boxes (M > 0), its types.

    `expression` is the id of the caption or expression, `phrase` the position of the phrase in it.
    """

    expression: str
    phrase: int
    boxes: tuple[Box, ...]
    truth: tuple[Box, ...]
    types: tuple[str, ...] = ()

    @property
    def key(self) -> Key:
        return self.expression, self.phrase


def merged(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The smallest box around boxes: [M, 4] -> [1, 4], M > 0."""
    return np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])[None]


def ious_of(item: GroundingItem, protocol: GroundingProtocol) -> NDArray[np.float64]:
    """IoU of each ranked box with the truth: float64 [N]; with the best of them for 'any'."""
    truth = np.array(item.truth, np.float64)
    boxes = np.array(item.boxes, np.float64).reshape(-1, 4)
    if protocol.truth == "merged":
        truth = merged(truth)
    return overlap(boxes, truth, "iou").max(axis=1)


def row_of(item: GroundingItem, protocol: GroundingProtocol) -> dict[str, Any]:
    """The result of one phrase: id, phrase, types, iou of its first box (0 without any), right,
    and rank of the first right box, from 1 (None without any)."""
    ious = ious_of(item, protocol)
    found = np.flatnonzero(protocol.right(ious))
    return {
        "id": item.expression,
        "phrase": item.phrase,
        "types": list(item.types),
        "iou": float(ious[0]) if len(ious) else 0.0,
        "right": bool(len(found) and found[0] == 0),
        "rank": int(found[0]) + 1 if len(found) else None,
    }


def score_rows(rows: Iterable[Mapping[str, Any]], protocol: GroundingProtocol) -> dict[str, Any]:
    """Scores of rows of `row_of`, in percent: Acc@<threshold>, mIoU, R@k, R@all, and n_items.

    All are means over phrases as they occur, not over entities. R@all takes any predicted box: the
    upper bound of what another order could reach. 'by_type' has R@k, R@all and n_items for each
    type; a phrase of two types counts under both.

    Raises EvaluationError if there is nothing to score.
    """
    rows = list(rows)
    if not rows:
        raise EvaluationError("no phrases to score; the split is empty or nothing was evaluated")
    types: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        for name in dict.fromkeys(row["types"]):
            types.setdefault(name, []).append(row)
    return {
        f"Acc@{protocol.threshold:g}": 100 * sum(row["right"] for row in rows) / len(rows),
        "mIoU": 100 * math.fsum(row["iou"] for row in rows) / len(rows),
        **_recalls(rows, protocol),
        "by_type": {name: _recalls(types[name], protocol) for name in sorted(types)},
    }


def _recalls(rows: list[Mapping[str, Any]], protocol: GroundingProtocol) -> dict[str, Any]:
    ranks = [row["rank"] for row in rows if row["rank"] is not None]
    found = {f"R@{k}": 100 * sum(rank <= k for rank in ranks) / len(rows) for k in protocol.ranks}
    return {**found, "R@all": 100 * len(ranks) / len(rows), "n_items": len(rows)}

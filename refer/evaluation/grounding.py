"""`GroundingEvaluator`: predicted boxes of expressions (REC) and of phrases in captions to scores.

Shapes: N ranked predictions, M true boxes of one phrase; boxes float xyxy in pixels, of whichever
picture size both are in (IoU does not depend on it).

One result a phrase: RefTR's own result file has one a picture, so that the expressions of a picture
overwrite one another, and every process writes it; its distributed scores count padded items twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refer.evaluation.grounding_scores import (
    Box,
    GroundingItem,
    GroundingProtocol,
    Key,
    row_of,
    score_rows,
)
from refer.evaluation.protocol import EvaluationError

_SHOWN = 3  # keys named in a message


class GroundingEvaluator:
    """Collects phrases; shards of an evaluation merge, and nothing is counted twice.

    A phrase is (expression, position of the phrase in it): for REC the expression's id and 0. One
    that comes again with the same content is dropped and counted (samplers pad shards by repeating
    items); with other content it is an error.

    Args:
        protocol: how the phrases are scored.
    """

    def __init__(self, protocol: GroundingProtocol | None = None) -> None:
        self.protocol = protocol or GroundingProtocol()
        self.duplicates = 0
        self._items: dict[Key, GroundingItem] = {}

    def __len__(self) -> int:
        return len(self._items)

    @property
    def items(self) -> list[GroundingItem]:
        """The phrases, ordered by expression and position."""
        return [self._items[key] for key in sorted(self._items)]

    def update(
        self,
        expression: str,
        boxes: Any,
        truth: Any,
        *,
        phrase: int = 0,
        scores: Any = None,
        types: Sequence[str] = (),
    ) -> None:
        """Add a phrase: boxes [N, 4] and true boxes [M, 4], or one box [4]; numpy's or torch's.

        Boxes are ranked by `scores` [N], the highest first and equal ones as they come; without
        scores they are in order. No predicted box (N = 0) is a wrong answer. A phrase without a
        true box (M = 0) is not evaluated in any protocol: leave it out.

        Raises EvaluationError, naming the phrase, for other shapes, no true box, boxes that are not
        finite or whose corners are swapped, and a phrase that came before with other content.
        """
        where = f"expression {expression!r}, phrase {phrase}"
        if not isinstance(expression, str) or type(phrase) is not int or phrase < 0:
            raise EvaluationError(f"{where}: want a str and an int from 0 on")
        if isinstance(types, str):
            raise EvaluationError(f"{where}: types are {types!r}; want a list of str")
        ranked, true = _boxes(boxes, f"{where}: boxes"), _boxes(truth, f"{where}: truth")
        if not len(true):
            raise EvaluationError(f"{where} has no true box; leave such phrases out")
        if scores is not None:
            values = np.asarray(_numpy(scores), np.float64).reshape(-1)
            if len(values) != len(ranked) or np.isnan(values).any():
                raise EvaluationError(f"{where}: {values} as scores of {len(ranked)} boxes")
            ranked = ranked[np.argsort(-values, kind="stable")]
        self._add([GroundingItem(expression, phrase, _tuples(ranked), _tuples(true), tuple(types))])

    def merge(self, other: GroundingEvaluator) -> GroundingEvaluator:
        """Take in another evaluator's phrases; returns self. Raises EvaluationError."""
        if other.protocol != self.protocol:
            raise EvaluationError(f"protocols differ: {self.protocol} and {other.protocol}")
        self._add(other.items)
        self.duplicates += other.duplicates
        return self

    def under(self, protocol: GroundingProtocol) -> GroundingEvaluator:
        """The same phrases scored under another protocol, without the model."""
        return type(self).from_state(protocol, self.state())

    def rows(self) -> list[dict[str, Any]]:
        """One result a phrase, ordered by id and phrase; see `row_of`."""
        return [row_of(item, self.protocol) for item in self.items]

    def compute(self, expected: Iterable[Key] | None = None) -> dict[str, Any]:
        """The scores (see `score_rows`) and n_duplicates, the number of phrases that came again.

        `expected`: the keys of all phrases of the split. Raises EvaluationError if one of them was
        not evaluated, or another one was, and if there are no phrases.
        """
        if expected is not None:
            self.check_complete(expected)
        return {**score_rows(self.rows(), self.protocol), "n_duplicates": self.duplicates}

    def check_complete(self, expected: Iterable[Key]) -> None:
        """Raise EvaluationError unless exactly the phrases `expected` were evaluated."""
        wanted = set(expected)
        for keys, what in (
            (wanted - self._items.keys(), "were not evaluated"),
            (self._items.keys() - wanted, "were evaluated but are not of the split"),
        ):
            if keys:
                shown = ", ".join(map(repr, sorted(keys)[:_SHOWN]))
                raise EvaluationError(f"{len(keys)} of {len(wanted)} phrases {what}: {shown}, ...")

    def state(self) -> dict[str, Any]:
        """Plain content for a gather: 'items', a list of tuples, and 'duplicates', an int."""
        return {"items": [tuple(item) for item in self.items], "duplicates": self.duplicates}

    @classmethod
    def from_state(cls, protocol: GroundingProtocol, state: dict[str, Any]) -> GroundingEvaluator:
        """The evaluator whose `state` it was, under `protocol`."""
        evaluator = cls(protocol)
        evaluator._add([GroundingItem._make(values) for values in state["items"]])
        evaluator.duplicates += state["duplicates"]
        return evaluator

    def _add(self, items: Sequence[GroundingItem]) -> None:
        """All of the items or, if one is refused, none."""
        fresh: dict[Key, GroundingItem] = {}
        duplicates = 0
        for item in items:
            known = fresh.get(item.key) or self._items.get(item.key)
            if known is not None:
                if known != item:
                    raise EvaluationError(
                        f"expression {item.expression!r}, phrase {item.phrase} was evaluated twice "
                        f"with different content: {known[2:]} and {item[2:]}; evaluate every "
                        "phrase once, or use a new evaluator"
                    )
                duplicates += 1
            fresh[item.key] = item
        self._items.update(fresh)
        self.duplicates += duplicates


def _numpy(values: Any) -> Any:
    # Doubled on the way: numpy has no bfloat16, and every float of torch's fits into float64.
    return values.detach().cpu().double().numpy() if hasattr(values, "detach") else values


def _boxes(values: Any, name: str) -> NDArray[np.float64]:
    """float64 [N, 4] of what a caller handed in."""
    array = np.asarray(_numpy(values), np.float64)
    if array.ndim == 1 and array.size == 4:
        array = array[None]
    if array.size == 0 and array.shape[-1] in (0, 4):
        return np.zeros((0, 4))
    if array.ndim != 2 or array.shape[1] != 4:
        raise EvaluationError(f"{name} are {array.shape}; want [N, 4], xyxy")
    bad = ~np.isfinite(array).all(1) | (array[:, 2:] < array[:, :2]).any(1)
    if bad.any():
        raise EvaluationError(
            f"{name}: {array[bad][0].tolist()} is not finite, or not x1 <= x2, y1 <= y2"
        )
    return array


def _tuples(boxes: NDArray[np.float64]) -> tuple[Box, ...]:
    return tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in boxes.tolist())

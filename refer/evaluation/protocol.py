"""`ResProtocol`: everything that decides how predicted masks become P@X, oIoU and mIoU.

| preset     | after                  | P@X    | sentences | resolution | decision       | overlap |
|------------|------------------------|--------|-----------|------------|----------------|---------|
| `vpd`      | VPD test, validation   | IoU>=X | all       | 512x512    | argmax         | drop    |
| `lavt`     | LAVT test              | IoU>=X | all       | 480x480    | argmax         | drop    |
| `lavt_val` | LAVT validation        | IoU>=X | random    | 480x480    | argmax         | drop    |
| `cris`     | CRIS and ETRIS test    | IoU>X  | all       | native     | sigmoid > 0.35 | union   |
| `cris_val` | CRIS, ETRIS validation | IoU>X  | first     | native     | sigmoid > 0.35 | union   |

In all of them an empty union scores IoU 0. Papers of the CRIS family print mIoU as "IoU".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal

import msgspec
import numpy as np

from refer.errors import ReferError, UnknownNameError
from refer.options import OverlapRule, check_option
from refer.sentences import SentenceMode

ThresholdOperator = Literal["ge", "gt"]
EmptyUnion = Literal["zero", "one", "skip"]


class EvaluationError(ReferError, ValueError):
    """Masks, counts or records that cannot be scored, or not under the protocol asked for."""


@dataclass(frozen=True)
class ResProtocol:
    """How predictions are scored; see the table above for the published ones.

    Args:
        name: the preset it is, or comes from.
        thresholds: the X of P@X, in (0, 1], each meant as the decimal it is written as.
        threshold_operator: P@X counts IoU 'ge' (at or above X) or 'gt' (above X).
        empty_union: IoU of an item where prediction and truth are both empty: 'zero', 'one', or
            'skip' (the item is left out of P@X and mIoU).
        sentence_mode: which sentences of a ref are scored (see `refer.sentences`).
        resolution: '<height>x<width>' in pixels, which masks are compared at, or 'native'.
        prediction: how scores became a mask, in words.
        overlap: what ground truth is where parts of an outline overlap (see `refer.masks.decode`).

    Raises UnknownNameError or ValueError for a value outside these.
    """

    name: str = "vpd"
    thresholds: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.9)
    threshold_operator: ThresholdOperator = "ge"
    empty_union: EmptyUnion = "zero"
    sentence_mode: SentenceMode = "all"
    resolution: str = "512x512"
    prediction: str = "argmax"
    overlap: OverlapRule = "drop"

    def __post_init__(self) -> None:
        check_option("threshold_operator", self.threshold_operator, ThresholdOperator)
        check_option("empty_union", self.empty_union, EmptyUnion)
        check_option("sentence_mode", self.sentence_mode, SentenceMode)
        check_option("overlap", self.overlap, OverlapRule)
        if not self.thresholds or any(not 0 < value <= 1 for value in self.thresholds):
            raise ValueError(f"thresholds are {self.thresholds}; want one or more in (0, 1]")
        if self.resolution != "native" and not re.fullmatch(r"[1-9]\d*x[1-9]\d*", self.resolution):
            raise ValueError(
                f"resolution is {self.resolution!r}; want '<height>x<width>' or 'native'"
            )

    @property
    def size(self) -> tuple[int, int] | None:
        """(H, W) that masks are compared at; None for each picture's own size."""
        if self.resolution == "native":
            return None
        height, width = self.resolution.split("x")
        return int(height), int(width)

    @cached_property
    def _ratios(self) -> tuple[tuple[int, int], ...]:
        return tuple(Fraction(repr(float(x))).as_integer_ratio() for x in self.thresholds)

    def passes(self, intersection: int, union: int) -> tuple[bool, ...]:
        """Whether intersection / union reaches each threshold; union is positive.

        Compared in integers. The published code compares floats; the outcome is the same: a
        quotient of pixel counts and a decimal are rounded alike, and lie too far apart to meet.
        """
        sides = [(intersection * below, union * above) for above, below in self._ratios]
        if self.threshold_operator == "ge":
            return tuple(left >= right for left, right in sides)
        return tuple(left > right for left, right in sides)

    def describe(self) -> dict[str, Any]:
        """All of it as plain JSON values; 'changed' lists what differs from the preset `name`."""
        own = {**asdict(self), "thresholds": list(self.thresholds)}
        preset = PROTOCOLS.get(self.name)
        changed = [
            f.name
            for f in fields(self)
            if preset and getattr(preset, f.name) != getattr(self, f.name)
        ]
        return {**own, "changed": changed}

    def in_words(self) -> str:
        """What a printed score says of itself."""
        sign = ">=" if self.threshold_operator == "ge" else ">"
        empty = {"zero": "scores 0", "one": "scores 1", "skip": "is left out of P@X and mIoU"}
        text = (
            f"{self.name}: P@X at IoU {sign} X, {self.sentence_mode} sentences, masks at "
            f"{self.resolution} by {self.prediction}, overlapping parts of an outline: "
            f"{self.overlap}, an empty union {empty[self.empty_union]}"
        )
        changed = self.describe()["changed"]
        return text + (f"; {', '.join(changed)} not as {self.name} has it" if changed else "")

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> ResProtocol:
        """The protocol that `describe` gave. Raises ValueError for anything else."""
        known = {field.name for field in fields(cls)}
        values = {name: value for name, value in description.items() if name != "changed"}
        if set(values) != known:
            raise ValueError(f"a protocol has {sorted(known)}, this one {sorted(values)}")
        try:
            return msgspec.convert(values, cls)
        except msgspec.ValidationError as error:
            raise ValueError(f"no protocol: {error}") from error


_CRIS = ResProtocol(
    "cris",
    threshold_operator="gt",
    resolution="native",
    prediction="sigmoid > 0.35",
    overlap="union",
)
PROTOCOLS: dict[str, ResProtocol] = {
    preset.name: preset
    for preset in (
        ResProtocol("vpd"),
        ResProtocol("lavt", resolution="480x480"),
        ResProtocol("lavt_val", resolution="480x480", sentence_mode="random"),
        _CRIS,
        ResProtocol(**{**asdict(_CRIS), "name": "cris_val", "sentence_mode": "first"}),
    )
}


def find_protocol(name: str) -> ResProtocol:
    """The preset `name`. Raises UnknownNameError, which lists the presets."""
    if name not in PROTOCOLS:
        raise UnknownNameError(f"protocol {name!r} is unknown; choose {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def ints(values: Any, name: str) -> list[int]:
    """A list of them, from a list, an array or a tensor. Raises EvaluationError, by `name`."""
    array = np.atleast_1d(
        np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    )
    if array.ndim != 1 or (array.size and array.dtype.kind not in "ui"):
        raise EvaluationError(f"{name} is {array.dtype} {array.shape}; want a list of ints")
    return array.tolist()

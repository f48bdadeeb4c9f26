"""What a description means in a scene, in three values: surely meant, perhaps meant, not meant.

Sets of things are bit masks: bit i stands for thing i. A meaning is a pair (sure, possible) with
sure a subset of possible. A description is unambiguous when both are the same single thing, so
every borderline case (a place near the limit, two sizes nearly alike) counts as ambiguous.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from refer.shapes.scene import Scene

Meaning = tuple[int, int]

# Limits as fractions of width or height. Between the sure and the impossible limit lies "perhaps".
SIDE_SURE, SIDE_NOT = 0.40, 0.55
CORNER_SURE, CORNER_NOT = 0.36, 0.50
MIDDLE_SURE, MIDDLE_NOT = 0.13, 0.22
EXTREME_MARGIN = 0.07
BESIDE_MARGIN = 0.09  # a relation's least distance along its axis
GAP_SURE, GAP_NOT = 0.06, 0.16  # "next to": gap between boxes over the shorter side
SIZE_RATIO = {"big": 1.35, "small": 1.35, "biggest": 1.2, "smallest": 1.2}


@dataclass(frozen=True)
class Tail:
    """The part of a description beyond colour, texture and shape.

    ``kind``/``value``: ("size", "big"), ("place", "top left"), ("superlative", "leftmost"),
    ("relation", "left of") with an ``anchor``, ("negation", "red").
    """

    kind: str
    value: str
    anchor: Description | None = None


@dataclass(frozen=True)
class Description:
    """The structured form of an expression; None leaves the attribute open."""

    colour: str | None = None
    texture: str | None = None
    shape: str | None = None
    tail: Tail | None = None

    @property
    def kind(self) -> str:
        """The hardest thing one must understand to follow it (one of ``vocabulary.KINDS``)."""
        if self.tail:
            return self.tail.kind
        return "texture" if self.texture else "colour" if self.colour else "shape"

    @property
    def attributes(self) -> frozenset[str]:
        """The attribute words said of the target itself."""
        return frozenset(word for word in (self.colour, self.texture, self.shape) if word)

    def with_tail(self, tail: Tail | None) -> Description:
        """The same attributes with another tail."""
        return replace(self, tail=tail)


class Facts:
    """Everything a sentence may speak of, read off a scene once."""

    def __init__(self, scene: Scene) -> None:
        boxes = scene.boxes
        self.count = len(boxes)
        self.everything = (1 << self.count) - 1
        self.u = ((boxes[:, 0] + boxes[:, 2] / 2) / scene.width).tolist()
        self.v = ((boxes[:, 1] + boxes[:, 3] / 2) / scene.height).tolist()
        self.diameters = [2 * thing.radius for thing in scene.things]
        self.extents = np.sqrt(scene.areas).tolist()
        self.looks = [(t.colour, t.texture, t.shape) for t in scene.things]
        self.words: dict[str, int] = {}
        for index, look in enumerate(self.looks):
            for word in look:
                self.words[word] = self.words.get(word, 0) | 1 << index
        aspect = scene.width / scene.height
        # Distances of relations are measured in units of the height on both axes.
        self.x = [u * aspect for u in self.u]
        side = min(scene.height, scene.width)
        low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
        apart = np.maximum(low[:, None] - high[None], low[None] - high[:, None]).clip(min=0)
        self.gaps = (np.hypot(apart[..., 0], apart[..., 1]) / side).tolist()
        self._places = {name: self._grade(test) for name, test in _PLACES.items()}
        self._relations: dict[tuple[str, int], Meaning] = {}

    def _grade(self, test: Callable[[float, float], tuple[bool, bool]]) -> Meaning:
        sure = possible = 0
        for index, (u, v) in enumerate(zip(self.u, self.v, strict=True)):
            yes, perhaps = test(u, v)
            sure |= yes << index
            possible |= perhaps << index
        return sure, possible

    def members(self, mask: int) -> list[int]:
        """Indices of the things in a set."""
        return [index for index in range(self.count) if mask >> index & 1]

    def place(self, name: str) -> Meaning:
        """Things at an absolute place."""
        return self._places[name]

    def relation(self, name: str, anchor: int) -> Meaning:
        """Things that stand in a relation to thing ``anchor``."""
        key = (name, anchor)
        if key not in self._relations:
            sure = possible = 0
            for index in range(self.count):
                if index != anchor:
                    yes, perhaps = self._related(name, index, anchor)
                    sure |= yes << index
                    possible |= perhaps << index
            self._relations[key] = sure, possible
        return self._relations[key]

    def _related(self, name: str, index: int, anchor: int) -> tuple[bool, bool]:
        if name == "next to":
            gap = self.gaps[index][anchor]
            return gap <= GAP_SURE, gap < GAP_NOT
        dx, dy = self.x[index] - self.x[anchor], self.v[index] - self.v[anchor]
        along, across = (dx, dy) if name in ("left of", "right of") else (dy, dx)
        if name in ("left of", "above"):
            along = -along
        # Sure only within 40 degrees of the axis, impossible only on the other side.
        return along >= BESIDE_MARGIN and abs(across) <= 0.84 * along, along > 0.0

    def extreme(self, name: str, among: int) -> Meaning:
        """The one of a set that stands out, or those that could be meant when none clearly does."""
        members = self.members(among)
        if len(members) < 2:
            return 0, among  # "the biggest of one" is not said
        if name in SIZE_RATIO:
            sign = -1 if name.startswith("small") else 1
            keys = [self.diameters, self.extents]
            margin = float(np.log(SIZE_RATIO[name]))
            ranks = [[sign * float(np.log(key[i])) for i in members] for key in keys]
        else:
            sign = -1 if name in ("leftmost", "topmost") else 1
            axis = self.u if name in ("leftmost", "rightmost") else self.v
            margin = EXTREME_MARGIN
            ranks = [[sign * axis[i] for i in members]]
        best = ranks[0].index(max(ranks[0]))
        # Size is judged by diameter and by visible area; the same thing must win under both.
        clear = all(
            rank[best] - other >= share * margin
            for rank, share in zip(ranks, (1.0, 0.7), strict=False)
            for position, other in enumerate(rank)
            if position != best
        )
        winner = 1 << members[best]
        return (winner, winner) if clear else (0, among)


def _side(coordinate: float) -> tuple[bool, bool]:
    return coordinate <= SIDE_SURE, coordinate < SIDE_NOT


def _corner(a: float, b: float) -> tuple[bool, bool]:
    return max(a, b) <= CORNER_SURE, max(a, b) < CORNER_NOT


def _middle(u: float, v: float) -> tuple[bool, bool]:
    off = max(abs(u - 0.5), abs(v - 0.5))
    return off <= MIDDLE_SURE, off < MIDDLE_NOT


_PLACES: dict[str, Callable[[float, float], tuple[bool, bool]]] = {
    "left": lambda u, v: _side(u),
    "right": lambda u, v: _side(1 - u),
    "top": lambda u, v: _side(v),
    "bottom": lambda u, v: _side(1 - v),
    "middle": _middle,
    "top left": _corner,
    "top right": lambda u, v: _corner(1 - u, v),
    "bottom left": lambda u, v: _corner(u, 1 - v),
    "bottom right": lambda u, v: _corner(1 - u, 1 - v),
}


def meaning(description: Description, facts: Facts) -> Meaning:
    """Sets of things that are surely, and that are possibly, what the description speaks of."""
    alike = facts.everything
    for word in description.attributes:
        alike &= facts.words.get(word, 0)
    tail = description.tail
    if tail is None:
        return alike, alike
    if tail.kind in ("size", "superlative"):
        return facts.extreme(tail.value, alike)
    if tail.kind == "negation":
        rest = alike & ~facts.words.get(tail.value, 0)
        return rest, rest
    if tail.kind == "place":
        sure, possible = facts.place(tail.value)
    else:
        anchor = None if tail.anchor is None else refers_to(tail.anchor, facts)
        if anchor is None:
            return 0, alike
        sure, possible = facts.relation(tail.value, anchor)
    return alike & sure, alike & possible


def refers_to(description: Description, facts: Facts) -> int | None:
    """Index of the one thing meant, or None when that is none, several or doubtful."""
    sure, possible = meaning(description, facts)
    single = sure == possible and sure != 0 and sure & (sure - 1) == 0
    return sure.bit_length() - 1 if single else None

"""Make up a scene: which things, where, how big, in which colours, with exact visible masks.

Shapes: N things, H W picture pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from refer.shapes.drawing import F32, U8, Background, Thing, coverage, paint
from refer.shapes.vocabulary import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT,
    SHAPES,
    TEST_A_SHAPE,
    TEXTURES,
)

Rng = np.random.Generator
Look = tuple[str, str, str]  # colour, shape, texture

MIN_VISIBLE = 0.7  # of a thing's own mask
_COUNTS, _COUNT_WEIGHTS = (2, 3, 4, 5, 6), (0.25, 0.35, 0.22, 0.12, 0.06)
_TEXTURE_WEIGHTS = (0.4, 0.2, 0.2, 0.2)
_MAX_TILT = {"square": 22, "triangle": 28, "star": 36, "cross": 22, "hexagon": 30, "heart": 25}
_LIGHT_ACCENT = frozenset({"red", "green", "blue", "purple", "black"})


@dataclass(frozen=True)
class Scene:
    """Things in painting order with what is seen of them.

    ``masks`` bool [N, H, W] (visible part), ``boxes`` float64 [N, 4] xywh of the visible part in
    pixels, ``areas`` int64 [N] in pixels.
    """

    height: int
    width: int
    background: Background
    things: list[Thing]
    covers: list[tuple[F32, int, int]]
    masks: npt.NDArray[np.bool_]
    boxes: npt.NDArray[np.float64]
    areas: npt.NDArray[np.int64]

    def picture(self) -> U8:
        """uint8 RGB [H, W, 3]."""
        return paint(self.things, self.covers, self.background, (self.height, self.width))


def sample_scene(rng: Rng, split: str, height: int, width: int) -> Scene:
    """A scene that obeys the split's rule on held-out pairs and on what must be present.

    ``testA`` has at least two circles, ``testB`` at least two held-out pairs; the others show no
    held-out pair at all.
    """
    while True:
        looks = _looks(rng, split)
        things = _place(rng, looks, height, width)
        scene = things and _see(rng, things, height, width)
        if scene:
            return scene


def _looks(rng: Rng, split: str) -> list[Look]:
    count = int(rng.choice(_COUNTS, p=_COUNT_WEIGHTS))
    wanted = 2 + int(rng.random() < 0.4) if split in ("testA", "testB") else 0
    count = max(count, wanted + 1 if wanted else 2)
    looks: list[Look] = []
    held_out = sorted(HELD_OUT)
    while len(looks) < count:
        colour, shape, texture = _look(rng, looks)
        if len(looks) < wanted and split == "testA":
            shape = TEST_A_SHAPE
        if len(looks) < wanted and split == "testB":
            colour, shape = held_out[rng.integers(len(held_out))]
        if (colour, shape) not in HELD_OUT or split == "testB":
            looks.append((colour, shape, texture))
    return [looks[i] for i in rng.permutation(count)]


def _look(rng: Rng, others: list[Look]) -> Look:
    """A look; more than half share shape, colour or both with a thing already there."""
    colour = str(rng.choice(list(COLOURS)))
    shape = str(rng.choice(SHAPES))
    texture = str(rng.choice(TEXTURES, p=_TEXTURE_WEIGHTS))
    if others and rng.random() < 0.55:
        twin = others[rng.integers(len(others))]
        share = rng.random()
        if share < 0.7:
            shape = twin[1]
        if share > 0.45:
            colour = twin[0]
    return colour, shape, texture


def _place(rng: Rng, looks: list[Look], height: int, width: int) -> list[Thing] | None:
    """Radii and centres, mildly overlapping at most; None when the things did not fit."""
    side = min(height, width)
    largest = (0.28, 0.26, 0.24, 0.21, 0.19)[len(looks) - 2]
    radii = side * np.exp(rng.uniform(np.log(0.13), np.log(largest), len(looks)))
    placed: list[tuple[float, float, float]] = []
    for radius in radii:
        for _ in range(30):
            reach = 1.05 * radius + 2
            x, y = rng.uniform(reach, width - reach), rng.uniform(reach, height - reach)
            if all(np.hypot(x - a, y - b) > 0.88 * (radius + r) for a, b, r in placed):
                placed.append((float(x), float(y), float(radius)))
                break
        else:
            return None
    return [_dress(rng, look, spot, side) for look, spot in zip(looks, placed, strict=True)]


def _dress(rng: Rng, look: Look, spot: tuple[float, float, float], side: int) -> Thing:
    colour, shape, texture = look
    x, y, radius = spot
    # A tint shows most on white and black.
    jitter = 6 if colour in ("white", "black") else 14
    fill = np.clip(np.array(COLOURS[colour]) + rng.integers(-jitter, jitter + 1, 3), 0, 255)
    goal, blend = (255, 0.68) if colour in _LIGHT_ACCENT else (0, 0.5)
    accent = fill + blend * (goal - fill)
    tilt = _MAX_TILT.get(shape, 0)
    fineness = {"striped": 0.52, "dotted": 0.44, "checked": 0.7}.get(texture, 1.0)
    period = radius * fineness * rng.uniform(0.87, 1.15)
    period = float(np.clip(period, max(4.0, side / 32), side * 26 / 256))
    return Thing(
        shape, colour, texture, x, y, radius,
        angle=float(rng.uniform(-tilt, tilt)),
        fill=(int(fill[0]), int(fill[1]), int(fill[2])),
        accent=(int(accent[0]), int(accent[1]), int(accent[2])),
        period=period,
        grain=float(rng.uniform(0, 180)),
    )  # fmt: skip


def _see(rng: Rng, things: list[Thing], height: int, width: int) -> Scene | None:
    """Masks after occlusion; None when too little is left of a thing."""
    covers = [coverage(thing, height, width) for thing in things]
    whole = np.zeros((len(things), height, width), np.bool_)
    for mask, (cover, top, left) in zip(whole, covers, strict=True):
        mask[top : top + cover.shape[0], left : left + cover.shape[1]] = cover >= 0.5
    masks = whole.copy()
    hidden = np.zeros((height, width), np.bool_)
    for index in reversed(range(len(things))):
        masks[index] &= ~hidden
        hidden |= whole[index]
    areas = masks.sum(axis=(1, 2))
    if (areas < MIN_VISIBLE * whole.sum(axis=(1, 2))).any():
        return None
    boxes = np.array([_box(mask) for mask in masks])
    return Scene(height, width, _background(rng), things, covers, masks, boxes, areas)


def _box(mask: npt.NDArray[np.bool_]) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = float(rows[0]), float(columns[0])
    return left, top, float(columns[-1]) + 1 - left, float(rows[-1]) + 1 - top


def _background(rng: Rng) -> Background:
    def tone() -> tuple[int, int, int]:
        grey, tint = rng.integers(95, 165), rng.integers(-20, 21, 3)
        return int(grey + tint[0]), int(grey + tint[1]), int(grey + tint[2])

    kind = str(rng.choice(BACKGROUNDS))
    tones = (tone(), tone())
    return Background(kind, tones, float(rng.uniform(0, 360)), int(rng.integers(2**31)))

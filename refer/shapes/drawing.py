"""Paint a scene: exact coverage of every shape by supersampling, then texture and background.

Shapes: H W picture pixels, P Q pixels of a patch around one thing.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]

SUPERSAMPLING = 4
_FRACTION_BITS = 4  # fillPoly takes fixed-point corners: 1/16 of a supersampled pixel


@dataclass(frozen=True)
class Thing:
    """One object: what it is (words) and how it is drawn (pixels, degrees, RGB 0 to 255)."""

    shape: str
    colour: str
    texture: str
    x: float
    y: float
    radius: float
    angle: float
    fill: tuple[int, int, int]
    accent: tuple[int, int, int]
    period: float
    grain: float


@dataclass(frozen=True)
class Background:
    """Kind and two muted tones; ``seed`` feeds the noise kind, ``angle`` (degrees) the others."""

    kind: str
    tones: tuple[tuple[int, int, int], tuple[int, int, int]]
    angle: float
    seed: int


def _turn(count: int, start: float = -90.0) -> npt.NDArray[np.float64]:
    angles = np.deg2rad(start + np.arange(count) * 360.0 / count)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _outlines() -> dict[str, list[npt.NDArray[np.float64]]]:
    """Closed contours [N, 2] of every shape in a unit circle, y down; a second one is a hole."""
    star = _turn(10)
    star[1::2] *= 0.45
    arm = 0.34
    cross = np.array(
        [
            (-arm, -1), (arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm),
            (arm, 1), (-arm, 1), (-arm, arm), (-1, arm), (-1, -arm), (-arm, -arm),
        ]
    )  # fmt: skip
    t = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    heart_y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    heart = np.stack([16 * np.sin(t) ** 3, -heart_y - 2.5], axis=1) / 16.0
    return {
        "circle": [_turn(96) * 0.94],
        "square": [_turn(4, -135.0) * 1.15],
        "triangle": [_turn(3) * 1.12 + np.array([0.0, 0.2])],
        "star": [star * 1.08],
        "cross": [cross * 0.95],
        "ring": [_turn(96) * 0.97, _turn(96) * 0.52],
        "hexagon": [_turn(6, 0.0)],
        "heart": [heart],
    }


_OUTLINES = _outlines()


def coverage(thing: Thing, height: int, width: int) -> tuple[F32, int, int]:
    """Part of every pixel the thing covers: float32 [P, Q] in [0, 1] and the patch's top and left.

    The patch is cut at the picture's border.
    """
    reach = 1.25 * thing.radius + 2
    left, top = max(0, int(thing.x - reach)), max(0, int(thing.y - reach))
    right, bottom = min(width, int(thing.x + reach) + 1), min(height, int(thing.y + reach) + 1)
    turn = np.deg2rad(thing.angle)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    centre = np.array([thing.x - left, thing.y - top])
    fixed = SUPERSAMPLING * (1 << _FRACTION_BITS)
    contours = []
    for outline in _OUTLINES[thing.shape]:
        # Pixel centres sit at integers in fillPoly, at halves in our picture coordinates.
        corners = (outline @ rotation * thing.radius + centre) * fixed - (1 << _FRACTION_BITS) / 2
        contours.append(np.rint(corners).astype(np.int32))
    fine = np.zeros(((bottom - top) * SUPERSAMPLING, (right - left) * SUPERSAMPLING), np.uint8)
    cv2.fillPoly(fine, contours, 255, cv2.LINE_8, _FRACTION_BITS)
    patch = cv2.resize(fine, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
    return patch.astype(np.float32) / 255.0, top, left


def texture_weight(thing: Thing, top: int, left: int, shape: tuple[int, int]) -> F32 | None:
    """Share of the accent colour in every patch pixel: float32 [P, Q] in [0, 1]; None if plain."""
    if thing.texture == "plain":
        return None
    rows = np.arange(shape[0], dtype=np.float32)[:, None] + np.float32(top + 0.5 - thing.y)
    columns = np.arange(shape[1], dtype=np.float32)[None, :] + np.float32(left + 0.5 - thing.x)
    turn = np.deg2rad(thing.grain)
    scale = np.float32(2 * np.pi / thing.period)
    u = (columns * np.float32(np.cos(turn)) + rows * np.float32(np.sin(turn))) * scale
    if thing.texture == "striped":
        wave = np.sin(u)
    else:
        v = (rows * np.float32(np.cos(turn)) - columns * np.float32(np.sin(turn))) * scale
        # A bump per lattice cell for dots; a product of sines changes sign from square to square.
        wave = np.cos(u) + np.cos(v) - 0.75 if thing.texture == "dotted" else np.sin(u) * np.sin(v)
    softness = np.float32(thing.period / 4.0)  # the edge of a stripe is about one pixel wide
    return np.clip(wave * softness + 0.5, 0.0, 1.0).astype(np.float32)


def paint_background(background: Background, height: int, width: int) -> F32:
    """float32 [H, W, 3] in 0 to 255."""
    first, second = (np.array(tone, np.float32) for tone in background.tones)
    if background.kind == "noise":
        rng = np.random.default_rng(background.seed)
        # Grains of a sixteenth and of a 128th of the side, whatever the picture's size.
        side = min(height, width)
        coarse = rng.random((16 * height // side, 16 * width // side), dtype=np.float32)
        fine = rng.random((128 * height // side, 128 * width // side), dtype=np.float32)
        weight = 0.7 * cv2.resize(coarse, (width, height)) + 0.3 * cv2.resize(fine, (width, height))
    else:
        turn = np.deg2rad(background.angle)
        rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None] * np.float32(np.sin(turn))
        columns = np.linspace(-1, 1, width, dtype=np.float32)[None, :] * np.float32(np.cos(turn))
        along = rows + columns
        if background.kind == "gradient":
            weight = along * np.float32(0.36) + np.float32(0.5)
        elif background.kind == "two-tone":
            weight = np.clip(along * 60 + 0.5, 0, 1)
        else:  # stripes: half the contrast, so that they pass for no texture of a thing
            weight = 0.25 + 0.5 * np.clip(np.sin(along * 14) * 4 + 0.5, 0, 1)
    return first + weight[..., None] * (second - first)


def paint(
    things: list[Thing],
    covers: list[tuple[F32, int, int]],
    background: Background,
    size: tuple[int, int],
) -> U8:
    """The picture, uint8 RGB [H, W, 3]; later things lie over earlier ones."""
    height, width = size
    canvas = paint_background(background, height, width)
    for thing, (cover, top, left) in zip(things, covers, strict=True):
        patch = canvas[top : top + cover.shape[0], left : left + cover.shape[1]]
        weight = texture_weight(thing, top, left, cover.shape)
        colour: F32 = np.array(thing.fill, np.float32)
        if weight is not None:
            colour = colour + weight[..., None] * (np.array(thing.accent, np.float32) - colour)
        patch += cover[..., None] * (colour - patch)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)

"""Drawing masks on pictures: colours told apart with any colour vision, a legend, outlines.

Shapes: H W pixels of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from ris import lettering

# Okabe and Ito's palette, black left out: distinct under every common colour-vision deficiency.
PALETTE = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
ALPHA = 0.35  # of the fill
DIM = 0.45  # brightness left outside the masks


def overlay(
    picture: np.ndarray,
    masks: Sequence[np.ndarray | None],
    labels: Sequence[str],
    truths: Sequence[np.ndarray] = (),
    boxes: Sequence[np.ndarray | None] = (),
    truth_boxes: Sequence[np.ndarray] = (),
) -> Image.Image:
    """Tint and outline each mask, dim the rest, draw each box, and write the legend below.

    Args:
        picture: uint8 [H, W, 3] RGB.
        masks: bool or {0, 1} [H, W] each, or None where there is none.
        labels: one expression a mask.
        truths: optional true masks, drawn as white outlines.
        boxes: optional boxes, xyxy in pixels, one a mask or None, in the masks' colours.
        truth_boxes: optional true boxes, in white.

    Returns:
        RGB picture with the legend below; small pictures are enlarged to about 256 pixels.
    """
    factor = max(1, round(256 / picture.shape[1]))
    picture = _enlarged(picture, factor)
    drawn_masks = [None if mask is None else _enlarged(mask, factor) for mask in masks]
    canvas = picture.astype(np.float32)
    there = [mask.astype(bool) for mask in drawn_masks if mask is not None]
    if there:
        # Dimmed around the masks: no fill colour stands out from every picture.
        canvas[~np.any(there, axis=0)] *= DIM
    colours = [PALETTE[index % len(PALETTE)] for index in range(len(masks))]
    for drawn_mask, colour in zip(drawn_masks, colours, strict=True):
        if drawn_mask is not None:
            inside = drawn_mask.astype(bool)
            canvas[inside] = (1 - ALPHA) * canvas[inside] + ALPHA * np.array(colour)
    # OpenCV draws into row-major memory only.
    drawn = np.ascontiguousarray(canvas.round().clip(0, 255).astype(np.uint8))
    thickness = max(1, round(max(drawn.shape[:2]) / 256))
    for drawn_mask, colour in zip(drawn_masks, colours, strict=True):
        if drawn_mask is not None:
            _outline(drawn, drawn_mask, colour, thickness)
    for truth in truths:
        _outline(drawn, _enlarged(truth, factor), (255, 255, 255), thickness)
    for true in truth_boxes:
        _frame(drawn, true * factor, (255, 255, 255), thickness)
    for box, colour in zip(boxes, colours, strict=False):
        if box is not None and not np.isnan(box).any():
            _frame(drawn, box * factor, colour, 2 * thickness)
    return _with_legend(Image.fromarray(drawn), list(zip(labels, colours, strict=True)))


def sheet(tiles: Sequence[Image.Image], columns: int) -> Image.Image:
    """The tiles side by side, `columns` a row, on white."""
    width = max(tile.width for tile in tiles)
    height = max(tile.height for tile in tiles)
    rows = -(-len(tiles) // columns)
    page = Image.new("RGB", (columns * (width + 8) + 8, rows * (height + 8) + 8), "white")
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        page.paste(tile, (8 + column * (width + 8), 8 + row * (height + 8)))
    return page


def _enlarged(array: np.ndarray, factor: int) -> np.ndarray:
    """Every pixel `factor` times in both directions."""
    return array.repeat(factor, axis=0).repeat(factor, axis=1)


def _outline(
    drawn: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int], thickness: int
) -> None:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, contours, -1, colour, thickness)


def _frame(
    drawn: np.ndarray, box: np.ndarray, colour: tuple[int, int, int], thickness: int
) -> None:
    """A box xyxy, far edges exclusive; sides outside the picture run along its edge."""
    height, width = drawn.shape[:2]
    x1, y1, x2, y2 = np.round(box).astype(int)
    low = min(max(x1, 0), width - 1), min(max(y1, 0), height - 1)
    high = min(max(x2 - 1, 0), width - 1), min(max(y2 - 1, 0), height - 1)
    cv2.rectangle(drawn, low, high, colour, thickness)


def _with_legend(
    picture: Image.Image, entries: Sequence[tuple[str, tuple[int, int, int]]]
) -> Image.Image:
    width = max(picture.width, 256)
    size = max(12, width // 40)
    line = round(size * 1.4)
    rows = [(lettering.lines(label, size, width - 2 * line), colour) for label, colour in entries]
    height = sum(len(lines) for lines, _ in rows) * line + 6
    page = Image.new("RGB", (width, picture.height + height), "white")
    page.paste(picture, (0, 0))
    draw = ImageDraw.Draw(page)
    top = picture.height + 3
    for lines, colour in rows:
        draw.rectangle((4, top + 2, 4 + size, top + 2 + size), fill=colour)
        for text in lines:
            draw.text((10 + size, top), text, fill="black", font=lettering.font(size))
            top += line
    return page

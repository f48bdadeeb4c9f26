"""A sheet of where each word of an expression looked.

Shapes: H W pixels of a tile, h w cells of an attention map.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image, ImageDraw

from ris import lettering
from ris.prediction import Prediction
from ris.visual import sheet

SIDE = 224  # longer side of a tile's picture
COLUMNS = 6
LINE, LETTER = 20, 14
SHARE = 0.6  # of the colours; the rest is the picture in grey


def word_sheet(picture: Image.Image, found: Prediction) -> Image.Image:
    """One tile a word, expressions below each other, special tokens left out.

    A tile goes from the word's least (dark) to its highest value (yellow), which stands below it:
    the share of attention that a cell gives the word, in percent. `found` must hold attention.
    """
    scale = SIDE / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    small = picture.resize((width, height))
    parts = []
    for index, expression in enumerate(found.expressions):
        tiles = [_tile(small, word, looked) for word, looked in found.words(index)]
        tiles = tiles or [small]  # an expression of characters that CLIP leaves out
        page = sheet(tiles, min(COLUMNS, len(tiles)))
        parts.append(_titled(page, expression))
    whole = Image.new(
        "RGB", (max(part.width for part in parts), sum(part.height for part in parts)), "white"
    )
    top = 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height
    return whole


def _tile(picture: Image.Image, word: str, looked: np.ndarray) -> Image.Image:
    low, high = float(looked.min()), float(looked.max())
    level = (looked - low) / (high - low) if high > low else np.zeros_like(looked)
    # The map covers the whole picture, whatever its aspect.
    level = cv2.resize(level.astype(np.float32), picture.size, interpolation=cv2.INTER_LINEAR)
    grey = (level * 255).round().clip(0, 255).astype(np.uint8)
    colours = cv2.applyColorMap(grey, cv2.COLORMAP_VIRIDIS)[..., ::-1]
    behind = np.asarray(picture.convert("L"))[..., None]
    drawn = SHARE * colours + (1 - SHARE) * behind
    tile = Image.new("RGB", (picture.width, picture.height + LINE), "white")
    tile.paste(Image.fromarray(drawn.round().astype(np.uint8)), (0, 0))
    _write(tile, (2, picture.height + 2), f"{word}  {100 * high:.0f} %")
    return tile


def _titled(page: Image.Image, title: str) -> Image.Image:
    drawn = Image.new("RGB", (page.width, page.height + LINE), "white")
    drawn.paste(page, (0, LINE))
    _write(drawn, (8, 4), title)
    return drawn


def _write(picture: Image.Image, place: tuple[int, int], text: str) -> None:
    (line,) = lettering.lines(text, LETTER, picture.width - place[0], most=1)
    ImageDraw.Draw(picture).text(place, line, fill="black", font=lettering.font(LETTER))

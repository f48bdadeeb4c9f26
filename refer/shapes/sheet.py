"""A contact sheet: pictures, each with the sentences of one ref below and its mask outlined."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco_mask

from refer.readers.pickles import load_refs
from refer.shapes.drawing import U8

_CELL = 256  # width of one picture on the sheet
_COLUMNS = 6
_LINE = 15
_LINES = 5
_CHARACTERS = 40  # a line of text


def sheet(
    root: str | os.PathLike[str],
    split: str,
    n: int,
    out_png: str | os.PathLike[str],
    *,
    first: int = 0,
) -> None:
    """Draw the first ref of ``n`` pictures of a split, starting at picture ``first``, to a PNG.

    The mask is outlined in black and white, so that it shows on every colour. Raises ValueError
    when the split has no picture there.
    """
    root = Path(root)
    instances = json.loads((root / "refshapes" / "instances.json").read_text(encoding="utf-8"))
    images = {image["id"]: image for image in instances["images"]}
    annotations = {annotation["id"]: annotation for annotation in instances["annotations"]}
    firsts: dict[int, dict[str, Any]] = {}
    for ref in load_refs(root / "refshapes" / "refs(unc).p"):
        if ref["split"] == split:
            firsts.setdefault(ref["image_id"], ref)
    refs = list(firsts.values())[first : first + n]
    if not refs:
        raise ValueError(
            f"split {split!r} of {root} has no picture number {first}; it has {len(firsts)}"
        )
    folder = root / "images" / "refshapes"
    cells = [
        _cell(
            folder / images[ref["image_id"]]["file_name"],
            annotations[ref["ann_id"]],
            [sentence["sent"] for sentence in ref["sentences"]],
        )
        for ref in refs
    ]
    _grid(cells).save(out_png)


def _cell(path: Path, annotation: dict[str, Any], sentences: list[str]) -> Image.Image:
    with Image.open(path) as opened:
        size = (_CELL, round(_CELL * opened.height / opened.width))
        pixels = np.array(opened.convert("RGB").resize(size))
    mask = coco_mask.decode(annotation["segmentation"])[..., 0]
    mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
    picture = Image.fromarray(outline(pixels, mask))
    cell = Image.new("RGB", (_CELL, picture.height + _LINE * _LINES), "white")
    cell.paste(picture)
    draw, font = ImageDraw.Draw(cell), ImageFont.load_default(12)
    for number, line in enumerate(_wrap(sentences)[:_LINES]):
        draw.text((3, picture.height + 1 + number * _LINE), line, "black", font)
    return cell


def outline(picture: U8, mask: U8) -> U8:
    """The picture (uint8 RGB [H, W, 3]) with the border of a 0/1 mask [H, W] drawn over it."""
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    drawn = picture.copy()
    cv2.drawContours(drawn, contours, -1, (255, 255, 255), 3)
    cv2.drawContours(drawn, contours, -1, (0, 0, 0), 1)
    return drawn


def _wrap(sentences: list[str]) -> list[str]:
    lines: list[str] = []
    for sentence in sentences:
        line = "-"
        for word in sentence.split():
            if len(line) + len(word) >= _CHARACTERS:
                lines.append(line)
                line = " "
            line += " " + word
        lines.append(line)
    return lines


def _grid(cells: list[Image.Image]) -> Image.Image:
    gap, height = 6, max(cell.height for cell in cells)
    columns = min(_COLUMNS, len(cells))
    rows = -(-len(cells) // columns)
    page = Image.new("RGB", (columns * (_CELL + gap) + gap, rows * (height + gap) + gap), "grey")
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        page.paste(cell, (gap + column * (_CELL + gap), gap + row * (height + gap)))
    return page

"""Text in pictures: a font that has more than English letters, and lines that fit."""

from __future__ import annotations

import textwrap
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@lru_cache
def font(size: int) -> Font:
    """DejaVu Sans (Latin, Greek, Cyrillic and more), which comes with matplotlib; Pillow's own font
    has not even umlauts."""
    spec = find_spec("matplotlib")  # not imported: its own start-up is slow
    if spec is not None and spec.origin is not None:
        file = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if file.is_file():
            return ImageFont.truetype(str(file), size)
    return ImageFont.load_default(size)


def lines(text: str, size: int, width: int, most: int = 3) -> list[str]:
    """`text` in at most `most` lines of `width` pixels in `font(size)`; the rest becomes '…'."""
    letters = max(8, int(width / (size * 0.58)))
    found = textwrap.wrap(text, letters, max_lines=most, placeholder=" …") or [""]
    # Of a single word that is too long nothing would be left.
    return [f"{text.strip()[: letters - 1]}…"] if found == ["…"] else found

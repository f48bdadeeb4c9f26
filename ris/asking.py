"""What the web page does between an upload and its answer; knows nothing of web pages.

Shapes: H W pixels of the picture.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from refer.errors import ReferError
from refer.pictures import open_picture
from ris.errors import OptionError
from ris.visual import overlay

# A probability map of every expression is held at the picture's size; a phone's photo of 50
# megapixels with sixteen of them would not fit into memory.
MAX_SIDE = 2048
MAX_PIXELS = 64_000_000  # decoded, before it is scaled down: a file of 100 kB may hold more
MAX_EXPRESSIONS = 16
MAX_LETTERS = 500  # of one expression; models read 16 to 77 tokens


@dataclass(frozen=True)
class Answer:
    """The picture with the masks drawn, and a row for each expression: text, answer, score."""

    picture: Image.Image
    rows: list[list[str]]


class Asker:
    """Answers (picture file, expressions) with one predictor, one request at a time.

    The picture asked last stays encoded: further expressions cost no VAE pass.

    Args:
        predictor: a `ris.Predictor`, or anything with its `set_image`, `predict`, `picture`.
    """

    def __init__(self, predictor: Any) -> None:
        self._predictor = predictor
        self._lock = threading.Lock()
        self._hash = ""

    def ask(self, path: str | Path | None, text: str | None) -> Answer:
        """Ask every line of `text` of the picture at `path`.

        A picture longer than `MAX_SIDE` is scaled down first. Raises OptionError where there is no
        picture, no expression, or too many; refer.PictureError for a file that is no whole picture.
        Messages name the file and not its folder, which is the server's own affair.
        """
        if not path:
            raise OptionError("there is no picture; drop one on the left")
        expressions = expressions_of(text)
        path = Path(path)
        try:
            picture = open_picture(path, orient="exif", max_pixels=MAX_PIXELS)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except ReferError as error:
            raise type(error)(str(error).replace(str(path), path.name)) from error
        picture.thumbnail((MAX_SIDE, MAX_SIDE))
        with self._lock:
            if digest != self._hash:
                self._hash = ""  # a failure half-way leaves no picture that is thought to be set
                self._predictor.set_image(picture)
                self._hash = digest
            found = self._predictor.predict(expressions)
        phrases = found.expressions  # of a caption with [phrases] there are several
        nothing = [False] * len(phrases)
        if found.no_target is not None:
            nothing = [bool(share > 0.5) for share in found.no_target]
        labels = [
            f"{text} (nothing here)" if none else text
            for text, none in zip(phrases, nothing, strict=True)
        ]
        rows = [self._row(found, index, none) for index, none in enumerate(nothing)]
        masks = list(found.masks) if found.has_masks else [None] * len(labels)
        boxes = list(found.boxes) if found.has_boxes else []
        return Answer(overlay(np.asarray(picture), masks, labels, boxes=boxes), rows)

    def _row(self, found: Any, index: int, nothing: bool) -> list[str]:
        if nothing:
            said, score = "nothing here", f"{100 * found.no_target[index]:.0f} % sure"
        elif not found.has_masks:
            said, score = "", ""
        elif not found.masks[index].any():
            said, score = "no pixel found", ""
        else:
            said = f"{100 * found.masks[index].mean():.1f} % of the picture"
            score = f"{found.scores[index]:.2f}"
        if found.has_boxes:
            box = "box " + ", ".join(f"{side:.0f}" for side in found.boxes[index])
            said = f"{box}; {said}" if said else box
        if found.truncated[index]:
            said += ", asked with its end cut off"
        return [found.expressions[index], said, score]


def expressions_of(text: str | None) -> list[str]:
    """The lines of `text` that hold something, in order. Raises OptionError: none, or too many."""
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    if not lines:
        raise OptionError("there is no expression; type one a line, such as: the dog on the left")
    if len(lines) > MAX_EXPRESSIONS:
        raise OptionError(f"{len(lines)} expressions at once; ask at most {MAX_EXPRESSIONS}")
    longest = max(map(len, lines))
    if longest > MAX_LETTERS:
        raise OptionError(f"an expression has {longest} letters; want at most {MAX_LETTERS}")
    return lines

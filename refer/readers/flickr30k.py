"""Flickr30k Entities as released: `Sentences/<id>.txt`, `Annotations/<id>.xml`, `<split>.txt`.

Source: the format notes and the parser of github.com/BryanPlummer/flickr30k_entities. A phrase is
marked in its sentence as `[/EN#<chain>/<type>/<type>... words]`; the annotations give each chain
its boxes. A chain may have several boxes, an object may belong to several chains, and scenes, chain
0 ("notvisual") and chains marked as without box have none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple
from xml.etree.ElementTree import Element

from refer.errors import DataFileError, UnknownNameError
from refer.files import read_text
from refer.readers.phrases import Box, Phrase, PhraseRecord, fit_boxes
from refer.readers.safe_xml import parse_xml

SPLITS = ("train", "val", "test")
Offset = Literal[-1, 0]
_OPENING = re.compile(r"\[/EN#(\d+)((?:/[A-Za-z]+)+)")
_NOT_VISUAL = "0"


class Marked(NamedTuple):
    """A marked phrase: its span [start, end) in the bare caption, its chain and types."""

    start: int
    end: int
    chain: str
    types: tuple[str, ...]


@dataclass
class Annotations:
    """What an XML file says: size in pixels, boxes xyxy by chain, and the chains without any."""

    width: int
    height: int
    boxes: dict[str, list[Box]] = field(default_factory=dict)
    scenes: set[str] = field(default_factory=set)
    unboxed: set[str] = field(default_factory=set)


def parse_caption(line: str) -> tuple[str, list[Marked]]:
    """The bare caption, its words parted by single blanks, and the phrases marked in it.

    Raises ValueError for a mark within a mark, without end, of another form, or without words.
    """
    words: list[str] = []
    phrases: list[Marked] = []
    length = 0  # of the caption so far, with the blank before the next word
    opened: tuple[int, str, tuple[str, ...]] | None = None
    for token in line.split():
        if token.startswith("[/EN#"):
            mark = _OPENING.fullmatch(token)
            if mark is None or opened is not None:
                raise ValueError(f"the mark {token!r} is not [/EN#<chain>/<type>..., or within one")
            opened = length, mark[1], tuple(mark[2].split("/")[1:])
            continue
        if "[/EN#" in token:
            raise ValueError(f"the mark in {token!r} does not begin a word")
        closes = opened is not None and token.endswith("]")
        word = token[:-1] if closes else token
        if word:
            words.append(word)
            length += len(word) + 1
        if opened is not None and closes:
            start, chain, types = opened
            if length == start:
                raise ValueError(f"the phrase of chain {chain} has no words")
            phrases.append(Marked(start, length - 1, chain, types))
            opened = None
    if opened is not None:
        raise ValueError(f"the phrase of chain {opened[1]} has no end")
    return " ".join(words), phrases


def load_annotations(path: Path, offset: Offset = -1) -> Annotations:
    """Read an XML file; boxes are as stored plus `offset`, nothing is cut.

    Stored coordinates count from 1. `offset` -1 is what the current official parser does to all
    four; 0 leaves them, as MDETR's older copy of it. Raises MissingDataError and DataFileError.
    """
    if offset not in (-1, 0):
        raise UnknownNameError(f"offset is {offset!r}; want -1 or 0")
    root = parse_xml(path)
    try:
        found = Annotations(_whole(root, "size/width"), _whole(root, "size/height"))
        for thing in root.iter("object"):
            chains = [(name.text or "").strip() for name in thing.findall("name")]
            if not all(chains) or not chains:
                raise ValueError("an object without name")
            box = thing.find("bndbox")
            for chain in chains:
                if box is not None:
                    x1, y1, x2, y2 = (
                        _whole(box, side) + offset for side in ("xmin", "ymin", "xmax", "ymax")
                    )
                    found.boxes.setdefault(chain, []).append((x1, y1, x2, y2))
                if _flag(thing, "scene"):
                    found.scenes.add(chain)
                if _flag(thing, "nobndbox"):
                    found.unboxed.add(chain)
    except ValueError as error:
        raise DataFileError(f"{path}: {error}; fetch it again") from error
    return found


def split_lists(folder: Path, splits: Sequence[str] = SPLITS) -> dict[str, list[str]]:
    """Picture ids of each split, from `<split>.txt`.

    Raises MissingDataError, and DataFileError for an id that is no number or that occurs twice: a
    picture of two splits would be trained on and scored.
    """
    lists: dict[str, list[str]] = {}
    owner: dict[str, str] = {}
    for split in splits:
        path = folder / f"{split}.txt"
        lists[split] = read_text(path, _missing(path)).split()
        for image_id in lists[split]:
            if not re.fullmatch(r"[0-9]+", image_id):
                raise DataFileError(f"{path}: {image_id[:40]!r} is no picture id; want a number")
            if image_id in owner:
                raise DataFileError(
                    f"{path}: picture {image_id} is listed in {owner[image_id]} already"
                )
            owner[image_id] = split
    return lists


def flickr30k_phrases(
    folder: Path,
    splits: Sequence[str] = SPLITS,
    offset: Offset = -1,
    notes: Counter[str] | None = None,
) -> Iterator[PhraseRecord]:
    """The captions of `folder` (with Sentences/, Annotations/, <split>.txt) in the common format.

    A record's id is flickr30k/<picture>/<line of the caption, from 0>. `notes` counts what was cut,
    dropped or left without a box. Raises MissingDataError, DataFileError (naming file and line).
    """
    notes = Counter() if notes is None else notes
    for split, image_ids in split_lists(folder, splits).items():
        for image_id in image_ids:
            path = folder / "Sentences" / f"{image_id}.txt"
            found = load_annotations(folder / "Annotations" / f"{image_id}.xml", offset)
            for number, line in enumerate(_lines(path)):
                if not line.strip():
                    notes["empty captions left out"] += 1
                    continue
                try:
                    caption, marked = parse_caption(line)
                except ValueError as error:
                    raise DataFileError(f"{path}, line {number + 1}: {error}") from error
                yield PhraseRecord(
                    id=f"flickr30k/{image_id}/{number}",
                    source="flickr30k",
                    split=split,
                    image_id=image_id,
                    file_name=f"{image_id}.jpg",
                    width=found.width,
                    height=found.height,
                    caption=caption,
                    phrases=tuple(_phrase(mark, found, notes) for mark in marked),
                )


def _phrase(mark: Marked, found: Annotations, notes: Counter[str]) -> Phrase:
    own = [] if mark.chain == _NOT_VISUAL else found.boxes.get(mark.chain, [])
    fitted = fit_boxes(own, found.width, found.height)
    notes["boxes cut at an edge"] += fitted.clipped
    notes["empty boxes dropped"] += fitted.dropped
    if not fitted.boxes:
        if mark.chain == _NOT_VISUAL:
            reason = "not visual"
        elif mark.chain in found.scenes:
            reason = "scene"
        elif mark.chain in found.unboxed:
            reason = "marked so"
        else:
            reason = "not annotated"
        notes[f"phrases without box: {reason}"] += 1
    return Phrase(mark.start, mark.end, fitted.boxes, mark.types, mark.chain)


def _lines(path: Path) -> list[str]:
    # As a file opened for text: other systems' line ends are line ends too.
    text = read_text(path, _missing(path)).replace("\r\n", "\n").replace("\r", "\n")
    return text.removesuffix("\n").split("\n")


def _missing(path: Path) -> str:
    return f"no {path}; it comes with Flickr30k Entities"


def _whole(parent: Element, name: str) -> int:
    text = parent.findtext(name, "").strip()
    if not re.fullmatch(r"[+-]?[0-9]{1,9}", text):
        raise ValueError(f"<{name}> is {text[:40]!r}, want a whole number of pixels")
    return int(text)


def _flag(parent: Element, name: str) -> bool:
    text = parent.findtext(name, "0").strip()
    if text not in ("0", "1"):
        raise ValueError(f"<{name}> is {text[:40]!r}, want 0 or 1")
    return text == "1"

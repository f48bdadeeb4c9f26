"""The common format of phrases and their boxes: one JSON-lines file, whatever the source.

The first line says what the file is; any other entries tell where it comes from:

    {"format": "phrases", "version": 1, "n_records": 2, "source": "flickr30k", ...}

Then comes one line a caption (a referring expression is a caption with one phrase, itself):

    {"id": "flickr30k/1234/0",           unique in the file; results are named by it
     "source": "flickr30k",
     "split": "val",
     "image_id": "1234",                 str or int, as the source has it
     "file_name": "1234.jpg",            relative to the picture folder
     "width": 500, "height": 375,        pixels that the boxes are for
     "caption": "Two dogs chase a ball .",
     "phrases": [{"start": 0, "end": 8,  caption[start:end], counted in characters (code points)
                  "boxes": [[x1, y1, x2, y2], ...],
                  "types": ["animals"],  may be absent
                  "chain": "11",         the entity it names, may be absent
                  "mask": "PPYo0..."}]}  pixels of all it names, may be absent: the counts of a
                                         compressed COCO RLE of the picture's height and width

Boxes are in pixels, continuous: x1 < x2, y1 < y2, 0 and the picture's width or height the outermost
edges. A phrase may have several boxes, or none (a scene, a word that shows nothing): such a phrase
is kept, so that captions stay whole, and is neither trained on nor scored.

The words of a phrase are not stored beside its span, so that the two cannot disagree.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import Any, NamedTuple

import msgspec

from refer.errors import DataFileError
from refer.files import read_file, written_beside

FORMAT = "phrases"
VERSION = 1
Box = tuple[float, float, float, float]


class Phrase(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """A span of a caption and what it names; see the format above."""

    start: int
    end: int
    boxes: tuple[Box, ...]
    types: tuple[str, ...] = ()
    chain: str | None = None
    mask: str | None = None


class PhraseRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A caption of a picture with its phrases; see the format above."""

    id: str
    source: str
    split: str
    image_id: int | str
    file_name: str
    width: int
    height: int
    caption: str
    phrases: tuple[Phrase, ...]

    def text(self, phrase: Phrase) -> str:
        """The words of one of its phrases."""
        return self.caption[phrase.start : phrase.end]

    def scored(self) -> list[tuple[str, int]]:
        """(id, position) of each phrase that has a box, as an evaluator names it."""
        return [(self.id, index) for index, phrase in enumerate(self.phrases) if phrase.boxes]


@dataclass(frozen=True)
class PhraseFile:
    """What a file holds: its header, its records in file order, sha256 (hex) of its bytes."""

    header: dict[str, Any]
    records: list[PhraseRecord]
    data_hash: str


class Fitted(NamedTuple):
    """Boxes made to fit a picture: those left, how many were cut at an edge, how many dropped."""

    boxes: tuple[Box, ...]
    clipped: int
    dropped: int


def fit_boxes(boxes: Iterable[Iterable[float]], width: int, height: int) -> Fitted:
    """Cut boxes xyxy at the edges of the picture and drop those with nothing left, NaN included.

    Sources hold boxes outside of their picture and empty ones; an empty one cannot be met at any
    IoU, and training on it divides by zero.
    """
    kept: list[Box] = []
    clipped = dropped = 0
    for x1, y1, x2, y2 in boxes:
        inside = (max(x1, 0.0), max(y1, 0.0), min(x2, width), min(y2, height))
        # Asked this way round, comparisons with NaN drop the box.
        if not (inside[0] < inside[2] and inside[1] < inside[3]):
            dropped += 1
            continue
        clipped += inside != (x1, y1, x2, y2)
        kept.append((float(inside[0]), float(inside[1]), float(inside[2]), float(inside[3])))
    return Fitted(tuple(kept), clipped, dropped)


def problem_of(record: PhraseRecord) -> str | None:
    """What is wrong with a record, and the cure; None if nothing is."""
    pure = PurePosixPath(record.file_name)
    if not record.file_name or pure.is_absolute() or ".." in pure.parts or "\\" in record.file_name:
        return f"file_name is {record.file_name!r}; want a name below the picture folder"
    if record.width < 1 or record.height < 1:
        return f"the picture is {record.width} x {record.height}; want its size in pixels"
    for index, phrase in enumerate(record.phrases):
        where = f"phrase {index} [{phrase.start}, {phrase.end})"
        if not 0 <= phrase.start < phrase.end <= len(record.caption):
            return (
                f"{where} is no span of the caption's {len(record.caption)} characters; "
                "count code points, not bytes"
            )
        if not record.text(phrase).strip():
            return f"{where} has no words; leave it out"
        for box in phrase.boxes:
            if not all(map(math.isfinite, box)):
                return f"{where} has the box {list(box)}; want finite numbers"
            x1, y1, x2, y2 = box
            if not (0 <= x1 < x2 <= record.width and 0 <= y1 < y2 <= record.height):
                return (
                    f"{where} has the box {list(box)} in a picture of {record.width} x "
                    f"{record.height}; want x1 < x2 and y1 < y2 inside of it, in pixels: "
                    "tools/phrases_convert.py cuts boxes at the edges and drops empty ones"
                )
    return None


def save_phrases(path: Path, records: Iterable[PhraseRecord], header: Mapping[str, Any]) -> None:
    """Write a file in the common format, whole or not at all.

    `header` holds JSON values of its own; it is looked into when the last record has come.

    Raises DataFileError, naming the record, for one that the reader would refuse, for an id that
    comes twice, and for a header with a reserved entry.
    """
    own: dict[str, Any] = {"format": FORMAT, "version": VERSION, "n_records": 0}
    if taken := sorted(own.keys() & header.keys()):
        raise DataFileError(f"header entries {', '.join(taken)} are set by save_phrases itself")
    seen: set[str] = set()
    path.parent.mkdir(parents=True, exist_ok=True)
    # Records may come from a generator (Visual Genome has millions) that fills the header on its
    # way, so that the first line is known last.
    with TemporaryFile("w+", encoding="utf-8", newline="\n", dir=path.parent) as body:
        for record in records:
            problem = "its id comes a second time" if record.id in seen else problem_of(record)
            if problem:
                raise DataFileError(f"{path} not written: record {record.id!r}: {problem}")
            seen.add(record.id)
            body.write(msgspec.json.encode(record).decode() + "\n")
        body.seek(0)
        own["n_records"] = len(seen)
        with written_beside(path) as file:
            file.write(json.dumps({**own, **header}, allow_nan=False) + "\n")
            shutil.copyfileobj(body, file, 1 << 20)


def load_phrases(path: Path) -> PhraseFile:
    """Read a file in the common format.

    Raises MissingDataError if there is no such file; DataFileError, naming file, line, record, the
    value seen and the cure, for anything the format above does not allow.
    """
    content = read_file(
        path, f"no phrases at {path}; make them with: python tools/phrases_convert.py"
    )
    lines = content.splitlines()
    number = 1  # of the line that an error is about
    records: dict[str, PhraseRecord] = {}
    decoder = msgspec.json.Decoder(PhraseRecord)
    try:
        header = msgspec.json.decode(lines[0] if lines else b"", type=dict[str, Any])
        found = {name: header.get(name) for name in ("format", "version")}
        if found != {"format": FORMAT, "version": VERSION}:
            raise ValueError(f"the first line must say {FORMAT!r}, version {VERSION}, not {found}")
        for line in lines[1:]:
            number += 1
            record = decoder.decode(line)
            problem = "comes a second time" if record.id in records else problem_of(record)
            if problem:
                raise ValueError(f"record {record.id!r}: {problem}")
            records[record.id] = record
        if len(records) != header.get("n_records"):
            raise ValueError(
                f"the file ends after {len(records)} of {header.get('n_records')} records; it was "
                "cut off, copy it again"
            )
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        shown = lines[number - 1][:60] if lines else b""
        raise DataFileError(f"{path}, line {number} ({shown!r}...): {error}") from error
    return PhraseFile(header, list(records.values()), hashlib.sha256(content).hexdigest())

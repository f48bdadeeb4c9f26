"""RefTR's `.pth` lists (those of ReSC among them): torch-saved Python lists of tuples, one kind a
file family. Source: github.com/ubc-vision/RefTR, its data set classes.

| kind           | tuple                                                    | box  |
|----------------|----------------------------------------------------------|------|
| `flickr_multi` | picture, phrase positions, boxes, phrases, _, sentence   | xyxy |
| `flickr`       | picture, box, phrase                                     | xyxy |
| `refcoco`      | picture, _, box, phrase, attributes (unc, unc+, gref...) | xywh |
| `referit`      | picture, _, box, phrase, attributes                      | xyxy |
| `vg`           | picture, box, phrase                                     | xywh |
| `refcoco_mask` | picture, mask file, box, phrase                          | xyxy |

The lists do not tell how large a picture is: its file is asked.
"""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from refer.errors import DataFileError
from refer.files import check_file
from refer.options import check_option
from refer.pictures import picture_size
from refer.readers.phrases import Box, Phrase, PhraseRecord, fit_boxes
from refer.readers.refer_phrases import BoxValues, corners

Kind = Literal["flickr_multi", "flickr", "refcoco", "referit", "vg", "refcoco_mask"]
Size = tuple[int, int]  # (width, height)


class _Layout(NamedTuple):
    """Length of a tuple, and the places of its box and phrase."""

    length: int
    box: int
    phrase: int
    xywh: bool


_LAYOUTS: dict[str, _Layout] = {
    "flickr": _Layout(3, 1, 2, False),
    "refcoco": _Layout(5, 2, 3, True),
    "referit": _Layout(5, 2, 3, False),
    "vg": _Layout(3, 1, 2, True),
    "refcoco_mask": _Layout(4, 2, 3, False),
}


def load_list(path: Path) -> list[Any]:
    """The list in a `.pth` file: plain containers, str, numbers, tensors and numpy's numbers.

    Nothing else is built, so that nothing in the file can run. Raises MissingDataError;
    DataFileError for a file that wants more than that, is damaged or holds no list.
    """
    check_file(path, f"no list {path}; github.com/ubc-vision/RefTR says where it is")
    try:
        with torch.serialization.safe_globals(_numpy_globals()):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataFileError(
            f"{path}: refused, it holds more than plain content, or is damaged: {error}"
        ) from error
    except Exception as error:  # damaged archives and pickles raise nearly anything
        raise DataFileError(f"{path}: damaged ({type(error).__name__}: {error})") from error
    if not isinstance(found, list):
        raise DataFileError(f"{path}: holds a {type(found).__name__}, want a list of tuples")
    return found


def reftr_phrases(
    path: Path,
    kind: Kind,
    split: str,
    size_of: Callable[[str], Size],
    box_values: BoxValues = "float",
    notes: Counter[str] | None = None,
) -> Iterator[PhraseRecord]:
    """The entries of one list, all of them of `split`, one record each.

    `size_of` gives (width, height) of a picture by its name (see `picture_sizes`). 'int' cuts box
    values to whole numbers before widths are added, as RefTR does. A record's id is
    <stem of the list>/<position in the list>. `notes` counts what was cut or left out.

    Raises UnknownNameError, MissingDataError, PictureError and DataFileError (file and entry).
    """
    check_option("kind", kind, Kind)
    check_option("box_values", box_values, BoxValues)
    notes = Counter() if notes is None else notes
    for number, entry in enumerate(load_list(path)):
        where = f"{path}: entry {number}"
        try:
            name, caption, spans = _read(entry, kind, box_values)
        # RuntimeError: of tensors that numpy cannot have, such as those that want gradients.
        except (TypeError, ValueError, OverflowError, IndexError, RuntimeError) as error:
            raise DataFileError(f"{where}: {error}; is the list of kind {kind!r}?") from error
        if not spans:
            notes["entries without words left out"] += 1
            continue
        width, height = size_of(name)
        phrases = []
        for start, end, boxes in spans:
            fitted = fit_boxes(boxes, width, height)
            notes["boxes cut at an edge"] += fitted.clipped
            notes["empty boxes dropped"] += fitted.dropped
            phrases.append(Phrase(start, end, fitted.boxes))
        stem = Path(name).stem
        tail = stem.rsplit("_", 1)[-1]
        is_coco = stem.startswith("COCO_") and tail.isdecimal()
        yield PhraseRecord(
            id=f"{path.stem}/{number}",
            source=f"reftr_{kind}",
            split=split,
            image_id=int(tail) if is_coco else stem,
            file_name=name,
            width=width,
            height=height,
            caption=caption,
            phrases=tuple(phrases),
        )


def picture_sizes(folder: Path) -> Callable[[str], Size]:
    """A function from a picture's name to its (width, height); each file is asked once."""
    known: dict[str, Size] = {}

    def size_of(name: str) -> Size:
        if name not in known:
            known[name] = picture_size(folder / name)
        return known[name]

    return size_of


def _read(
    entry: Any, kind: Kind, values: BoxValues
) -> tuple[str, str, list[tuple[int, int, list[Box]]]]:
    """Picture name, caption, (start, end, boxes) of each phrase. Raises TypeError, ValueError."""
    if not isinstance(entry, tuple | list):
        raise TypeError(f"a {type(entry).__name__}, want a tuple")
    if kind == "flickr_multi":
        return _read_multi(entry, values)
    layout = _LAYOUTS[kind]
    if len(entry) != layout.length:
        raise ValueError(f"{len(entry)} values, want {layout.length}")
    name, given, text = entry[0], entry[layout.box], entry[layout.phrase]
    box = _box(given, layout.xywh, values)
    words = _text(text).strip()
    return _text(name), words, [(0, len(words), [box])] if words else []


def _read_multi(entry: Any, values: BoxValues) -> tuple[str, str, list[tuple[int, int, list[Box]]]]:
    if len(entry) != 6:
        raise ValueError(f"{len(entry)} values, want 6")
    name, positions, boxes, phrases, _, sentence = entry
    caption = _text(sentence)
    if not len(positions) == len(boxes) == len(phrases):
        raise ValueError(
            f"{len(positions)} positions, {len(boxes)} boxes and {len(phrases)} phrases"
        )
    spans = []
    for position, box, phrase in zip(positions, boxes, phrases, strict=True):
        # Either the first character alone, or the first and the last but one.
        start = int(position[0] if isinstance(position, tuple | list) else position)
        words = _text(phrase).strip()
        if not words or caption[start : start + len(words)].lower() != words.lower():
            raise ValueError(f"the phrase {words!r} is not at character {start} of {caption!r}")
        spans.append((start, start + len(words), [_box(box, False, values)]))
    return _text(name), caption, spans


def _box(given: Any, xywh: bool, values: BoxValues) -> Box:
    numbers = np.asarray(given, np.float64).reshape(-1)
    if len(numbers) != 4 or not np.isfinite(numbers).all():
        raise ValueError(f"the box {given!r}; want four numbers")
    if xywh:
        return corners(numbers.tolist(), values)
    if values == "int":
        numbers = np.trunc(numbers)
    x1, y1, x2, y2 = numbers.tolist()
    return (x1, y1, x2, y2)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} where words are expected")
    return value


def _numpy_globals() -> list[Any]:
    """What numbers and arrays of numpy are pickled with, under the names of numpy 1 and 2."""
    scalar, array = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
    dtypes = {type(np.dtype(name)) for name in ("f4", "f8", "i2", "i4", "i8", "u1")}
    return [
        np.dtype,
        np.ndarray,
        *dtypes,
        *((scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
        *((array, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    ]

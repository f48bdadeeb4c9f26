"""RefShapes' captions in the common phrase format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from refer.errors import DataFileError
from refer.readers.json_file import load_json
from refer.readers.phrases import Box, Phrase, PhraseRecord


class _Image(msgspec.Struct):
    id: int
    file_name: str
    width: int
    height: int


class _Instances(msgspec.Struct):
    images: list[_Image]


_CURE = "generate it with: python -m refer.shapes <data root> --extras"


class _ShapesPhrase(msgspec.Struct):
    phrase: str
    start: int
    end: int
    boxes: list[Box]


class _ShapesCaption(msgspec.Struct):
    image_id: int
    file_name: str
    split: str
    caption: str
    phrases: list[_ShapesPhrase]


def shapes_phrases(folder: Path) -> Iterator[PhraseRecord]:
    """The captions of RefShapes: `folder` holds phrases.json and instances.json.

    A record's id is refshapes/<image_id>. Raises MissingDataError, and DataFileError for files that
    do not belong together or phrases that are not the words of their span.
    """
    path = folder / "phrases.json"
    captions = load_json(path, list[_ShapesCaption], _CURE)
    images = {
        image.id: image for image in load_json(folder / "instances.json", _Instances, _CURE).images
    }
    for entry in captions:
        image = images.get(entry.image_id)
        if image is None or image.file_name != entry.file_name:
            raise DataFileError(
                f"{path}: picture {entry.image_id} ({entry.file_name}) is not in instances.json; "
                f"{_CURE}"
            )
        for phrase in entry.phrases:
            if entry.caption[phrase.start : phrase.end] != phrase.phrase:
                raise DataFileError(
                    f"{path}: picture {entry.image_id}: {phrase.phrase!r} is not at "
                    f"[{phrase.start}, {phrase.end}) of {entry.caption!r}"
                )
        yield PhraseRecord(
            id=f"refshapes/{entry.image_id}",
            source="refshapes",
            split=entry.split,
            image_id=entry.image_id,
            file_name=entry.file_name,
            width=image.width,
            height=image.height,
            caption=entry.caption,
            phrases=tuple(Phrase(p.start, p.end, tuple(p.boxes)) for p in entry.phrases),
        )

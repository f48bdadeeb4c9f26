"""RefShapes' captions in the common phrase format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from refer.catalog import split_matches
from refer.errors import DataFileError
from refer.masks import encoded
from refer.readers.instances import Side
from refer.readers.json_file import load_json
from refer.readers.phrases import Box, Phrase, PhraseRecord


class _Image(msgspec.Struct):
    id: int
    file_name: str
    width: Side
    height: Side


class _Annotation(msgspec.Struct):
    id: int
    segmentation: Any


class _Instances(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation] = []


_CURE = "generate it with: python -m refer.shapes <data root> --extras"


class _ShapesPhrase(msgspec.Struct):
    phrase: str
    start: int
    end: int
    boxes: list[Box]
    ann_ids: list[int]


class _ShapesCaption(msgspec.Struct):
    image_id: int
    file_name: str
    split: str
    caption: str
    phrases: list[_ShapesPhrase]


def shapes_phrases(folder: Path, split: str = "", masks: bool = False) -> Iterator[PhraseRecord]:
    """The captions of RefShapes: `folder` holds phrases.json and instances.json.

    A record's id is refshapes/<image_id>. `split` is one, by the rule of REFER ('' for all);
    `masks` also draws the masks. Raises MissingDataError, and DataFileError for files that do not
    belong together or phrases that are not the words of their span.
    """
    path = folder / "phrases.json"
    captions = load_json(path, list[_ShapesCaption], _CURE)
    instances = load_json(folder / "instances.json", _Instances, _CURE)
    images = {image.id: image for image in instances.images}
    outlines = {annotation.id: annotation.segmentation for annotation in instances.annotations}
    for entry in captions:
        if split and not split_matches(split, entry.split):
            continue
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
            phrases=tuple(
                Phrase(
                    p.start,
                    p.end,
                    tuple(p.boxes),
                    mask=_mask(path, p, outlines, image) if masks else None,
                )
                for p in entry.phrases
            ),
        )


def _mask(path: Path, phrase: _ShapesPhrase, outlines: dict[int, Any], image: _Image) -> str:
    where = f"{path}: {phrase.phrase!r} of picture {image.id}"
    try:
        own = [outlines[ann_id] for ann_id in phrase.ann_ids]
    except KeyError as error:
        raise DataFileError(f"{where}: annotation {error} is not in instances.json") from None
    return encoded(own, image.height, image.width, where=where)

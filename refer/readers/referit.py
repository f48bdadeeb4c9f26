"""ReferItGame as the text_objseg project prepared it: four JSON files.

`referit_query_<split>.json` maps a region ("<picture>_<region>") to its expressions,
`referit_bbox.json` a region to its box, `referit_imsize.json` a picture ("<picture>.jpg") to
[width, height]. Boxes are xyxy with both corners inside (the last pixel counts).

RefCLEF, the same game in REFER's format, is read by `refer.readers.refer_phrases`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from refer.errors import DataFileError
from refer.readers.json_file import load_json
from refer.readers.phrases import Phrase, PhraseRecord, fit_boxes

SPLITS = ("train", "val", "test")
_CURE = "the files are made by the scripts of github.com/ronghanghu/text_objseg"


def referit_phrases(
    folder: Path,
    splits: Sequence[str] = SPLITS,
    last_pixel: bool = False,
    notes: Counter[str] | None = None,
) -> Iterator[PhraseRecord]:
    """Every expression of these splits ('trainval' too), in file order.

    `last_pixel` adds 1 to the lower right corner, so that the box covers the pixels it stands for;
    without it boxes are as stored, which is how published systems take them.

    A record's id is referit/<region>/<number of the expression, from 0>. `notes` counts what was
    cut or left out. Raises MissingDataError and DataFileError, naming the file and the region.
    """
    notes = Counter() if notes is None else notes
    boxes_path, sizes_path = folder / "referit_bbox.json", folder / "referit_imsize.json"
    boxes = load_json(boxes_path, dict[str, tuple[float, float, float, float]], _CURE)
    sizes = load_json(sizes_path, dict[str, tuple[int, int]], _CURE)
    for split in splits:
        path = folder / f"referit_query_{split}.json"
        for region, texts in load_json(path, dict[str, list[str]], _CURE).items():
            picture = region.split("_", 1)[0]
            file_name = f"{picture}.jpg"
            for content, key, place in (
                (boxes, region, boxes_path),
                (sizes, file_name, sizes_path),
            ):
                if key not in content:
                    raise DataFileError(f"{path}: region {region!r} wants {key!r} of {place}")
            x1, y1, x2, y2 = boxes[region]
            width, height = sizes[file_name]
            fitted = fit_boxes([(x1, y1, x2 + last_pixel, y2 + last_pixel)], width, height)
            notes["boxes cut at an edge"] += fitted.clipped
            notes["empty boxes dropped"] += fitted.dropped
            for number, given in enumerate(texts):
                text = given.strip()
                if not text:
                    notes["empty expressions left out"] += 1
                    continue
                yield PhraseRecord(
                    id=f"referit/{region}/{number}",
                    source="referit",
                    split=split,
                    image_id=picture,
                    file_name=file_name,
                    width=width,
                    height=height,
                    caption=text,
                    phrases=(Phrase(0, len(text), fitted.boxes),),
                )

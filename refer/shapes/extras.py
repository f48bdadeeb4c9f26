"""What other tasks need from the same pictures; written when ``extras`` is set.

``grefcoco/grefs(unc).json``, ``grefcoco/instances.json``: several targets or none (groups.py).
``refshapes/phrases.json``: a list with one caption a picture, its phrases by character span
    [start, end) and their boxes xyxy in pixels, like Flickr30k Entities.
``refshapes/captions.json``: COCO captions, up to eight different ones a picture, each with its
    split; the first names everything, the others tell of one to three things.
``refshapes/labels/<picture>.png``: uint8 class map; 0 background, else the category id.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from refer.shapes.captions import detail_caption, full_caption, place_caption
from refer.shapes.groups import group_refs
from refer.shapes.records import Page, Record, annotation_id, page_rng
from refer.shapes.vocabulary import CATEGORY_IDS

_DETAILS = 5  # captions of this kind a picture; ids leave room for ten in all


@dataclass
class Extras:
    """Records collected over pictures."""

    refs: list[Record] = field(default_factory=list)
    phrases: list[Record] = field(default_factory=list)
    captions: list[Record] = field(default_factory=list)

    def extend(self, other: Extras) -> None:
        """Append the records of later pictures."""
        self.refs += other.refs
        self.phrases += other.phrases
        self.captions += other.captions

    def add(self, page: Page, seed: int, index: int) -> None:
        """Make the records of picture ``index``, with a generator apart from the picture's own."""
        rng = page_rng(seed, page.split, index, purpose=1)
        self.refs += group_refs(page, rng)
        caption = full_caption(page.scene)
        image_id = page.image["id"]
        self.phrases.append(
            {
                "image_id": image_id,
                "file_name": page.image["file_name"],
                "split": page.split,
                "caption": caption.text,
                "phrases": [
                    {
                        "phrase": caption.text[start:end],
                        "start": start,
                        "end": end,
                        "boxes": [_xyxy(page.scene.boxes[index]) for index in members],
                        "ann_ids": [annotation_id(image_id, index) for index in members],
                    }
                    for start, end, members in caption.spans
                ],
            }
        )
        texts = [caption.text, place_caption(page.scene, rng), place_caption(page.scene, rng)]
        for _ in range(_DETAILS):
            texts.append(detail_caption(page.scene, rng, page.split == "testB"))
        for number, text in enumerate(dict.fromkeys(filter(None, texts))):
            self.captions.append(
                {
                    "id": image_id * 10 + number,
                    "image_id": image_id,
                    "caption": text,
                    "split": page.split,
                }
            )

    def write(
        self, records: Path, groups: Path, instances: dict[str, Any], info: dict[str, Any]
    ) -> None:
        """Write the record files: to ``records`` (exists) and to ``groups`` (made here)."""
        note = "RefShapes in the layout of gRefCOCO; this is not gRefCOCO"
        groups.mkdir()
        _dump(groups / "info.json", {**info, "note": note})
        _dump(groups / "instances.json", {**instances, "info": {"description": note}})
        _dump(groups / "grefs(unc).json", self.refs)
        _dump(records / "phrases.json", self.phrases)
        split_of = {phrase["image_id"]: phrase["split"] for phrase in self.phrases}
        captions = {
            "info": instances["info"],
            "licenses": [],
            "images": [{**im, "split": split_of[im["id"]]} for im in instances["images"]],
            "annotations": self.captions,
        }
        _dump(records / "captions.json", captions)


def write_label_map(page: Page, folder: Path) -> None:
    """Write the class map of a picture as an 8-bit grey PNG of the picture's name."""
    labels = np.zeros((page.scene.height, page.scene.width), np.uint8)
    for thing, mask in zip(page.scene.things, page.scene.masks, strict=True):
        labels[mask] = CATEGORY_IDS[thing.shape]
    stem = page.image["file_name"].rsplit(".", 1)[0]
    Image.fromarray(labels).save(folder / f"{stem}.png")


def _xyxy(box: np.ndarray[Any, np.dtype[np.float64]]) -> list[float]:
    x, y, width, height = (float(number) for number in box)
    return [x, y, x + width, y + height]


def _dump(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")

"""One picture of the data set as records: image, annotations, refs and the bytes behind them.

Every picture has its own random generator, a function of (seed, split, index) alone, so that the
data do not depend on the number of processes, on the order of work or on the size of a split.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from refer.shapes.drawing import U8
from refer.shapes.language import Facts
from refer.shapes.referring import describe
from refer.shapes.scene import Rng, Scene, sample_scene
from refer.shapes.vocabulary import CATEGORY_IDS, HELD_OUT, SPLITS, TEST_A_SHAPE
from refer.shapes.wording import say

Record = dict[str, Any]

MAX_PICTURES = 10_000_000  # per split: ids of pictures, things, refs and sentences stay in 32 bits
_REFS_PER_PICTURE, _REF_WEIGHTS = (2, 3), (0.55, 0.45)
_SENTENCES, _SENTENCE_WEIGHTS = (1, 2, 3), (0.3, 0.4, 0.3)


@dataclass(frozen=True)
class Page:
    """One picture (uint8 RGB [H, W, 3]) with its scene and its records."""

    split: str
    scene: Scene
    picture: U8
    image: Record
    annotations: list[Record]
    refs: list[Record]

    def digest(self) -> bytes:
        """sha256 over pixels before JPEG, annotations and refs."""
        text = json.dumps([self.image, self.annotations, self.refs], sort_keys=True)
        return hashlib.sha256(self.picture.tobytes() + text.encode()).digest()


def page_rng(seed: int, split: str, index: int, purpose: int = 0) -> Rng:
    """The generator of one picture; ``purpose`` 1 is kept for the extras."""
    return np.random.default_rng(np.random.SeedSequence((seed, SPLITS[split], index, purpose)))


def make_page(seed: int, split: str, index: int, height: int, width: int) -> Page:
    """Make picture ``index`` of a split, with two or three refs."""
    rng = page_rng(seed, split, index)
    image_id = SPLITS[split] * MAX_PICTURES + index + 1
    image: Record = {
        "id": image_id,
        "file_name": f"refshapes_{image_id:012d}.jpg",
        "height": height,
        "width": width,
    }
    while True:
        scene = sample_scene(rng, split, height, width)
        refs = _refs(scene, image, split, rng)
        if refs:
            return Page(split, scene, scene.picture(), image, _annotations(scene, image_id), refs)


def annotation_id(image_id: int, index: int) -> int:
    """Id of thing ``index`` of a picture."""
    return image_id * 10 + index


def _annotations(scene: Scene, image_id: int) -> list[Record]:
    stack = np.asfortranarray(scene.masks.transpose(1, 2, 0).astype(np.uint8))
    return [
        {
            "id": annotation_id(image_id, index),
            "image_id": image_id,
            "category_id": CATEGORY_IDS[thing.shape],
            "segmentation": [
                {"size": [scene.height, scene.width], "counts": rle["counts"].decode()}
            ],
            "bbox": [float(number) for number in box],
            "area": int(area),
            "iscrowd": 0,
            "attributes": {"colour": thing.colour, "texture": thing.texture},
        }
        for index, (thing, rle, box, area) in enumerate(
            zip(scene.things, coco_mask.encode(stack), scene.boxes, scene.areas, strict=True)
        )
    ]


def _refs(scene: Scene, image: Record, split: str, rng: Rng) -> list[Record]:
    """Two or three refs, or none when the scene gives fewer than two."""
    facts = Facts(scene)
    wanted = int(rng.choice(_REFS_PER_PICTURE, p=_REF_WEIGHTS))
    refs: list[Record] = []
    for target in _targets(scene, split, rng):
        count = int(rng.choice(_SENTENCES, p=_SENTENCE_WEIGHTS))
        descriptions = describe(target, facts, rng, count, held_out_allowed=split == "testB")
        if descriptions:
            texts = [(say(description, rng), description.kind) for description in descriptions]
            refs.append(_ref(image, scene, target, len(refs), texts, split, rng))
        if len(refs) == wanted:
            break
    return refs if len(refs) >= 2 else []


def _targets(scene: Scene, split: str, rng: Rng) -> list[int]:
    """Things a ref may be about, in random order, those with a look-alike first."""
    things = scene.things
    order = [int(index) for index in rng.permutation(len(things))]
    if split == "testA":
        order = [i for i in order if things[i].shape == TEST_A_SHAPE]
    elif split == "testB":
        order = [i for i in order if (things[i].colour, things[i].shape) in HELD_OUT]

    def is_alone(index: int) -> bool:
        one = things[index]
        return not any(
            other is not one and (other.shape == one.shape or other.colour == one.colour)
            for other in things
        )

    return sorted(order, key=is_alone)


def _ref(
    image: Record,
    scene: Scene,
    target: int,
    position: int,
    texts: list[tuple[str, str]],
    split: str,
    rng: Rng,
) -> Record:
    ref_id = image["id"] * 10 + position
    ann_id = annotation_id(image["id"], target)
    sentences = [
        {
            "raw": f"{text.capitalize()}." if rng.random() < 0.3 else text,
            "sent": text,
            "sent_id": ref_id * 4 + number,
            "tokens": text.split(),
            "kind": kind,
        }
        for number, (text, kind) in enumerate(texts)
    ]
    stem, ending = image["file_name"].rsplit(".", 1)
    return {
        "ref_id": ref_id,
        "ann_id": ann_id,
        "category_id": CATEGORY_IDS[scene.things[target].shape],
        "image_id": image["id"],
        # As in RefCOCO this is not a file's name: the annotation's position hangs at the stem.
        "file_name": f"{stem}_{target}.{ending}",
        "split": split,
        "sent_ids": [sentence["sent_id"] for sentence in sentences],
        "sentences": sentences,
    }

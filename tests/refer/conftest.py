"""A small hand-made data set in REFER layout for the tests of the readers and the API."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def make_ref(ref_id: int, ann_id: int | str, image_id: int, split: str, cat: int = 1) -> dict:
    """A ref with two sentences, whose ids are 2 * ref_id and the next."""
    sentences = [
        {"sent_id": 2 * ref_id + i, "raw": text.title(), "sent": text, "tokens": text.split()}
        for i, text in enumerate((f"thing {ref_id}", f"the left thing {ref_id}"))
    ]
    return {
        "ref_id": ref_id,
        "ann_id": ann_id,
        "category_id": cat,
        "image_id": image_id,
        "file_name": f"COCO_train2014_{image_id:012d}_0.jpg",
        "split": split,
        "sent_ids": [sentence["sent_id"] for sentence in sentences],
        "sentences": sentences,
    }


def make_ann(ann_id: int | str, image_id: int, cat: int = 1, **changes: Any) -> dict:
    """An annotation with a rectangle of 4 x 2 pixels at (1, 2)."""
    ann = {
        "id": ann_id,
        "image_id": image_id,
        "category_id": cat,
        "bbox": [1.0, 2.0, 4.0, 2.0],
        "area": 8.0,
        "iscrowd": 0,
        "segmentation": [[1.0, 2.0, 5.0, 2.0, 5.0, 4.0, 1.0, 4.0]],
    }
    return {**ann, **changes}


def make_image(image_id: int) -> dict:
    """The record of a picture 10 pixels high and 12 wide."""
    name = f"COCO_train2014_{image_id:012d}.jpg"
    return {"id": image_id, "file_name": name, "height": 10, "width": 12}


@pytest.fixture
def write_refer(tmp_path: Path) -> Callable[..., Path]:
    """Writes a data set and returns the data root.

    Without arguments: images 1 to 4 (image 4 has no ref), refs 0 to 3 (ref 0 and 1 in image 1),
    annotations 100 + ref_id and one that nobody refers to, categories 1 and 2.
    """

    def write(
        dataset: str = "refcoco",
        split_by: str = "unc",
        refs: list[dict] | None = None,
        annotations: list[dict] | None = None,
    ) -> Path:
        if refs is None:
            refs = [
                make_ref(0, 100, 1, "train", cat=1),
                make_ref(1, 101, 1, "train", cat=2),
                make_ref(2, 102, 2, "testA", cat=1),
                make_ref(3, 103, 3, "testB", cat=2),
            ]
        if annotations is None:
            annotations = [
                *(make_ann(ref["ann_id"], ref["image_id"], ref["category_id"]) for ref in refs),
                make_ann(999, 4),
            ]
        folder = tmp_path / dataset
        folder.mkdir(exist_ok=True)
        instances = {
            "images": [make_image(image_id) for image_id in (1, 2, 3, 4)],
            "annotations": annotations,
            "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}],
        }
        (folder / "instances.json").write_text(json.dumps(instances))
        (folder / f"refs({split_by}).p").write_bytes(pickle.dumps(refs, protocol=2))
        return tmp_path

    return write


@pytest.fixture
def records() -> Any:
    """The makers of single records: `.ref`, `.ann`, `.image`."""

    class Records:
        ref = staticmethod(make_ref)
        ann = staticmethod(make_ann)
        image = staticmethod(make_image)

    return Records


@pytest.fixture
def axes(monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    yield pyplot.figure().gca()
    pyplot.close("all")

"""Several data sets as one: every part is told the epoch."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from refer import REFER
from refer.datasets import MixedRefs, RefDataset
from refer.sentences import draw

EPOCHS = 6


@pytest.fixture
def parts(write_refer) -> list[RefDataset]:
    """RefCOCO and RefCOCO+ of the same refs, each with a seed of its own."""
    root = write_refer()
    write_refer("refcoco+")
    folder = root / "images" / "train2014"
    folder.mkdir(parents=True)
    for image_id in (1, 2, 3):
        Image.new("RGB", (12, 10)).save(folder / f"COCO_train2014_{image_id:012d}.jpg")
    return [
        RefDataset(REFER(root, name), "train", 16, seed=seed)
        for name, seed in (("refcoco", 3), ("refcoco+", 8))
    ]


def test_every_part_draws_the_sentences_of_the_epoch(parts):
    mixed = MixedRefs(parts)
    asked = []
    for epoch in range(EPOCHS):
        mixed.set_epoch(epoch)
        asked.append([(item["ref_id"], item["sent_id"]) for item in mixed])
        expected = [
            (ref.ref_id, ref.sentences[draw(2, ref.ref_id, part.seed, epoch)].sent_id)
            for part in parts
            for ref in part.refs
        ]
        assert asked[-1] == expected
    for place in range(len(mixed)):  # no ref is asked the same sentence in every epoch
        assert len({items[place] for items in asked}) == 2


def test_its_items_are_the_parts_one_after_the_other(parts):
    mixed = MixedRefs(parts)
    items = [item for part in parts for item in part]
    assert len(mixed) == len(mixed.refs) == len(items) == 4
    for own, item in zip(mixed, items, strict=True):
        assert torch.equal(own["mask"], item["mask"])
        assert (own["ref_id"], own["text"]) == (item["ref_id"], item["text"])

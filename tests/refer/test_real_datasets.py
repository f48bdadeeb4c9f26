"""The data sets on real refs, sentences and outlines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco

from refer import REFER
from refer.datasets import PictureDataset, RefDataset


@pytest.mark.parametrize(
    ("name", "split_by", "splits"),
    [
        ("refcoco", "mini", ["train", "val"]),
        ("refcoco", "unc", ["val", "testA", "testB"]),
        ("refcoco+", "unc", ["val", "testA", "testB"]),
        ("refcocog", "umd", ["val", "test"]),
        ("refcocog", "google", ["val"]),
    ],
)
def test_real_data(shared: Path, name: str, split_by: str, splits: list[str]) -> None:
    folder = shared / "data" / "refer_mini"
    counts = json.loads((folder / "counts.json").read_text())
    refer = REFER(folder, name, split_by)
    for split in splits:
        pictures = PictureDataset(refer, split, 512, overlap="drop")
        refs = RefDataset(refer, split, 512, sentence_mode="all", overlap="drop")
        found = [len(pictures), len(refs.refs), len(refs)]
        assert found == counts[f"{name}({split_by}) {split}"]
        assert pictures.data_hash == refs.data_hash
        item = pictures[0]
        ann, height, width = (
            refer.Anns[refer.Refs[item["ref_ids"][0]]["ann_id"]],
            *item["original_size"],
        )
        layers = coco.decode(coco.frPyObjects(ann["segmentation"], height, width)).sum(2)
        rows, columns = ((2 * np.arange(512) + 1) * side // 1024 for side in (height, width))
        assert np.array_equal(item["masks"][0].numpy(), (layers == 1)[rows][:, columns])


def test_real_outlines_drawn_at_the_inputs_size(shared: Path) -> None:
    refer = REFER(shared / "data" / "refer_mini", "refcocog", "umd")
    dataset = PictureDataset(refer, "val", (96, 160), drawn_at="input")
    plain = PictureDataset(refer, "val", (96, 160))
    differing = 0
    for item, other in zip(dataset, plain, strict=True):
        height, width = item["original_size"]
        for mask, ref_id in zip(item["masks"].numpy(), item["ref_ids"], strict=True):
            parts = refer.Anns[refer.Refs[ref_id]["ann_id"]]["segmentation"]
            moved = []
            for part in parts:
                corners = np.asarray(part).reshape(-1, 2)
                moved.append((corners * [160 / width, 96 / height]).reshape(-1).tolist())
            expected = coco.decode(coco.frPyObjects(moved, 96, 160)).any(axis=2)
            assert np.array_equal(mask, expected)
        differing += int((item["masks"] != other["masks"]).sum())
    assert differing > 0

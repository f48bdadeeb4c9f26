"""Items of the data sets against the data files, options, errors, workers and batches."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from refer import REFER
from refer.datasets import (
    MixedRefs,
    PictureDataset,
    RefDataset,
    collate_pictures,
    collate_refs,
)
from refer.errors import DataFileError, MissingDataError, PictureError, UnknownNameError
from refer.sentences import draw

# Two squares of 20 x 20 that overlap in 10 x 20 pixels.
OVERLAPPING = [[10, 10, 30, 10, 30, 30, 10, 30], [20, 10, 40, 10, 40, 30, 20, 30]]
SQUARE = [[0, 0, 10, 0, 10, 10, 0, 10]]


def ref(ref_id: int, image_id: int, sentences: list[str], split: str = "train") -> dict[str, Any]:
    return {
        "ref_id": ref_id,
        "ann_id": ref_id + 100,
        "image_id": image_id,
        "category_id": 1,
        "split": split,
        "file_name": "no_such_file_1.jpg",
        "sent_ids": [ref_id * 10 + i for i in range(len(sentences))],
        "sentences": [
            {"sent_id": ref_id * 10 + i, "sent": s.lower(), "raw": s, "tokens": s.split()}
            for i, s in enumerate(sentences)
        ],
    }


REFS = [
    ref(7, 2, ["Left One", "square", "it"]),
    ref(3, 1, ["other"]),
    ref(5, 2, ["both squares", "pair"]),
    ref(9, 1, ["never trained on"], "val"),
]


def write(root: Path, refs: list[dict[str, Any]]) -> Path:
    """A refcoco data root: pictures 1 (60 x 40) and 2 (40 x 60), height x width."""
    images = [
        {"id": 1, "file_name": "one.png", "height": 60, "width": 40},
        {"id": 2, "file_name": "two.png", "height": 40, "width": 60},
    ]
    outlines = {105: OVERLAPPING}
    annotations = [
        {
            "id": one["ann_id"],
            "image_id": one["image_id"],
            "category_id": 1,
            "segmentation": outlines.get(one["ann_id"], SQUARE),
            "bbox": [0, 0, 10, 10],
            "area": 100,
            "iscrowd": 0,
        }
        for one in refs
    ]
    folder, pictures = root / "refcoco", root / "images" / "train2014"
    folder.mkdir(parents=True)
    pictures.mkdir(parents=True)
    for image in images:
        shape = (image["height"], image["width"], 3)
        values = np.random.RandomState(image["id"]).randint(0, 256, shape, dtype=np.uint8)
        Image.fromarray(values).save(pictures / image["file_name"])
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "thing"}],
    }
    (folder / "instances.json").write_text(json.dumps(content))
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write(tmp_path / "data", REFS)


@pytest.fixture
def refer(root: Path) -> REFER:
    return REFER(root)


def pixels(root: Path, name: str, height: int, width: int) -> torch.Tensor:
    picture = Image.open(root / "images" / "train2014" / name)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def test_ref_items(root: Path, refer: REFER) -> None:
    dataset = RefDataset(refer, "train", size=(32, 48), sentence_mode="first")
    assert [item["ref_id"] for item in dataset] == [7, 3, 5]
    item = dataset[0]
    assert torch.equal(item["image"], pixels(root, "two.png", 32, 48))
    assert item["mask"].dtype == torch.uint8
    assert item["mask"].shape == (32, 48)
    asked = {name: item[name] for name in ("text", "ref_id", "sent_id", "image_id")}
    assert asked == {"text": "left one", "ref_id": 7, "sent_id": 70, "image_id": 2}


def test_picture_items(root: Path, refer: REFER) -> None:
    dataset = PictureDataset(refer, "train", size=32)
    assert [item["image_id"] for item in dataset] == [2, 1]
    item = dataset[0]
    assert torch.equal(item["image"], pixels(root, "two.png", 32, 32))
    assert item["texts"] == ["left one", "square", "it", "both squares", "pair"]
    assert item["ref_of_text"].tolist() == [0, 0, 0, 1, 1]
    assert item["ref_of_text"].dtype == torch.int64
    assert (item["ref_ids"], item["sent_ids"]) == ([7, 5], [70, 71, 72, 50, 51])
    assert item["sentence_index"] == [0, 1, 2, 0, 1]
    assert (item["file_name"], item["original_size"]) == ("two.png", (40, 60))
    assert item["masks"].shape == (2, 32, 32)


@pytest.mark.parametrize(("overlap", "area"), [("union", 600), ("drop", 400)])
def test_overlap_rule(refer: REFER, overlap: Any, area: int) -> None:
    # At the picture's own size nothing is resized, so areas are those of the drawing.
    dataset = PictureDataset(refer, "train", size=(40, 60), overlap=overlap)
    assert dataset[0]["masks"].sum((1, 2)).tolist() == [100, area]
    assert RefDataset(refer, "train", size=(40, 60), overlap=overlap)[2]["mask"].sum() == area


def test_sentence_modes(refer: REFER) -> None:
    def texts(mode: Any) -> list[str]:
        by_picture = [item["texts"] for item in PictureDataset(refer, "train", 16, mode)]
        by_ref = [item["text"] for item in RefDataset(refer, "train", 16, mode)]
        assert sorted(chain.from_iterable(by_picture)) == sorted(by_ref)
        return by_ref

    assert texts("all") == ["left one", "square", "it", "other", "both squares", "pair"]
    assert texts("first") == ["left one", "other", "both squares"]
    assert texts("concat") == ["left one square it", "other", "both squares pair"]
    assert len(texts("random")) == 3
    raw = RefDataset(refer, "train", 16, "first", text_field="raw")
    assert raw[0]["text"] == "Left One"


def test_random_sentence_depends_on_seed_epoch_and_ref_only(refer: REFER) -> None:
    dataset = RefDataset(refer, "train", 16, seed=3)
    drawn = {}
    for epoch in range(30):
        dataset.set_epoch(epoch)
        forward = [dataset[index]["text"] for index in range(3)]
        backward = [dataset[index]["text"] for index in (2, 1, 0)][::-1]
        assert forward == backward
        drawn[epoch] = forward
    assert {texts[0] for texts in drawn.values()} == {"left one", "square", "it"}
    dataset.set_epoch(0)
    assert [dataset[index]["text"] for index in range(3)] == drawn[0]
    pictures = PictureDataset(refer, "train", 16, "random", seed=3)
    assert sorted(chain.from_iterable(item["texts"] for item in pictures)) == sorted(drawn[0])


def test_draw_is_pinned_and_even() -> None:
    # A run must draw the same on every machine: these values may never change.
    assert [draw(5, ref_id, 0, 0) for ref_id in range(8)] == [3, 2, 0, 1, 0, 3, 3, 0]
    counts = Counter(draw(3, ref_id, 1, epoch) for ref_id in range(300) for epoch in range(10))
    assert all(abs(count - 1000) < 120 for count in counts.values())  # over 4 deviations


@given(st.integers(1, 50), st.integers(0, 10**9), st.integers(0, 10**6), st.integers(0, 10**4))
def test_draw_stays_in_range(count: int, ref_id: int, seed: int, epoch: int) -> None:
    assert 0 <= draw(count, ref_id, seed, epoch) < count


@pytest.mark.parametrize("empty", ["", "  \t"])
def test_empty_sentences(tmp_path: Path, empty: str) -> None:
    refs = [ref(1, 1, ["", "second"]), ref(2, 1, [empty]), ref(3, 1, ["a", "b"])]
    refer = REFER(write(tmp_path / "data", refs))
    with pytest.raises(
        DataFileError, match=r"ref 1, sentence 10 is empty.*--set data\.on_empty=skip"
    ):
        RefDataset(refer, "train")
    dataset = PictureDataset(refer, "train", 16, on_empty="skip")
    assert dataset[0]["texts"] == ["second", "a", "b"]
    assert dataset[0]["ref_ids"] == [1, 3]
    assert dataset[0]["sentence_index"] == [1, 0, 1]


def test_ref_without_sentences(tmp_path: Path) -> None:
    refer = REFER(write(tmp_path / "data", [ref(1, 1, []), ref(2, 1, ["a"])]))
    with pytest.raises(DataFileError, match="ref 1 has no sentences"):
        RefDataset(refer, "train")
    assert len(RefDataset(refer, "train", on_empty="skip")) == 1


def test_ids_that_are_no_ints(tmp_path: Path) -> None:
    one = ref(1, 1, ["a"])
    one["sentences"][0]["sent_id"] = "x"
    refer = REFER(write(tmp_path / "data", [one]))
    with pytest.raises(DataFileError, match="sent_id 'x'; want an int"):
        RefDataset(refer, "train")


def test_broken_and_missing_pictures_name_file_and_ref(root: Path, refer: REFER) -> None:
    path = root / "images" / "train2014" / "two.png"
    dataset = RefDataset(refer, "train", 16)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(PictureError, match=r"two.png .*\(ref 7, image 2\)"):
        dataset[0]
    assert dataset[1]["image_id"] == 1
    path.unlink()
    with pytest.raises(MissingDataError, match=r"two.png .*\(ref 7, image 2\)"):
        dataset[0]
    with pytest.raises(MissingDataError, match=r"two.png"):
        RefDataset(refer, "train", 16)


def test_pictures_that_nobody_has_are_left_out(tmp_path, write_refer, records, caplog) -> None:
    refs = [records.ref(0, "1_0", 1, "train"), records.ref(1, "2_0", 2, "train")]
    annotations = [records.ann("1_0", 1), records.ann("2_0", 2)]
    root = write_refer("refclef", refs=refs, annotations=annotations)
    folder = root / "images" / "saiapr_tc-12"
    folder.mkdir(parents=True)
    refer = REFER(root, "refclef")
    Image.new("RGB", (12, 10)).save(folder / refer.Imgs[1]["file_name"])
    refer = REFER(root, "refclef")
    with pytest.raises(MissingDataError, match="image 2"):
        RefDataset(refer, "train")
    refer.Imgs[2]["file_name"] = "19579.jpg"  # in the published ref file and in no archive
    with caplog.at_level("WARNING"):
        assert [found["ref_id"] for found in RefDataset(refer, "train", 32)] == [0]
    assert "1 refs left out" in caplog.text


def test_picture_of_another_size(root: Path, refer: REFER) -> None:
    Image.new("RGB", (30, 20)).save(root / "images" / "train2014" / "two.png")
    with pytest.raises(PictureError, match=r"20 x 30 .* 40 x 60.*ref 7"):
        RefDataset(refer, "train", 16)[0]


def test_broken_outline_names_ref_and_annotation(root: Path) -> None:
    path = root / "refcoco" / "instances.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["segmentation"] = [[1, 2, 3]]
    del content["annotations"][1]["segmentation"]
    path.write_text(json.dumps(content))
    dataset = RefDataset(REFER(root), "train", 16)
    with pytest.raises(DataFileError, match="ref 7, annotation 107"):
        dataset[0]
    with pytest.raises(DataFileError, match="ref 3, annotation 103 has no segmentation"):
        dataset[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sentence_mode": "every"}, "all, first, random, concat"),
        ({"overlap": "sum"}, "union, drop"),
        ({"text_field": "tokens"}, "sent, raw"),
        ({"on_empty": "keep"}, "error, skip"),
        ({"split": "testZ"}, "train"),
        ({"size": 0}, "positive"),
    ],
)
def test_wrong_options(refer: REFER, options: dict[str, Any], message: str) -> None:
    for kind in (RefDataset, PictureDataset):
        with pytest.raises((UnknownNameError, ValueError), match=message):
            kind(refer, **{"split": "train", **options})


def test_data_hash_is_of_the_data_not_of_its_use(tmp_path: Path, refer: REFER) -> None:
    first = RefDataset(refer, "train", 16).data_hash
    assert len(first) == 64
    used = PictureDataset(refer, "train", 64, "first", overlap="drop", seed=5)
    assert used.data_hash == first
    again = REFER(write(tmp_path / "elsewhere", [REFS[3], *REFS[2::-1]]))
    assert RefDataset(again, "train").data_hash == first
    changed = [{**REFS[0], "sentences": REFS[0]["sentences"][:2]}, *REFS[1:]]
    other = REFER(write(tmp_path / "changed", changed))
    hashes = {
        first,
        RefDataset(other, "train").data_hash,
        RefDataset(refer, "val").data_hash,
        RefDataset(refer, "train", text_field="raw").data_hash,
    }
    assert len(hashes) == 4


def halved(item: dict[str, Any]) -> dict[str, Any]:
    return {**item, "image": item["image"] // 2}


def test_a_share_of_the_pictures(tmp_path: Path) -> None:
    """Whole pictures; nested shares; drawn by the seed, not by the order of the file."""
    from refer.shapes import generate

    generate(tmp_path, train=40, val=0, test_a=0, test_b=0, size=64, workers=1, progress=False)
    shapes = REFER(tmp_path, "refshapes")

    def pictures(fraction: float, seed: int = 0) -> set[int]:
        dataset = RefDataset(shapes, "train", size=64, fraction=fraction, seed=seed)
        kept = {one.picture.image_id for one in dataset.refs}
        whole = RefDataset(shapes, "train", size=64)
        assert dataset.refs == [one for one in whole.refs if one.picture.image_id in kept]
        return kept

    assert (len(pictures(0.1)), len(pictures(0.5)), len(pictures(1.0))) == (4, 20, 40)
    assert pictures(0.1) < pictures(0.5)
    assert pictures(0.5, seed=1) != pictures(0.5)
    assert len(pictures(1e-9)) == 1
    for wrong in (0.0, 1.5):
        with pytest.raises(UnknownNameError, match="fraction"):
            RefDataset(shapes, "train", size=64, fraction=wrong)


def test_transform_gets_the_finished_item(refer: REFER) -> None:
    plain, changed = (RefDataset(refer, "train", 16, transform=t) for t in (None, halved))
    assert torch.equal(changed[0]["image"], plain[0]["image"] // 2)


def test_batches(refer: REFER) -> None:
    refs, pictures = RefDataset(refer, "train", 16, "first"), PictureDataset(refer, "train", 16)
    batch = collate_refs([refs[0], refs[1]])
    assert batch["image"].shape == (2, 3, 16, 16)
    assert torch.equal(batch["mask"][1], refs[1]["mask"])
    assert batch["text"] == ["left one", "other"]
    assert (batch["ref_id"], batch["sent_id"], batch["image_id"]) == ([7, 3], [70, 30], [2, 1])

    items = [pictures[1], pictures[0]]
    batch = collate_pictures(items)
    assert batch["image"].shape == (2, 3, 16, 16)
    assert batch["text"] == ["other", "left one", "square", "it", "both squares", "pair"]
    assert batch["picture_index"].tolist() == [0, 1, 1, 1, 1, 1]
    assert batch["ref_of_text"].tolist() == [0, 1, 1, 1, 2, 2]
    assert batch["ref_ids"] == [3, 7, 5]
    assert batch["sent_ids"] == [30, 70, 71, 72, 50, 51]
    assert batch["sentence_index"] == [0, 0, 1, 2, 0, 1]
    assert batch["image_ids"] == [1, 2]
    assert batch["file_names"] == ["one.png", "two.png"]
    assert batch["original_sizes"] == [(60, 40), (40, 60)]
    assert torch.equal(batch["masks"], torch.cat([items[0]["masks"], items[1]["masks"]]))


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_give_the_same_and_follow_the_epoch(refer: REFER, start: str) -> None:
    dataset = RefDataset(refer, "train", 16, transform=halved if start == "fork" else None)
    loader = DataLoader(
        dataset,
        batch_size=2,
        num_workers=1,
        collate_fn=collate_refs,
        multiprocessing_context=start,
        persistent_workers=True,
    )
    for epoch in range(4):
        dataset.set_epoch(epoch)
        texts = [text for batch in loader for text in batch["text"]]
        assert texts == [dataset[index]["text"] for index in range(3)]
    del loader


def test_pickled_dataset_is_the_same_and_leaves_refer_behind(refer: REFER) -> None:
    dataset = PictureDataset(refer, "train", 16)
    content = pickle.dumps(dataset)
    assert b"never trained on" not in content
    again = pickle.loads(content)
    assert again.data_hash == dataset.data_hash
    assert torch.equal(again[0]["masks"], dataset[0]["masks"])


def test_a_mixture_tells_pictures_of_one_id_apart(tmp_path: Path) -> None:
    parts = [RefDataset(REFER(write(tmp_path / name, REFS)), "train", 16) for name in "ab"]
    mixed = MixedRefs(parts)
    assert len(mixed) == 6
    batch = collate_refs([mixed[0], mixed[3]])
    assert batch["image_id"][0] == batch["image_id"][1]
    assert batch["picture"][0] != batch["picture"][1]
    assert all(Path(path).is_file() for path in batch["picture"])

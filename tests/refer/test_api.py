"""REFER: official counts on real data, indexes, filters, ids of either type, masks and drawing."""

from __future__ import annotations

import gzip
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from refer import REFER
from refer.errors import DataFileError, UnknownIdError, UnknownNameError

INDEXES = (
    *("Refs", "Anns", "Imgs", "Cats", "Sents", "imgToRefs", "imgToAnns", "refToAnn", "annToRef"),
    *("catToRefs", "sentToRef", "sentToTokens"),
)


@pytest.fixture
def refer(write_refer) -> REFER:
    return REFER(write_refer(), "refcoco", "unc")


# Real data.


@pytest.fixture(scope="module")
def mini(shared):
    return shared / "data" / "refer_mini"


def test_counts_of_real_data(mini):
    counts = json.loads((mini / "counts.json").read_text())
    assert counts
    for name, expected in counts.items():
        dataset, split_by, split = re.fullmatch(r"(.+)\((.+)\) (.+)", name).groups()
        refer = REFER(mini, dataset, split_by)
        refs = refer.loadRefs(refer.getRefIds(split=split))
        images = {ref["image_id"] for ref in refs}
        assert [len(images), len(refs), sum(len(ref["sentences"]) for ref in refs)] == expected


def test_test_is_both_tests(mini):
    refer = REFER(mini, "refcoco", "unc")
    both = set(refer.getRefIds(split="testA")) | set(refer.getRefIds(split="testB"))
    assert set(refer.getRefIds(split="test")) == both


@pytest.mark.parametrize(
    ("name", "sentences"),
    [
        ("refcoco_val", 10_834),
        ("refcoco_testA", 5_657),
        ("refcoco_testB", 5_095),
        ("refcoco+_val", 10_758),
        ("refcoco+_testA", 5_726),
        ("refcoco+_testB", 4_889),
        ("refcocog_val", 4_896),
        ("refcocog_test", 9_602),
    ],
)
def test_official_sentences_in_refer_layout(shared, tmp_path, records, name, sentences):
    """The official sentences, put into REFER's layout, come out in official number."""
    with gzip.open(shared / "data" / "refcoco_eval" / f"{name}.json.gz") as file:
        rows = json.load(file)
    dataset, split = name.split("_")
    refs: dict[str, dict] = {}
    for sent_id, row in enumerate(rows):
        image_id = int(row["img_id"].split("_")[2])
        empty = {**records.ref(len(refs), len(refs), image_id, split), "sentences": []}
        ref = refs.setdefault(f"{row['img_id']} {row['bbox']}", empty)
        text = row["sents"]
        ref["sentences"].append({"sent_id": sent_id, "sent": text, "tokens": text.split()})
    instances = {
        "images": [records.image(image_id) for image_id in {r["image_id"] for r in refs.values()}],
        "annotations": [records.ann(r["ann_id"], r["image_id"]) for r in refs.values()],
        "categories": [{"id": 1, "name": "person"}],
    }
    (tmp_path / dataset).mkdir()
    (tmp_path / dataset / "instances.json").write_text(json.dumps(instances))
    (tmp_path / dataset / "refs(eval).p").write_bytes(pickle.dumps(list(refs.values()), 2))
    refer = REFER(tmp_path, dataset, "eval")
    chosen = refer.loadRefs(refer.getRefIds(split=split))
    assert sum(len(ref["sentences"]) for ref in chosen) == len(refer.Sents) == sentences
    assert [refer.Sents[i]["sent"] for i in range(sentences)] == [row["sents"] for row in rows]


def test_masks_of_real_data_have_the_area_of_the_file(mini):
    refer = REFER(mini, "refcocog", "umd")
    for ref in refer.data["refs"]:
        found = refer.getMask(ref)
        image = refer.Imgs[ref["image_id"]]
        assert found["mask"].shape == (image["height"], image["width"])
        # COCO's area is that of the polygon; its raster differs by part of the outline.
        ann = refer.refToAnn[ref["ref_id"]]
        assert found["area"] == pytest.approx(ann["area"], rel=0.1, abs=30)
        x, y, w, h = refer.getRefBox(ref["ref_id"])
        rows, columns = np.nonzero(found["mask"])
        assert columns.min() > x - 1
        assert columns.max() < x + w
        assert rows.min() > y - 1
        assert rows.max() < y + h


def test_pictures_of_real_data_are_found(mini):
    refer = REFER(mini, "refcoco", "mini")
    for image_id, image in refer.Imgs.items():
        assert refer.image_path(image_id).name == image["file_name"]


# Indexes.


def check_indexes(refer: REFER) -> None:
    data = refer.data
    assert list(refer.Refs.values()) == data["refs"]
    assert all(type(getattr(refer, name)) is dict for name in INDEXES)
    for ref in data["refs"]:
        ref_id, image_id = ref["ref_id"], ref["image_id"]
        ann = refer.refToAnn[ref_id]
        assert ann is refer.Anns[ref["ann_id"]]
        assert refer.annToRef[ann["id"]]["ann_id"] == ann["id"]
        assert any(one is ref for one in refer.imgToRefs[image_id])
        assert any(one is ann for one in refer.imgToAnns[image_id])
        assert any(one is ref for one in refer.catToRefs[ref["category_id"]])
        for sentence in ref["sentences"]:
            sent_id = sentence["sent_id"]
            assert refer.Sents[sent_id] is sentence
            assert refer.sentToRef[sent_id] is ref
            assert refer.sentToTokens[sent_id] is sentence["tokens"]
    assert sum(map(len, refer.imgToRefs.values())) == len(data["refs"])
    assert sum(map(len, refer.catToRefs.values())) == len(data["refs"])
    assert sum(map(len, refer.imgToAnns.values())) == len(data["annotations"])
    assert set(data) == {"dataset", "refs", "images", "annotations", "categories"}


def test_indexes_agree(refer):
    check_indexes(refer)


def test_indexes_of_real_data_agree(mini):
    for dataset, split_by in (("refcoco", "mini"), ("refcoco+", "unc"), ("refcocog", "google")):
        check_indexes(REFER(mini, dataset, split_by))


def test_pickled_to_a_worker_process(refer):
    copy = pickle.loads(pickle.dumps(refer))
    check_indexes(copy)
    assert copy.data == refer.data
    assert (
        copy.getMask(copy.Refs[0])["mask"].tolist() == refer.getMask(refer.Refs[0])["mask"].tolist()
    )


def test_classic_attributes(refer, tmp_path):
    assert Path(refer.DATA_DIR) == tmp_path / "refcoco"
    assert refer.data["dataset"] == "refcoco"
    assert all(type(one) is str for one in (refer.ROOT_DIR, refer.DATA_DIR, refer.IMAGE_DIR))


# Filters.


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, [0, 1, 2, 3]),
        ({"image_ids": 1}, [0, 1]),
        ({"image_ids": [3, 1]}, [0, 1, 3]),
        ({"image_ids": 4}, []),
        ({"cat_ids": 2}, [1, 3]),
        ({"cat_ids": [1, 2]}, [0, 1, 2, 3]),
        ({"ref_ids": [3, 0]}, [0, 3]),
        ({"ref_ids": 0}, [0]),
        ({"split": "train"}, [0, 1]),
        ({"split": "test"}, [2, 3]),
        ({"image_ids": [1, 2], "cat_ids": 1}, [0, 2]),
        ({"image_ids": [1, 2], "cat_ids": 1, "split": "testA"}, [2]),
        ({"image_ids": 1, "split": "testA"}, []),
        ({"image_ids": np.int64(1), "ref_ids": np.array([1, 2])}, [1]),
        ({"image_ids": {1}, "ref_ids": (i for i in (1, 2))}, [1]),
    ],
)
def test_ref_ids(refer, conditions, expected):
    assert refer.getRefIds(**conditions) == expected


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, [100, 101, 102, 103, 999]),
        ({"image_ids": 4}, [999]),
        ({"image_ids": [4, 1]}, [100, 101, 999]),
        ({"cat_ids": 2}, [101, 103]),
        ({"ref_ids": [2, 0]}, [100, 102]),
        ({"ref_ids": 0, "cat_ids": 2}, []),
        ({"image_ids": 1, "ref_ids": [1, 2]}, [101]),
    ],
)
def test_ann_ids(refer, conditions, expected):
    assert refer.getAnnIds(**conditions) == expected


def test_image_ids_come_once_and_in_order(refer):
    assert refer.getImgIds([3, 0, 1, 2]) == [3, 1, 2]
    assert refer.getImgIds(3) == [3]
    assert refer.getImgIds() == [1, 2, 3, 4]


def test_ids_are_lists(refer):
    assert refer.getCatIds() == [1, 2]
    for ids in (refer.getRefIds(), refer.getAnnIds(), refer.getImgIds(), refer.getCatIds()):
        assert type(ids) is list


def test_loading(refer):
    assert refer.loadRefs(2) == [refer.Refs[2]]
    assert refer.loadRefs([2, 0]) == [refer.Refs[2], refer.Refs[0]]
    assert refer.loadAnns(np.int64(102)) == [refer.Anns[102]]
    assert refer.loadImgs((4, 1)) == [refer.Imgs[4], refer.Imgs[1]]
    assert refer.loadCats([2, 1]) == ["dog", "person"]
    assert refer.loadRefs() == []


def test_box(refer):
    assert refer.getRefBox(0) == [1.0, 2.0, 4.0, 2.0]


@pytest.mark.parametrize("error", [UnknownIdError, KeyError, ValueError])
def test_unknown_ids(refer, error):
    calls = (
        *(
            lambda key=key: refer.getRefIds(**{key: 77})
            for key in ("image_ids", "ref_ids", "cat_ids")
        ),
        *(
            lambda key=key: refer.getAnnIds(**{key: 77})
            for key in ("image_ids", "ref_ids", "cat_ids")
        ),
        *(lambda f=f: f([1, 77]) for f in (refer.loadRefs, refer.loadImgs, refer.loadCats)),
        *(lambda f=f: f(77) for f in (refer.loadAnns, refer.getRefBox, refer.getImgIds)),
        lambda: refer.image_path(77),
    )
    for call in calls:
        with pytest.raises(error, match=r"^no \w+ 77 among the \d+ of refcoco \(unc\)$"):
            call()


def test_ids_that_are_none(refer):
    for odd in ([[1]], [{}], [None]):
        with pytest.raises(UnknownIdError):
            refer.loadRefs(odd)


def test_unknown_split_lists_those_in_the_file(refer):
    with pytest.raises(UnknownNameError, match=r"refs\(unc\)\.p has no split 'val'; it has: train"):
        refer.getRefIds(split="val")


# RefCLEF: letters, str ids, RLE.


@pytest.fixture
def refclef(write_refer, records) -> REFER:
    labels = ("train", "val", "testA", "testB", "testC", "testAB", "testBC", "testAC")
    rle = {"size": [10, 12], "counts": [22, 5, 93]}
    refs = [records.ref(i, f"1_{i}", 1, label) for i, label in enumerate(labels)]
    anns = [records.ann(f"1_{i}", 1, segmentation=[rle]) for i in range(len(labels))]
    return REFER(write_refer("refclef", refs=refs, annotations=anns), "refclef")


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", [0]),
        ("val", [1]),
        ("testA", [2, 5, 7]),
        ("testB", [3, 5, 6]),
        ("testC", [4, 6, 7]),
        ("testAB", [5]),
        ("testBC", [6]),
        ("testAC", [7]),
        ("test", [2, 3, 4, 5, 6, 7]),
    ],
)
def test_splits_of_refclef(refclef, split, expected):
    assert refclef.getRefIds(split=split) == expected


def test_str_ids(refclef):
    assert refclef.loadAnns("1_3") == [refclef.Anns["1_3"]]
    assert [ann["id"] for ann in refclef.loadAnns(["1_3", "1_0"])] == ["1_3", "1_0"]
    assert refclef.getAnnIds(ref_ids=3) == ["1_3"]
    check_indexes(refclef)


def test_mask_from_rle(refclef):
    expected = np.zeros(120, np.uint8)
    expected[22:27] = 1
    found = refclef.getMask(refclef.Refs[0])
    assert found["mask"].tolist() == expected.reshape(12, 10).T.tolist()
    assert found["area"] == 5


# Masks.


@pytest.fixture
def overlapping(write_refer, records) -> REFER:
    """Two rectangles of 4 x 2 and 3 x 4 pixels that share 2 x 1."""
    parts = [[1, 2, 5, 2, 5, 4, 1, 4], [3, 3, 6, 3, 6, 7, 3, 7]]
    refs = [records.ref(0, 100, 1, "train")]
    return REFER(write_refer(refs=refs, annotations=[records.ann(100, 1, segmentation=parts)]))


@pytest.mark.parametrize(
    ("overlap", "pixels", "highest"), [("union", 18, 1), ("drop", 16, 1), ("sum", 20, 2)]
)
def test_overlap(overlapping, overlap, pixels, highest):
    found = overlapping.getMask(overlapping.Refs[0], overlap=overlap)
    assert found["mask"].shape == (10, 12)
    assert found["mask"].dtype == np.uint8
    assert (found["mask"].sum(), found["mask"].max()) == (pixels, highest)
    assert found["area"] == 20


def test_union_is_the_default(overlapping):
    assert overlapping.getMask(overlapping.Refs[0])["mask"].sum() == 18


@pytest.mark.parametrize("changes", [{"segmentation": [[1, 2, 3, 4]]}, {"segmentation": None}])
def test_mask_that_cannot_be_drawn_names_the_annotation(write_refer, records, changes):
    refs = [records.ref(0, 100, 1, "train")]
    refer = REFER(write_refer(refs=refs, annotations=[records.ann(100, 1, **changes)]))
    with pytest.raises(DataFileError, match=r"instances\.json: annotation 100: "):
        refer.getMask(refer.Refs[0])


def test_annotation_without_a_segmentation(write_refer, records):
    ann = records.ann(100, 1)
    del ann["segmentation"]
    refer = REFER(write_refer(refs=[records.ref(0, 100, 1, "train")], annotations=[ann]))
    with pytest.raises(DataFileError, match="annotation 100 has no 'segmentation'"):
        refer.getMask(refer.Refs[0])


def test_masks_and_boxes_leave_annotations_unparsed(refer):
    refer.getMask(refer.Refs[0])
    refer.getRefBox(0)
    assert refer.Anns[100]._json is not None


@pytest.mark.parametrize(("ann_id", "image_id"), [(5, 1), (100, 5)])
def test_refs_and_instances_of_different_downloads(write_refer, records, ann_id, image_id):
    refs = [records.ref(8, ann_id, image_id, "train")]
    with pytest.raises(DataFileError, match=r"ref 8 points to .* same download"):
        REFER(write_refer(refs=refs, annotations=[records.ann(100, 1)]))


def test_import_is_light():
    code = (
        "import refer, sys; print([m for m in ('torch', 'matplotlib', 'PIL') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_an_outline_of_another_picture_is_refused(write_refer, records):
    root = write_refer(
        refs=[records.ref(0, 100, 1, "train")], annotations=[records.ann(100, image_id=2)]
    )
    with pytest.raises(DataFileError, match=r"ref 0 is of image 1, .*annotation 100 .* of image 2"):
        REFER(root)


def test_a_box_is_one_or_is_refused(write_refer, records):
    refs = [records.ref(0, 100, 1, "train")]
    refer = REFER(write_refer(refs=refs, annotations=[records.ann(100, 1, bbox=[1, None, 2, 3])]))
    with pytest.raises(DataFileError, match=r"instances\.json: annotation 100 has the bbox"):
        refer.getRefBox(0)

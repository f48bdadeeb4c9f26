"""REFER, RefShapes, Visual Genome, ReferItGame and RefTR's lists on their way to common records."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refer import REFER
from refer.errors import DataFileError, MissingDataError, UnknownNameError
from refer.grefer import G_REFER
from refer.masks import decode
from refer.readers.phrases import load_phrases, save_phrases
from refer.readers.refer_phrases import corners, evaluation_pictures, refer_phrases
from refer.readers.referit import referit_phrases
from refer.readers.shapes_phrases import shapes_phrases
from refer.readers.visual_genome import vg_phrases
from refer.shapes import generate

# REFER.


def test_every_sentence_of_refer_becomes_a_record(write_refer, records):
    refs = [records.ref(0, 100, 1, "train"), records.ref(3, 103, 3, "testB")]
    refs[1]["sentences"][1]["sent"] = " "
    annotations = [
        records.ann(100, 1, bbox=[1.9, 2.9, 4.2, 2.2]),
        records.ann(103, 3, bbox=[-1, 2, 40, 2]),
    ]
    refer = REFER(write_refer(refs=refs, annotations=annotations))
    notes: Counter[str] = Counter()
    found = list(refer_phrases(refer, notes=notes))
    assert [record.id for record in found] == [
        "refcoco(unc)/0/0",
        "refcoco(unc)/0/1",
        "refcoco(unc)/3/6",
    ]
    assert [record.caption for record in found] == ["thing 0", "the left thing 0", "thing 3"]
    assert found[0].phrases[0].boxes == ((1.9, 2.9, 1.9 + 4.2, 2.9 + 2.2),)
    assert found[2].phrases[0].boxes == ((0, 2, 12, 4),)
    assert {record.split for record in refer_phrases(refer, "test")} == {"testB"}
    assert next(refer_phrases(refer, "train", "raw")).caption == "Thing 0"
    assert notes == {"boxes cut at an edge": 1, "empty sentences left out": 1,
                     "empty boxes dropped": 0}  # fmt: skip


def test_refs_file_names_are_not_pictures(write_refer):
    """`ref['file_name']` names no file; the picture's record does."""
    (record, *_) = refer_phrases(REFER(write_refer()))
    assert record.file_name == "COCO_train2014_000000000001.jpg"


def test_whole_number_boxes_only_when_asked_for():
    """RefTR cuts COCO's floats before it adds the width: here 1.8 pixels of a corner go."""
    assert corners([1.9, 2.9, 4.9, 2.2]) == (1.9, 2.9, 1.9 + 4.9, 2.9 + 2.2)
    assert corners([1.9, 2.9, 4.9, 2.2], "int") == (1, 2, 5, 4)


def test_scored_pictures_leave_the_train_split_alone_if_asked(write_refer, records):
    """RefCOCOg's train split by Google holds pictures that the umd split tests on."""
    refs = [records.ref(i, 100 + i, 1 + i % 3, split) for i, split in
            enumerate(("train", "train", "train", "val"))]  # fmt: skip
    refer = REFER(write_refer("refcocog", "google", refs=refs), "refcocog", "google")
    notes: Counter[str] = Counter()
    found = list(refer_phrases(refer, exclude={2, 1}, notes=notes))
    assert [(record.split, record.image_id) for record in found[::2]] == [("train", 3), ("val", 1)]
    assert notes["train refs left out by COCO id"] == 2


def test_options_and_generalized_data_are_refused(write_refer, tmp_path):
    refer = REFER(write_refer())
    for more in ({"text_field": "tokens"}, {"box_values": "round"}, {"split": "dev"}):
        with pytest.raises(UnknownNameError):
            list(refer_phrases(refer, **more))
    generate(tmp_path / "g", train=1, val=1, test_a=1, test_b=1, size=64, workers=1, extras=True,
             progress=False)  # fmt: skip
    with pytest.raises(UnknownNameError, match="scored by GREC"):
        list(refer_phrases(G_REFER(tmp_path / "g", "grefshapes")))


def test_real_sentences(shared):
    """Boxes and sentences of refer_mini against the official val lists, which others prepared."""
    root, lists = shared / "data/refer_mini", shared / "data/refcoco_eval"
    if not root.is_dir() or not lists.is_dir():
        pytest.skip(f"no {root} or {lists}")
    for dataset, split_by in (("refcoco", "unc"), ("refcoco+", "unc"), ("refcocog", "umd")):
        rows = json.loads(gzip.decompress((lists / f"{dataset}_val.json.gz").read_bytes()))
        official = {
            (int(row["img_id"].split("_")[2]), tuple(np.round(row["bbox"], 2)), row["sents"])
            for row in rows
        }
        found = list(refer_phrases(REFER(root, dataset, split_by), "val"))
        ours = set()
        for record in found:
            ((x1, y1, x2, y2),) = record.phrases[0].boxes
            box = tuple(np.round([x1, y1, x2 - x1, y2 - y1], 2))
            ours.add((record.image_id, box, record.caption))
        assert {one[:2] for one in ours} <= {one[:2] for one in official}
        # The other lists write "t - shirt" in one sentence.
        assert len(found) > 20
        assert len(ours - official) <= 1


# RefShapes.


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    generate(root, train=6, val=4, test_a=2, test_b=2, size=(64, 96), workers=1, extras=True,
             progress=False)  # fmt: skip
    return root / "refshapes"


def test_refshapes(shapes, tmp_path):
    found = list(shapes_phrases(shapes))
    raw = json.loads((shapes / "phrases.json").read_text())
    assert len(found) == len(raw) == 14
    for record, entry in zip(found, raw, strict=True):
        assert (record.width, record.height, record.split) == (96, 64, entry["split"])
        assert [record.text(p) for p in record.phrases] == [p["phrase"] for p in entry["phrases"]]
        assert [[list(b) for b in p.boxes] for p in record.phrases] == [
            p["boxes"] for p in entry["phrases"]
        ]
    save_phrases(tmp_path / "p", found, {})
    assert load_phrases(tmp_path / "p").records == found


def test_a_mask_of_refshapes_is_of_all_that_a_phrase_names(shapes):
    raw = json.loads((shapes / "phrases.json").read_text())
    instances = json.loads((shapes / "instances.json").read_text())
    outlines = {one["id"]: one["segmentation"] for one in instances["annotations"]}
    several = 0
    for record, entry in zip(shapes_phrases(shapes, masks=True), raw, strict=True):
        for phrase, said in zip(record.phrases, entry["phrases"], strict=True):
            found = decode({"size": [64, 96], "counts": phrase.mask}, 64, 96)
            own = [decode(outlines[ann_id], 64, 96) for ann_id in said["ann_ids"]]
            assert np.array_equal(found, np.max(own, axis=0))
            several += len(own) > 1
    assert several


def test_refshapes_files_that_do_not_belong_together(shapes, tmp_path):
    raw = json.loads((shapes / "phrases.json").read_text())
    instances = (shapes / "instances.json").read_text()
    (tmp_path / "phrases.json").write_text(json.dumps(raw))
    with pytest.raises(MissingDataError, match="--extras"):
        list(shapes_phrases(tmp_path))
    (tmp_path / "instances.json").write_text('{"images": []}')
    with pytest.raises(DataFileError, match="is not in instances"):
        list(shapes_phrases(tmp_path))
    (tmp_path / "instances.json").write_text(instances)
    raw[0]["phrases"][0]["start"] += 1
    (tmp_path / "phrases.json").write_text(json.dumps(raw))
    with pytest.raises(DataFileError, match="is not at"):
        list(shapes_phrases(tmp_path))


def test_refshapes_phrases_without_annotations_have_no_mask(shapes, tmp_path):
    raw = json.loads((shapes / "phrases.json").read_text())
    raw[0]["phrases"][0]["ann_ids"] = []
    (tmp_path / "phrases.json").write_text(json.dumps(raw))
    (tmp_path / "instances.json").write_text((shapes / "instances.json").read_text())
    assert len(list(shapes_phrases(tmp_path))) == len(raw)
    with pytest.raises(DataFileError, match=r"phrases\.json: .* no annotation to draw"):
        list(shapes_phrases(tmp_path, masks=True))


def test_sentences_and_boxes_that_are_none(write_refer, records):
    ref = records.ref(0, 100, 1, "train")
    ref["sentences"][1]["raw"] = 5
    refer = REFER(write_refer(refs=[ref]))
    assert len(list(refer_phrases(refer))) == 2
    with pytest.raises(DataFileError, match=r"refs\(unc\)\.p: ref 0 has a sentence without raw"):
        list(refer_phrases(refer, text_field="raw"))
    refer = REFER(write_refer(refs=[ref], annotations=[records.ann(100, 1, bbox=["1"] * 4)]))
    with pytest.raises(DataFileError, match=r"instances\.json: annotation 100 has the bbox"):
        list(refer_phrases(refer))


# Visual Genome.


def vg(folder: Path, coco: list[int | None], **region: Any) -> Path:
    """One picture of 60 x 40 for each COCO id, ids from 1 on, with three regions each."""
    images = [
        {"image_id": i, "url": f"https://x.edu/rak248/VG_100K{'_2' * (i % 2)}/{i}.jpg",
         "width": 60, "height": 40, "coco_id": coco_id, "flickr_id": 1000 + i}
        for i, coco_id in enumerate(coco, start=1)
    ]  # fmt: skip
    base = {"x": 1, "y": 2, "width": 30, "height": 20, "phrase": "a thing"}
    entries = [
        {"id": image["image_id"], "regions": [
            {**base, "region_id": 10 * image["image_id"], "image_id": image["image_id"], **region},
            {**base, "region_id": 10 * image["image_id"] + 1, "x": -4, "width": 90},
            {**base, "region_id": 10 * image["image_id"] + 2, "height": 0},
        ]}
        for image in images
    ]  # fmt: skip
    (folder / "image_data.json").write_text(json.dumps(images))
    (folder / "region_descriptions.json").write_text(json.dumps(entries))
    return folder


def test_regions(tmp_path):
    notes: Counter[str] = Counter()
    found = list(vg_phrases(vg(tmp_path, [None, 77], phrase=" red shade "), (), notes=notes))
    assert [(record.id, record.file_name) for record in found] == [
        ("vg/1/10", "VG_100K_2/1.jpg"), ("vg/1/11", "VG_100K_2/1.jpg"),
        ("vg/2/20", "VG_100K/2.jpg"), ("vg/2/21", "VG_100K/2.jpg"),
    ]  # fmt: skip
    assert found[0].caption == found[0].text(found[0].phrases[0]) == "red shade"
    assert [record.phrases[0].boxes for record in found[:2]] == [
        ((1, 2, 31, 22),),
        ((0, 2, 60, 22),),
    ]
    assert notes == {"boxes cut at an edge": 2, "empty regions left out": 2}
    assert {record.file_name for record in vg_phrases(tmp_path, (), flat=True)} == {
        "1.jpg",
        "2.jpg",
    }


def test_no_picture_leaks_from_refcoco_val_and_test(tmp_path, write_refer, records):
    """Pictures 2 and 3 are of testA and val; 1 is trained on, 5 is of no RefCOCO, None of no COCO.
    Picture 4 is of train in one split of RefCOCOg and of val in the other: out it goes."""
    one = REFER(write_refer(refs=[
        records.ref(0, 100, 1, "train"), records.ref(1, 101, 2, "testA"),
        records.ref(2, 102, 3, "val"), records.ref(3, 103, 4, "train"),
    ]))  # fmt: skip
    two = REFER(write_refer("refcocog", "umd", refs=[records.ref(0, 100, 4, "val")]), "refcocog",
                "umd")  # fmt: skip
    banned = evaluation_pictures([one, two])
    assert banned == {2, 3, 4}
    (tmp_path / "vg").mkdir()
    notes: Counter[str] = Counter()
    found = list(vg_phrases(vg(tmp_path / "vg", [5, None, 3, 1, 4, 2]), banned, notes=notes))
    assert {record.image_id for record in found} == {1, 2, 4}
    assert notes["pictures left out by COCO id"] == 3
    image_data = json.loads((tmp_path / "vg/image_data.json").read_text())
    coco_of = {image["image_id"]: image["coco_id"] for image in image_data}
    trained_on = {coco_of[record.image_id] for record in found}
    scored_on = {ref["image_id"] for refer in (one, two) for ref in refer.data["refs"]
                 if ref["split"] != "train"}  # fmt: skip
    assert not trained_on & scored_on
    kept = {r.image_id for r in vg_phrases(tmp_path / "vg", (), exclude_flickr={1001, 1006})}
    assert kept == {2, 3, 4, 5}


def test_forgetting_the_exclusion_is_an_error(tmp_path):
    with pytest.raises(TypeError, match="exclude_coco"):
        vg_phrases(tmp_path)  # type: ignore[call-arg]


def test_damaged_visual_genome(tmp_path):
    with pytest.raises(MissingDataError, match=r"visualgenome\.org"):
        list(vg_phrases(tmp_path, ()))
    with pytest.raises(DataFileError, match="region 10 of picture 1 says it is of picture 9"):
        list(vg_phrases(vg(tmp_path, [None], image_id=9), ()))
    with pytest.raises(DataFileError, match=r"region_descriptions.*Expected `float`.*\.x"):
        list(vg_phrases(vg(tmp_path, [None], x="1"), ()))
    (tmp_path / "image_data.json").write_text("[]")
    with pytest.raises(DataFileError, match="picture 1 is not in image_data"):
        list(vg_phrases(vg(tmp_path, [None]) and _without_images(tmp_path), ()))


def _without_images(folder: Path) -> Path:
    (folder / "image_data.json").write_text("[]")
    return folder


def test_real_regions(shared, tmp_path):
    folder = shared / "data/vg_sample"
    if not folder.is_dir():
        pytest.skip(f"no Visual Genome sample at {folder}")
    notes: Counter[str] = Counter()
    found = list(vg_phrases(folder, (), notes=notes))
    raw = json.loads((folder / "region_descriptions.json").read_text())
    left_out = notes["regions without words"] + notes["empty regions left out"]
    assert len(found) + left_out == sum(len(entry["regions"]) for entry in raw)
    assert left_out <= 0.01 * len(found)
    save_phrases(tmp_path / "p", iter(found), {"notes": notes})
    again = load_phrases(tmp_path / "p")
    assert again.records == found
    assert again.header["n_records"] == len(found)


# ReferItGame.


@pytest.fixture
def referit(tmp_path: Path) -> Path:
    contents = {
        "query_train": {"38_1": ["sky", " "], "38_2": ["left tree", "tree on left"]},
        "query_test": {"4_1": ["man"]},
        "bbox": {"38_1": [0, 0, 59, 9], "38_2": [5, 6, 5, 20], "4_1": [1, 2, 99, 8]},
        "imsize": {"38.jpg": [60, 40], "4.jpg": [50, 50]},
    }
    for name, content in contents.items():
        (tmp_path / f"referit_{name}.json").write_text(json.dumps(content))
    return tmp_path


def test_referit(referit):
    notes: Counter[str] = Counter()
    found = list(referit_phrases(referit, ["train", "test"], notes=notes))
    assert [(r.id, r.split, r.caption, r.file_name) for r in found] == [
        ("referit/38_1/0", "train", "sky", "38.jpg"),
        ("referit/38_2/0", "train", "left tree", "38.jpg"),
        ("referit/38_2/1", "train", "tree on left", "38.jpg"),
        ("referit/4_1/0", "test", "man", "4.jpg"),
    ]
    assert [r.phrases[0].boxes for r in found] == [
        ((0, 0, 59, 9),), (), (), ((1, 2, 50, 8),),
    ]  # fmt: skip
    assert notes == {"boxes cut at an edge": 1, "empty boxes dropped": 1,
                     "empty expressions left out": 1}  # fmt: skip
    whole = list(referit_phrases(referit, ["train"], last_pixel=True))
    assert whole[0].phrases[0].boxes == ((0, 0, 60, 10),)
    assert whole[1].phrases[0].boxes == ((5, 6, 6, 21),)


def test_damaged_referit(referit):
    with pytest.raises(MissingDataError, match=r"referit_query_val\.json; .*text_objseg"):
        list(referit_phrases(referit))
    (referit / "referit_imsize.json").write_text('{"4.jpg": [50, 50]}')
    with pytest.raises(DataFileError, match=r"region '38_1' wants '38.jpg' of .*imsize"):
        list(referit_phrases(referit, ["train"]))
    (referit / "referit_bbox.json").write_text('{"4_1": [1, 2, 3]}')
    with pytest.raises(DataFileError, match=r"referit_bbox\.json: Expected `array` of length 4"):
        list(referit_phrases(referit, ["train"]))


@pytest.mark.parametrize("width", [-1, 0, 10**30])
def test_visual_genome_pictures_of_no_size(tmp_path, width):
    folder = vg(tmp_path, [None])
    images = json.loads((folder / "image_data.json").read_text())
    (folder / "image_data.json").write_text(json.dumps([{**images[0], "width": width}]))
    with pytest.raises(DataFileError, match=r"image_data\.json: .*width"):
        list(vg_phrases(folder, ()))

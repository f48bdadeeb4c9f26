"""G_REFER: several targets or none, the original's defects absent, counts and hash."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from refer.datasets import RefDataset
from refer.errors import DataFileError, MissingDataError, UnknownIdError, UnknownNameError
from refer.grefer import G_REFER
from refer.shapes import generate


def square(x: int, y: int, side: int = 10) -> list[float]:
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def ref(ref_id: int, ann_id: Any, category_id: Any, text: str, **more: Any) -> dict[str, Any]:
    return {
        "ref_id": ref_id, "image_id": more.pop("image_id", 1), "split": more.pop("split", "val"),
        "ann_id": ann_id, "category_id": category_id, "file_name": "a.jpg",
        "sentences": [{"sent_id": ref_id, "sent": text, "raw": text, "tokens": text.split()}],
        "sent_ids": [ref_id], **more,
    }  # fmt: skip


@pytest.fixture
def content() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Two targets of one category, one bare int, none, and a picture without any ref."""
    refs = [
        ref(1, [11, 12], [1, 1], "both dogs"),
        ref(2, 13, 2, "the cat", split="train"),
        ref(3, [-1], [-1], "the horse"),
        ref(4, [13, 14], [2, 2], "the cat and the crowd", unknown_entry="kept"),
    ]
    base = {"image_id": 1, "area": 100, "iscrowd": 0}
    annotations = [
        {**base, "id": 11, "category_id": 1, "bbox": [0, 0, 10, 10],
         "segmentation": [square(0, 0)]},
        {**base, "id": 12, "category_id": 1, "bbox": [5, 5, 15, 10],
         "segmentation": [square(5, 5), square(10, 5)]},
        {**base, "id": 13, "category_id": 2, "bbox": [20, 20, 10, 10],
         "segmentation": [square(20, 20)]},
        {**base, "id": 14, "category_id": 2, "bbox": [0, 0, 40, 30], "iscrowd": 1,
         "segmentation": {"size": [30, 40], "counts": [0, 1200]}},
    ]  # fmt: skip
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 30, "width": 40} for i in (1, 2)]
    categories = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    return refs, {"images": images, "annotations": annotations, "categories": categories}


def write(root: Path, refs: Any, instances: Any, name: str = "grefs(unc).json") -> Path:
    folder = root / "grefcoco"
    folder.mkdir(exist_ok=True)
    data = pickle.dumps(refs, 2) if name.endswith(".p") else json.dumps(refs).encode()
    (folder / name).write_bytes(data)
    (folder / "instances.json").write_text(json.dumps(instances))
    return root


@pytest.fixture
def grefer(tmp_path, content) -> G_REFER:
    return G_REFER(write(tmp_path, *content))


def test_indexes_are_the_originals(grefer):
    assert grefer.Anns[-1] is None
    assert [a["id"] for a in grefer.refToAnn[1]] == [11, 12]
    assert grefer.refToAnn[3] == [None]
    assert [r["ref_id"] for r in grefer.annToRef[13]] == [2, 4]
    assert [r["ref_id"] for r in grefer.annToRef[-1]] == [3]
    assert grefer.availableSplits == ["val", "train"]
    assert grefer.Refs[2]["ann_id"] == [13]  # a bare int becomes a list
    assert grefer.Refs[4]["unknown_entry"] == "kept"
    assert grefer.sentToRef[3]["ref_id"] == 3


def test_filters(grefer):
    assert grefer.getRefIds() == [1, 2, 3, 4]
    assert grefer.getRefIds(split="val") == [1, 3, 4]
    assert grefer.getRefIds(cat_ids=2) == [2, 4]
    assert grefer.getRefIds(cat_ids=[-1]) == [3]
    assert grefer.getRefIds(image_ids=2) == []  # a KeyError in the original
    assert grefer.getAnnIds(ref_ids=[1, 3]) == [11, 12]
    assert grefer.getAnnIds(ref_ids=3) == []
    assert grefer.getImgIds(ref_ids=[1, 2]) == [1]
    with pytest.raises(UnknownNameError, match=r"'testA'.*val, train"):
        grefer.getRefIds(split="testA")


@pytest.mark.parametrize(
    ("ref_id", "seg_box", "patches", "layers"),
    [
        (1, "seg", 6, 1),  # a thin line within a broad one for each of three parts
        (1, "box", 2, 1),
        (3, "seg", 0, 1),
        (3, "box", 0, 1),
        (4, "seg", 0, 2),  # one of them has no outline: the mask of all
        (4, "box", 2, 1),
    ],
)
def test_show_ref_draws_every_target(tmp_path, content, axes, ref_id, seg_box, patches, layers):
    (tmp_path / "train2014").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "train2014" / "1.jpg")
    grefer = G_REFER(write(tmp_path, *content))
    grefer.showRef(grefer.Refs[ref_id], seg_box)
    axes.figure.canvas.draw()
    assert (len(axes.patches), len(axes.images)) == (patches, layers)


def test_the_data_set_draws_what_the_api_draws(tmp_path, content):
    """A crowd is a target, and neither mask nor boxes have it."""
    (tmp_path / "train2014").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "train2014" / "1.jpg")
    grefer = G_REFER(write(tmp_path, *content))
    dataset = RefDataset(grefer, "val", (30, 40), overlap="union")
    for one in dataset.refs:
        expected = grefer.getMaskByRef(ref_id=one.ref_id, merge=True)["mask"]
        assert dataset.mask(one).tolist() == expected.tolist()
    counts = {item["ref_id"]: item["n_targets"] for item in dataset}
    assert counts == {1: 2, 3: 0, 4: 2}
    corners = [[[0, 0, 10, 10], [5, 5, 20, 15]], [], [[20, 20, 30, 30]]]  # x + width, y + height
    assert [dataset.boxes(one).tolist() for one in dataset.refs] == corners


def test_show_mask_draws_the_union(grefer, axes):
    grefer.showMask(grefer.Refs[1])
    axes.figure.canvas.draw()
    drawn = axes.images[0].get_array()[..., 3] > 0
    assert drawn.tolist() == (grefer.getMaskByRef(ref_id=1, merge=True)["mask"] > 0).tolist()


def test_masks_of_several_and_of_none(grefer):
    both = grefer.getMaskByRef(ref_id=1, merge=True)
    expected = np.zeros((30, 40), np.uint8)
    expected[0:10, 0:10] = expected[5:15, 5:20] = 1
    assert np.array_equal(both["mask"], expected)
    assert not both["empty"]
    # Overlapping parts of one outline count once; the original gives 2 there.
    parts = grefer.getMaskByRef(grefer.Refs[1])
    assert [p["mask"].max() for p in parts] == [1, 1]
    assert parts[1]["area"] == 200
    # By id and without target: a crash in the original.
    nothing = grefer.getMaskByRef(ref_id=3, merge=True)
    assert nothing["empty"]
    assert nothing["mask"].shape == (30, 40)
    assert not nothing["mask"].any()
    assert grefer.getMaskByRef(ref_id=3) == []
    assert grefer.getMask(None) is None
    assert grefer.getRefBox(3) == []
    assert grefer.getRefBox(1) == [[0, 0, 10, 10], [5, 5, 15, 10]]
    # Crowds: refused alone, left out of a list.
    assert len(grefer.getMaskByRef(ref_id=4)) == 1
    with pytest.raises(DataFileError, match="14 is a crowd"):
        grefer.getMask(grefer.Anns[14])


def test_counts_and_hash_are_told(grefer, tmp_path, caplog):
    path = tmp_path / "grefcoco" / "grefs(unc).json"
    assert grefer.ref_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert grefer.counts["val"] == {
        "pictures": 1, "refs": 3, "expressions": 3, "no_target": 1, "single": 0, "multi": 2,
    }  # fmt: skip
    with caplog.at_level("INFO"):
        G_REFER(tmp_path)
    assert grefer.ref_sha256 in caplog.text


def test_a_pickle_is_preferred_and_read_safely(tmp_path, content):
    refs, instances = content
    write(tmp_path, refs[:1], instances)
    write(tmp_path, refs, instances, "grefs(unc).p")
    assert len(G_REFER(tmp_path).Refs) == 4

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return print, ("run",)

    (tmp_path / "grefcoco/grefs(unc).p").write_bytes(pickle.dumps([Evil()]))
    with pytest.raises(DataFileError, match="refused"):
        G_REFER(tmp_path)
    (tmp_path / "grefcoco/grefs(unc).p").unlink()
    (tmp_path / "grefcoco/grefs(unc).json").write_text("[" * 200_000)
    with pytest.raises(DataFileError, match=r"grefs\(unc\)\.json: not JSON"):
        G_REFER(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ann_id": [11, 99]}, r"ref 1 points to annotations \[99\]"),
        ({"ann_id": [11, -1]}, "-1 .no target. stands alone"),
        ({"ann_id": []}, "two lists of one length"),
        ({"ann_id": "11"}, r"ref #0 \(ref_id 1\)"),
        ({"ref_id": 2}, "ref_id 2 occurs twice"),
        ({"image_id": 5}, "of image 5"),
    ],
)
def test_damage_is_named(tmp_path, content, change, message):
    refs, instances = content
    refs[0].update(change)
    with pytest.raises(DataFileError, match=message):
        G_REFER(write(tmp_path, refs, instances))


def test_missing_files_and_other_data_sets(tmp_path):
    with pytest.raises(MissingDataError, match=r"grefs\(unc\)\.p nor grefs\(unc\)\.json"):
        G_REFER(tmp_path)
    with pytest.raises(FileNotFoundError):
        G_REFER(tmp_path)
    with pytest.raises(KeyError):
        G_REFER(tmp_path, "refcoco")
    with pytest.raises(UnknownIdError, match="use REFER"):
        G_REFER(tmp_path, "refcoco")


def test_refshapes_general_is_read(tmp_path):
    """The embedded stand-in: plurals and no-targets, masks equal to the annotations' union."""
    generate(tmp_path, train=20, val=4, test_a=2, test_b=2, size=64, workers=1, extras=True,
             progress=False)  # fmt: skip
    grefer = G_REFER(tmp_path)
    train = grefer.counts["train"]
    assert train["no_target"] > 0
    assert train["multi"] > 0
    assert train["single"] > 0
    for one in grefer.Refs.values():
        merged = grefer.getMaskByRef(one, merge=True)
        parts = grefer.getMaskByRef(one)
        assert merged["empty"] == (one["ann_id"] == [-1])
        assert int(merged["mask"].sum()) == sum(part["area"] for part in parts)
        assert grefer.image_path(one["image_id"]).is_file()


def test_an_outline_of_another_picture_is_refused(tmp_path, content):
    refs, instances = content
    instances["annotations"][1]["image_id"] = 2
    root = write(tmp_path, refs, instances)
    with pytest.raises(DataFileError, match=r"ref 1 is of image 1, .*annotation 12 .* of image 2"):
        G_REFER(root)


def test_annotations_that_no_ref_names_may_lack_picture_and_box(tmp_path, content):
    refs, instances = content
    instances["annotations"].append({**instances["annotations"][0], "id": 15, "image_id": 99})
    instances["annotations"][0]["bbox"] = None
    grefer = G_REFER(write(tmp_path, refs, instances))
    with pytest.raises(UnknownIdError, match="no image 99"):
        grefer.getMask(grefer.Anns[15])
    with pytest.raises(DataFileError, match="annotation 11 has the bbox None"):
        grefer.getRefBox(1)

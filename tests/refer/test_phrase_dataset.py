"""Items and batches of phrases against the records they come from, and box arithmetic."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from refer import REFER
from refer.boxes import hull, to_pixels, to_shares
from refer.datasets import PhraseDataset, collate_phrases
from refer.errors import DataFileError, MissingDataError, PictureError, UnknownNameError
from refer.evaluation.grounding import GroundingEvaluator
from refer.evaluation.grounding_scores import GROUNDING_PROTOCOLS
from refer.readers.phrases import Phrase, PhraseRecord, save_phrases
from refer.readers.refer_phrases import refer_phrases
from refer.readers.shapes_phrases import shapes_phrases
from refer.shapes import generate

MEN = Phrase(0, 7, ((0.0, 0.0, 30.0, 20.0), (30.0, 10.0, 60.0, 40.0)), ("people",))
CHESS = Phrase(13, 18, ((15.0, 10.0, 45.0, 30.0),))
PARK = Phrase(22, 28, ())


def record(name: str, split: str = "val", picture: int = 1, *phrases: Phrase) -> PhraseRecord:
    return PhraseRecord(
        name, "made", split, picture, f"{picture}.png", 60, 40, "Six men play chess in a park",
        phrases or (MEN, PARK, CHESS),
    )  # fmt: skip


RECORDS = [
    record("a"),
    record("b", "val", 2, CHESS),
    record("c", "val", 1, CHESS, MEN),
    record("d", "val", 1, PARK),  # nothing to ask
    record("e", "train", 2),
    record("f", "testA", 2),
    record("g", "testB", 1),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in (1, 2):
        pixels = rng.integers(0, 256, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    save_phrases(tmp_path / "p.jsonl", RECORDS, {})
    return tmp_path


def data(root: Path, split: Any = "val", **more: Any) -> PhraseDataset:
    return PhraseDataset(root / "p.jsonl", root, split, 32, **more)


def test_an_item(root):
    item = data(root)[0]
    assert (item["image"].shape, item["image"].dtype) == ((3, 32, 32), torch.uint8)
    assert (item["image_id"], item["file_name"], item["original_size"]) == (1, "1.png", (40, 60))
    (caption,) = item["captions"]
    assert [caption[a:b] for a, b in item["spans"].tolist()] == ["Six men", "chess"]
    # By hand: the hull of the men is the whole picture; the chess board is its middle half.
    assert item["boxes"].tolist() == [[0.5, 0.5, 1.0, 1.0], [0.5, 0.5, 0.5, 0.5]]
    assert item["boxes"].dtype == torch.float32
    assert [truth.tolist() for truth in item["truth"]] == [
        [[0, 0, 30, 20], [30, 10, 60, 40]],
        [[15, 10, 45, 30]],
    ]
    assert item["truth"][0].dtype == torch.float64
    assert item["keys"] == [("a", 0), ("a", 2)]  # places in the record, PARK included
    assert item["types"] == [("people",), ()]
    assert item["caption_of_phrase"].tolist() == [0, 0]
    assert (item["spans"].dtype, item["caption_of_phrase"].dtype) == (torch.int64, torch.int64)


def test_phrases_without_boxes_are_not_asked(root):
    found = data(root)
    assert [record.id for record in found.records] == ["a", "b", "c"]
    assert found.keys == [("a", 0), ("a", 2), ("b", 0), ("c", 0), ("c", 1)]


def test_one_item_a_picture(root):
    found = data(root, group="picture")
    assert [item["ids"] for item in found] == [["a", "c"], ["b"]]  # type: ignore[attr-defined]
    item = found[0]
    assert item["caption_of_phrase"].tolist() == [0, 0, 1, 1]
    assert item["keys"] == [("a", 0), ("a", 2), ("c", 0), ("c", 1)]
    assert found.keys == data(root).keys


@pytest.mark.parametrize("group", ["caption", "picture"])
def test_batches(root, group):
    found = data(root, group=group)
    for batch_size in (1, 2, 3):
        loader = DataLoader(found, batch_size, collate_fn=collate_phrases)
        batches = list(loader)
        assert [key for batch in batches for key in batch["keys"]] == [
            key for index in range(len(found)) for key in found[index]["keys"]
        ]
        for batch in batches:
            pictures = len(batch["image"])
            assert len(batch["picture_index"]) == len(batch["captions"]) == len(batch["ids"])
            assert batch["picture_index"].max() == pictures - 1
            assert len(batch["spans"]) == len(batch["boxes"]) == len(batch["truth"])
            rows = zip(batch["caption_of_phrase"], batch["spans"], batch["keys"], strict=True)
            for row, (start, end), (name, place) in rows:
                assert batch["ids"][row] == name
                (own,) = (record for record in RECORDS if record.id == name)
                phrase = own.phrases[place]
                assert batch["captions"][row][start:end] == own.text(phrase)
                picture = int(batch["picture_index"][row])
                assert batch["file_names"][picture] == own.file_name
                assert batch["original_sizes"][picture] == (40, 60)


def test_splits(root):
    def ids(split: Any) -> list[str]:
        return [record.id for record in data(root, split).records]

    assert ids("train") == ["e"]
    assert ids("test") == ["f", "g"]
    assert ids("testB") == ["g"]
    assert ids(["train", "val"]) == ["a", "b", "c", "e"]
    with pytest.raises(
        UnknownNameError, match=r"'dev' in .*labels there: val, train, testA, testB"
    ):
        data(root, "dev")
    with pytest.raises(UnknownNameError, match="of split 'dev' in"):
        data(root, ["val", "dev"])


def test_several_files_and_sources(root, tmp_path):
    (tmp_path / "other").mkdir()
    (root / "1.png").rename(tmp_path / "other" / "1.png")
    other = msgspec.structs.replace(record("z"), source="other")
    save_phrases(tmp_path / "q", [other], {})
    save_phrases(tmp_path / "p.jsonl", [record("b", "val", 2, CHESS)], {})
    files = [root / "p.jsonl", tmp_path / "q"]
    found = PhraseDataset(files, {"made": root, "other": tmp_path / "other"}, "val", 8)
    assert [item["ids"] for item in found] == [["b"], ["z"]]  # type: ignore[attr-defined]
    with pytest.raises(UnknownNameError, match="no folder for source 'other', only for made"):
        PhraseDataset(files, {"made": root}, "val")
    with pytest.raises(DataFileError, match=r"q: record 'z' is in an earlier file already"):
        PhraseDataset([tmp_path / "q", tmp_path / "q"], tmp_path / "other", "val")


def test_pictures_are_checked(root):
    Image.new("RGB", (61, 40)).save(root / "1.png")
    with pytest.raises(PictureError, match=r"40 x 61 .* are for 40 x 60.*\(record 'a'\)"):
        data(root)[0]
    (root / "1.png").unlink()
    with pytest.raises(MissingDataError, match=r"no picture .*1\.png \(record 'a'\)"):
        data(root)
    with pytest.raises(UnknownNameError, match="group is 'phrase'"):
        data(root, group="phrase")


def test_records_of_one_picture_must_agree_on_its_size(root):
    small = msgspec.structs.replace(record("small", "val", 1, CHESS), height=39)
    save_phrases(root / "p.jsonl", [RECORDS[0], small], {})
    with pytest.raises(DataFileError, match=r"'a' and 'small' give 1\.png the sizes 60 x 40 and"):
        data(root, group="picture")


def test_hash_depends_on_the_records_alone(root):
    found = data(root)
    assert PhraseDataset(root / "p.jsonl", root, "val", 8, "picture").data_hash == found.data_hash
    save_phrases(root / "p.jsonl", RECORDS[::-1], {"source": "elsewhere"})
    assert data(root).data_hash == found.data_hash
    moved = msgspec.structs.replace(CHESS, boxes=((15.0, 10.0, 45.0, 31.0),))
    save_phrases(root / "p.jsonl", [record("a", "val", 1, MEN, PARK, moved), *RECORDS[1:]], {})
    assert data(root).data_hash != found.data_hash


def double(item: dict[str, Any]) -> dict[str, Any]:
    return {**item, "boxes": item["boxes"] * 2}


def test_transform_and_workers(root):
    found = data(root, transform=double)
    assert found[0]["boxes"][0].tolist() == [1, 1, 2, 2]
    again = pickle.loads(pickle.dumps(found))
    assert torch.equal(again[0]["image"], found[0]["image"])
    (batch,) = DataLoader(found, 3, num_workers=1, collate_fn=collate_phrases)
    assert batch["keys"] == found.keys


def test_pictures_kept_in_memory_are_read_once(root):
    kept = data(root, keep_in_memory=True)
    first = kept[0]["image"]
    (root / "1.png").unlink()
    assert torch.equal(kept[2]["image"], first)  # another caption of the same picture
    assert (root / "2.png").exists()
    assert not torch.equal(kept[1]["image"], first)


def test_more_phrases_than_the_original_has_room_for(root):
    """RefTR has 16 places for phrases; here a caption keeps all of its own."""
    many = record("many", "val", 1, *([CHESS, MEN] * 20))
    save_phrases(root / "p.jsonl", [many], {})
    assert len(data(root)[0]["spans"]) == 40


# Boxes.

sides = st.floats(0, 1000, allow_nan=False)


@given(st.lists(st.tuples(sides, sides, sides, sides), min_size=1), st.integers(1, 999))
def test_shares_and_pixels_are_inverse(corners, height):
    boxes = torch.tensor(corners, dtype=torch.float64)
    boxes[:, 2:] += boxes[:, :2]
    width = 1000 - height
    again = to_pixels(to_shares(boxes, height, width), height, width)
    assert torch.allclose(again, boxes, atol=1e-9)
    around = hull(boxes)
    assert (around[:2] <= boxes[:, :2]).all()
    assert (around[2:] >= boxes[:, 2:]).all()
    assert (boxes[:, 0] == around[0]).any()
    assert (boxes[:, 3] == around[3]).any()


def test_shares_do_not_mind_resizing():
    box = torch.tensor([[15.0, 10.0, 45.0, 30.0]])
    resized = box * torch.tensor([512 / 60, 512 / 40] * 2)
    assert torch.allclose(to_shares(box, 40, 60), to_shares(resized, 512, 512))


# From generated pictures to scores.


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    generate(root, train=4, val=6, test_a=1, test_b=1, size=(64, 96), workers=1, extras=True,
             progress=False)  # fmt: skip
    save_phrases(root / "phrases.jsonl", shapes_phrases(root / "refshapes"), {})
    return root


@pytest.mark.parametrize("name", GROUNDING_PROTOCOLS)
def test_a_perfect_answer_scores_100(shapes, name):
    """Boxes go through shares in float32 and back, as a model's do."""
    found = PhraseDataset(shapes / "phrases.jsonl", shapes / "images/refshapes", "val", 32)
    protocol = GROUNDING_PROTOCOLS[name]
    evaluator, nothing = GroundingEvaluator(protocol), GroundingEvaluator(protocol)
    for batch in DataLoader(found, 2, collate_fn=collate_phrases):
        for place, key in enumerate(batch["keys"]):
            picture = int(batch["picture_index"][batch["caption_of_phrase"][place]])
            height, width = batch["original_sizes"][picture]
            truth = batch["truth"][place]
            answer = to_pixels(batch["boxes"][place], height, width)
            if protocol.truth == "any":
                answer = truth[-1]
            evaluator.update(key[0], answer, truth, phrase=key[1])
            nothing.update(key[0], [], truth, phrase=key[1])
    scores = evaluator.compute(found.keys)
    assert scores["Acc@0.5"] == 100.0
    assert scores["mIoU"] == pytest.approx(100, abs=1e-3)
    assert nothing.compute(found.keys)["R@all"] == 0.0


def test_real_pictures(shared, tmp_path):
    """RefCOCO's val at hand: counts as prepared, every picture found, true boxes inside of it."""
    root = shared / "data/refer_mini"
    if not root.is_dir():
        pytest.skip(f"no real pictures at {root}")
    counts = json.loads((root / "counts.json").read_text())
    for dataset, split_by in (("refcoco", "unc"), ("refcoco+", "unc"), ("refcocog", "umd")):
        path = tmp_path / f"{dataset}.jsonl"
        save_phrases(path, refer_phrases(REFER(root, dataset, split_by)), {})
        pictures = root / "images/mscoco/images/train2014"
        for split in ("val", "testA", "testB", "test"):
            expected = counts.get(f"{dataset}({split_by}) {split}")
            if expected is None:
                continue
            found = PhraseDataset(path, pictures, split, 64, "picture")
            assert (len(found), len(found.records)) == (expected[0], expected[2])
            for index in range(len(found)):
                item = found[index]
                assert item["image"].shape == (3, 64, 64)
                assert ((item["boxes"] >= 0) & (item["boxes"] <= 1)).all()
                again = to_pixels(item["boxes"].double(), *item["original_size"])
                assert torch.allclose(again, torch.cat(item["truth"]), atol=1e-3)

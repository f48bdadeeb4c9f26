"""Defects of published grounding code, data and scores alone, that must be absent here.

The numbers in brackets are those of the list of RefTR's defects; the others are of programs whose
scores stand beside it.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from refer import REFER
from refer.datasets import PhraseDataset, collate_phrases
from refer.errors import DataFileError, UnknownNameError
from refer.evaluation import (
    GROUNDING_PROTOCOLS,
    GroundingEvaluator,
    load_predictions,
    save_predictions,
)
from refer.readers.phrases import save_phrases
from refer.readers.refer_phrases import refer_phrases
from refer.readers.reftr_lists import reftr_phrases
from refer.readers.visual_genome import vg_phrases

REFTR = GROUNDING_PROTOCOLS["reftr"]
GOOD, BAD = [0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]


@pytest.fixture
def refer(write_refer, records) -> REFER:
    """Three refs in one picture; two of them share an annotation; every ref has two sentences."""
    refs = [records.ref(0, 100, 1, "val"), records.ref(1, 100, 1, "val"),
            records.ref(2, 102, 1, "val")]  # fmt: skip
    annotations = [records.ann(100, 1, bbox=[1.6, 1.6, 4.9, 4.9]), records.ann(102, 1)]
    return REFER(write_refer(refs=refs, annotations=annotations))


def test_1_expressions_of_a_picture_do_not_overwrite_one_another(refer, tmp_path):
    evaluator = GroundingEvaluator(REFTR)
    expressions = list(refer_phrases(refer, "val"))
    for number, record in enumerate(expressions):
        truth = record.phrases[0].boxes
        evaluator.update(record.id, truth if number % 2 else [BAD], truth)
    save_predictions(tmp_path / "p", evaluator, {})
    rows = load_predictions(tmp_path / "p")[0].rows()
    assert len({record.image_id for record in expressions}) == 1
    assert len(rows) == len(expressions) == 6
    assert evaluator.compute()["Acc@0.5"] == 50.0


def test_1_one_process_writes_what_all_found(tmp_path):
    shards = [GroundingEvaluator(REFTR) for _ in range(2)]
    shards[0].update("a", GOOD, GOOD)
    shards[1].update("b", BAD, GOOD)
    gathered = GroundingEvaluator(REFTR)
    for state in [shard.state() for shard in shards]:
        gathered.merge(GroundingEvaluator.from_state(REFTR, state))
    save_predictions(tmp_path / "p", gathered, {})
    assert [row["id"] for row in load_predictions(tmp_path / "p")[0].rows()] == ["a", "b"]


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
def test_4_padded_samples_count_once(world):
    """Samplers make shards even by repeating the first items: right ones here, so that counting
    them twice would raise the score."""
    answers = {f"e{n}": GOOD if n < 3 else BAD for n in range(10)}
    names = list(answers)
    padded = names + names[: -len(names) % world]
    whole = GroundingEvaluator(REFTR)
    for rank in range(world):
        shard = GroundingEvaluator(REFTR)
        for name in padded[rank::world]:
            shard.update(name, answers[name], GOOD)
        whole.merge(shard)
    scores = whole.compute([(name, 0) for name in names])
    assert scores["Acc@0.5"] == 30.0
    assert (scores["n_items"], scores["n_duplicates"]) == (10, len(padded) - len(names))


def test_9_true_boxes_keep_their_fractions(refer, tmp_path):
    """Cut to whole numbers, a box of 4.9 x 4.9 at (1.6, 1.6) is one of 4 x 4 at (1, 1)."""
    exact, cut = (
        next(refer_phrases(refer, "val", box_values=values)).phrases[0].boxes[0]
        for values in ("float", "int")
    )
    assert exact == (1.6, 1.6, 6.5, 6.5)
    assert cut == (1, 1, 5, 5)
    answer = [3.0, 3.0, 6.5, 6.5]
    scores = {}
    for name, truth in (("exact", exact), ("cut", cut)):
        evaluator = GroundingEvaluator(REFTR)
        evaluator.update("e", answer, truth)
        scores[name] = evaluator.compute()["Acc@0.5"]
    assert scores == {"exact": 100.0, "cut": 0.0}
    torch.save([("a.jpg", None, [1.6, 1.6, 4.9, 4.9], "e", [])], tmp_path / "l.pth")
    (record,) = reftr_phrases(tmp_path / "l.pth", "refcoco", "val", lambda name: (60, 40))
    assert record.phrases[0].boxes == (exact,)


def test_visual_genome_has_no_test_split_of_another_data_set(tmp_path):
    """RefTR's `--dataset vg --test_split test` silently reads ReferItGame."""
    image = {"image_id": 1, "url": "u/VG_100K/1.jpg", "width": 60, "height": 40}
    region = {"region_id": 1, "x": 1, "y": 1, "width": 5, "height": 5, "phrase": "a thing"}
    (tmp_path / "image_data.json").write_text(json.dumps([image]))
    regions = [{"id": 1, "regions": [region]}]
    (tmp_path / "region_descriptions.json").write_text(json.dumps(regions))
    save_phrases(tmp_path / "vg", vg_phrases(tmp_path, ()), {})
    with pytest.raises(UnknownNameError, match=r"of split 'test' in .*labels there: train"):
        PhraseDataset(tmp_path / "vg", tmp_path, "test")


def test_training_takes_no_split_that_was_not_asked_for(refer, records, write_refer, tmp_path):
    """RefTR's Flickr30k and ReferIt recipes train on train and val unless told otherwise."""
    refs = [records.ref(0, 100, 1, "train"), records.ref(1, 101, 2, "val")]
    both = REFER(write_refer(refs=refs))
    save_phrases(tmp_path / "p", refer_phrases(both), {})
    for number in (1, 2):
        name = f"COCO_train2014_{number:012d}.jpg"
        Image.new("RGB", (12, 10)).save(tmp_path / name)
    assert len(PhraseDataset(tmp_path / "p", tmp_path, "train")) == 2
    assert len(PhraseDataset(tmp_path / "p", tmp_path, ["train", "val"])) == 4


def test_two_refs_of_one_annotation_stay_two(refer):
    """MMDetection's metric drops all but the last of them."""
    found = list(refer_phrases(refer, "val"))
    assert len(found) == 6
    assert len({record.phrases[0].boxes for record in found}) == 2


def test_every_sentence_counts_and_means_stay_below_100(refer):
    """LAVT validates on one random sentence a ref; VPD divides a sum over sentences by refs."""
    evaluator = GroundingEvaluator(REFTR)
    for record in refer_phrases(refer, "val"):
        evaluator.update(record.id, record.phrases[0].boxes, record.phrases[0].boxes)
    scores = evaluator.compute()
    assert scores["n_items"] == sum(len(ref["sentences"]) for ref in refer.data["refs"]) == 6
    assert scores["mIoU"] == scores["Acc@0.5"] == 100.0


def test_phrases_are_no_fixed_number_of_slots(tmp_path):
    """RefTR fills 16 slots with empty phrases and tells them by their attention mask; here a batch
    holds the phrases there are."""
    Image.new("RGB", (60, 40)).save(tmp_path / "1.png")
    record = {"source": "s", "split": "val", "image_id": 1, "file_name": "1.png", "width": 60,
              "height": 40}  # fmt: skip
    spans = [{"start": n, "end": n + 1, "boxes": [[1.0, 1.0, 5.0, 5.0]]} for n in range(30)]
    lines = [
        {**record, "id": "one", "caption": "a", "phrases": spans[:1]},
        {**record, "id": "many", "caption": "b" * 30, "phrases": spans},
    ]
    header = {"format": "phrases", "version": 1, "n_records": 2}
    (tmp_path / "p").write_text("\n".join(json.dumps(line) for line in [header, *lines]))
    data = PhraseDataset(tmp_path / "p", tmp_path, "val", 8)
    batch = collate_phrases([data[0], data[1]])
    assert len(batch["boxes"]) == 31
    assert batch["caption_of_phrase"].tolist() == [0] + [1] * 30


def test_a_span_is_found_or_the_record_refused(tmp_path):
    """A list gives the first character of a phrase; one that does not fit would ask other words."""
    torch.save([("a.jpg", [3], [GOOD], ["man"], None, "a man")], tmp_path / "l.pth")
    with pytest.raises(DataFileError, match="'man' is not at character 3 of 'a man'"):
        list(reftr_phrases(tmp_path / "l.pth", "flickr_multi", "val", lambda name: (60, 40)))


def test_a_missing_prediction_is_an_error_not_a_better_mean():
    evaluator = GroundingEvaluator(REFTR)
    evaluator.update("a", GOOD, GOOD)
    with pytest.raises(ValueError, match=r"1 of 2 phrases were not evaluated: \('b', 0\)"):
        evaluator.compute([("a", 0), ("b", 0)])


def test_means_are_over_occurrences_in_any_order():
    rng = np.random.default_rng(0)
    boxes = rng.uniform(0, 20, (200, 4))
    boxes[:, 2:] += boxes[:, :2]
    scores = []
    for order in (range(200), reversed(range(200)), rng.permutation(200).tolist()):
        evaluator = GroundingEvaluator(REFTR)
        for n in order:
            evaluator.update(f"e{n}", boxes[n], GOOD)
        scores.append(evaluator.compute())
    assert scores[0] == scores[1] == scores[2]

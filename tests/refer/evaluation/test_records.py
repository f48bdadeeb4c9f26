"""Record files: round trips, damage, and scores made again from them."""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco

from refer import REFER
from refer.datasets import PictureDataset
from refer.errors import DataFileError, MissingDataError
from refer.evaluation import (
    PROTOCOLS,
    EvaluationError,
    ItemRecord,
    ResEvaluator,
    load_records,
    rescore,
    save_records,
    score,
    score_file,
)
from refer.sentences import draw

VPD = PROTOCOLS["vpd"]
RLE = {"size": [2, 2], "counts": "0120"}
RECORDS = [
    ItemRecord(1, 10, 5, 0, 2, 4, 2, 4, RLE),
    ItemRecord(1, 11, 5, 1, 4, 4, 4, 4),
    ItemRecord(2, 20, 6, 0, 0, 0, 0, 0),
]
HEADER = {"dataset": "refcoco", "split": "val", "data_hash": "ab", "model_id": None}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "out" / "records.jsonl"
    save_records(path, RECORDS, HEADER, VPD)
    return path


def test_round_trip(saved: Path) -> None:
    found = load_records(saved)
    assert (found.records, found.protocol) == (RECORDS, VPD)
    assert {name: found.header[name] for name in HEADER} == HEADER
    assert found.header["n_items"] == 3
    assert os.listdir(saved.parent) == [saved.name]


def test_nothing_is_left_of_a_failed_save(saved: Path) -> None:
    before = saved.read_bytes()
    with pytest.raises(TypeError):
        save_records(saved, RECORDS, {"model": object()}, VPD)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]
    with pytest.raises(EvaluationError, match="n_items"):
        save_records(saved, RECORDS, {"n_items": 9}, VPD)


def changed(**values: Any) -> bytes:
    record = {**RECORDS[1]._asdict(), **values}
    return json.dumps({name: value for name, value in record.items() if value != "DROP"}).encode()


@pytest.mark.parametrize(
    ("line", "content", "message"),
    [
        (1, b"", "Expecting value"),
        (1, b"[]", "JSON object"),
        (1, b'{"format": "other"}', "must say"),
        (1, b'{"format": "res-records", "version": 2}', "'version': 2"),
        (1, b'{"format": "res-records", "version": 1}', "protocol is 'None'"),
        (1, b'{"format": "res-records", "version": 1, "protocol": {}}', "a protocol has"),
        (3, b"{", "Expecting property"),
        (3, b"\xff\xfe\xfd", "decode|Expecting"),
        (3, b"[" * 100_000, "recursion|Expecting"),
        (3, changed(ref_id="1"), "ref_id is '1'; want an int"),
        (3, changed(sent_id=True), "sent_id is 'True'"),
        (3, changed(union=1.5), "union is '1.5'"),
        (3, changed(union=float("nan")), "NaN is no JSON number"),
        (3, changed(union=5), "do not agree"),
        (3, changed(intersection=-1, pred_area=-1), "do not agree"),
        (3, changed(image_id="DROP", mask="DROP"), "a record has"),
        (3, changed(extra=1), "extra"),
        (3, changed(mask="mask"), "no COCO RLE"),
        (3, changed(mask={"size": [2, 0], "counts": "04"}), "no COCO RLE"),
        (3, changed(sent_id=10), "ref 1, sentence 10 comes a second time"),
        (4, None, "ends after 2 of 3 items"),
    ],
)
def test_damage_is_named_by_line(
    saved: Path, line: int, content: bytes | None, message: str
) -> None:
    lines = saved.read_bytes().splitlines()
    lines[line - 1 : line] = [] if content is None else [content]
    saved.write_bytes(b"\n".join(lines))
    number = line if content is not None else line - 1
    with pytest.raises(DataFileError, match=rf"records.jsonl, line {number}: .*({message})"):
        load_records(saved)


@given(st.binary(max_size=300))
def test_any_bytes_give_a_typed_error(tmp_path_factory: Any, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataFileError, match="line 1"):
        load_records(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="no record file"):
        load_records(tmp_path / "none.jsonl")
    with pytest.raises(DataFileError, match="cannot be read"):
        load_records(tmp_path)


def test_rescoring_counts(saved: Path) -> None:
    as_saved = score_file(saved, "vpd")
    assert {name: as_saved[name] for name in score(RECORDS, VPD)} == score(RECORDS, VPD)
    assert as_saved["not_honoured"] == []
    assert as_saved["P@0.5"] == pytest.approx(200 / 3)
    strict = score_file(saved, replace(VPD, threshold_operator="gt", empty_union="skip"))
    assert (strict["P@0.5"], strict["n_items"]) == (50.0, 2)
    assert strict["protocol"]["changed"] == ["threshold_operator", "empty_union"]
    first = score_file(saved, replace(VPD, sentence_mode="first"))
    assert (first["mIoU"], first["n_items"]) == (25.0, 2)
    assert score_file(saved, replace(VPD, sentence_mode="random"))["n_items"] == 2


def test_what_counts_cannot_honour_is_said(saved: Path) -> None:
    scores = score_file(saved, "cris")
    assert scores["protocol"]["resolution"] == "512x512"
    assert scores["protocol"]["threshold_operator"] == "gt"
    assert scores["not_honoured"] == [
        "resolution is '512x512', not 'native'",
        "overlap is 'drop', not 'union'",
        "prediction is 'argmax', not 'sigmoid > 0.35'",
    ]


def test_sentences_that_are_not_there() -> None:
    for have, wanted in (("first", "all"), ("random", "first"), ("all", "concat")):
        with pytest.raises(EvaluationError, match=f"{wanted!r} cannot be had from .* {have!r}"):
            rescore(RECORDS, replace(VPD, sentence_mode=wanted), replace(VPD, sentence_mode=have))
    unknown = [RECORDS[0]._replace(sentence_index=-1)]
    with pytest.raises(EvaluationError, match="without its sentence_index"):
        rescore(unknown, replace(VPD, sentence_mode="first"), VPD)


def noisy(masks: np.ndarray, seed: int) -> np.ndarray:
    """The masks, shifted and with some pixels turned: predictions neither perfect nor hopeless."""
    random = np.random.RandomState(seed)
    return np.roll(masks, random.randint(-4, 5), axis=2) ^ (random.rand(*masks.shape) < 0.01)


@pytest.fixture(scope="module")
def real(shared: Path) -> REFER:
    return REFER(shared / "data" / "refer_mini", "refcoco", "unc")


def evaluate(refer: REFER, size: int, mode: Any = "all", keep_masks: bool = True) -> ResEvaluator:
    dataset = PictureDataset(refer, "val", size, mode, overlap="drop")
    found = ResEvaluator(replace(VPD, resolution=f"{size}x{size}", sentence_mode=mode))
    for item in dataset:
        truth = item["masks"].numpy().astype(bool)[item["ref_of_text"]]
        pred = np.stack(
            [noisy(t[None], s)[0] for t, s in zip(truth, item["sent_ids"], strict=True)]
        )
        found.update(
            pred,
            truth,
            ref_ids=[item["ref_ids"][index] for index in item["ref_of_text"]],
            sent_ids=item["sent_ids"],
            image_ids=[item["image_id"]] * len(pred),
            sentence_index=item["sentence_index"],
            keep_masks=keep_masks,
        )
    return found


def test_native_resolution_against_a_second_reading(real: REFER, tmp_path: Path) -> None:
    found = evaluate(real, 128)
    save_records(tmp_path / "r.jsonl", found.records, {"dataset": "refcoco"}, found.protocol)
    scores = score_file(tmp_path / "r.jsonl", "cris", real)
    assert scores["protocol"]["resolution"] == "native"
    assert scores["protocol"]["prediction"] == "argmax at 128x128, mask then resized nearest"
    assert len(scores["not_honoured"]) == 1

    ious = []
    for one in found.records:
        image = real.Imgs[one.image_id]
        size = image["height"], image["width"]
        outline = real.refToAnn[one.ref_id]["segmentation"]
        truth = coco.decode(coco.frPyObjects(outline, *size)).any(axis=2)
        small = Image.fromarray(coco.decode(one.mask)).resize(size[::-1], Image.Resampling.NEAREST)
        pred = np.asarray(small).astype(bool)
        ious.append((pred & truth).sum() / (pred | truth).sum())
    assert scores["mIoU"] == pytest.approx(100 * np.mean(ious), rel=1e-12)
    assert scores["P@0.5"] == pytest.approx(100 * np.mean(np.array(ious) > 0.5), rel=1e-12)
    assert 20 < scores["mIoU"] < 95


def test_overlap_rule_alone_equals_an_evaluation_under_it(real: REFER) -> None:
    found = evaluate(real, 96)
    union = replace(found.protocol, overlap="union")
    scores = rescore(found.records, union, found.protocol, real)
    assert scores["not_honoured"] == []
    assert scores["protocol"]["prediction"] == "argmax"
    masks = {one.ref_id: one for one in found.records}
    truth = {
        ref_id: row
        for item in PictureDataset(real, "val", 96, overlap="union")
        for ref_id, row in zip(item["ref_ids"], item["masks"].numpy(), strict=True)
    }
    assert masks.keys() == truth.keys()
    again = ResEvaluator(union)
    for one in found.records:
        again.update(coco.decode(one.mask), truth[one.ref_id], one.ref_id, one.sent_id)
    expected = score(again.records, union)
    assert {name: scores[name] for name in expected} == expected


@pytest.mark.parametrize("mode", ["first", "random"])
def test_sentence_mode_equals_an_evaluation_in_it(real: REFER, mode: Any) -> None:
    everything, chosen = evaluate(real, 64), evaluate(real, 64, mode)
    scores = rescore(everything.records, chosen.protocol, everything.protocol)
    expected = score(chosen.records, chosen.protocol)
    assert {name: scores[name] for name in expected} == expected
    assert scores["n_items"] == 18


@pytest.mark.parametrize(("mode", "chosen"), [("first", 0), ("random", draw(3, 7, 0, 0))])
def test_sentences_are_picked_by_their_place_and_not_by_the_records_order(mode, chosen) -> None:
    """Records of several processes come in any order."""
    ious = (10, 20, 40)
    one = [ItemRecord(7, 70 + n, 1, n, iou, 100, iou, 100) for n, iou in enumerate(ious)]
    for order in itertools.permutations(one):
        scores = rescore(order, replace(VPD, sentence_mode=mode), VPD)
        assert (scores["n_items"], scores["mIoU"]) == (1, pytest.approx(ious[chosen]))


def test_what_recounting_refuses(real: REFER, tmp_path: Path) -> None:
    found = evaluate(real, 64)
    native = replace(found.protocol, resolution="native")
    bare = [one._replace(mask=None) for one in found.records]
    with pytest.raises(EvaluationError, match="has no mask"):
        rescore(bare, native, found.protocol, real)
    stranger = [found.records[0]._replace(sent_id=10**6)]
    with pytest.raises(EvaluationError, match=r"sentence 1000000 is not in refcoco \(unc\)"):
        rescore(stranger, native, found.protocol, real)
    one = found.records[0]
    swapped = [one._replace(mask=coco_of(np.zeros((64, 64), np.uint8)))]
    with pytest.raises(DataFileError, match="its mask has 0 pixels"):
        rescore(swapped, native, found.protocol, real)
    for hostile in ("04", "zzzzzzzzzzzz", "\x7f", ""):
        damaged = [one._replace(mask={"size": [64, 64], "counts": hostile})]
        with pytest.raises(DataFileError):
            rescore(damaged, native, found.protocol, real)
    save_records(tmp_path / "r.jsonl", bare, {"dataset": "refcocog"}, found.protocol)
    with pytest.raises(EvaluationError, match="dataset 'refcocog', the data given is 'refcoco'"):
        score_file(tmp_path / "r.jsonl", native, real)


def coco_of(mask: np.ndarray) -> dict[str, Any]:
    rle = coco.encode(np.asfortranarray(mask))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def test_numbers_and_names_that_no_run_writes(saved: Path) -> None:
    lines = saved.read_text().splitlines()
    record = {**json.loads(lines[2]), "union": 10**400, "pred_area": 10**400}
    saved.write_text("\n".join([*lines[:2], json.dumps(record), lines[3]]))
    with pytest.raises(DataFileError, match=r"line 3: union is of 1329 bits; want 63 at most"):
        load_records(saved)
    for name, value in (("name", []), ("thresholds", "0.5"), ("resolution", 5)):
        header = json.loads(lines[0])
        header["protocol"][name] = value
        saved.write_text("\n".join([json.dumps(header), *lines[1:]]))
        with pytest.raises(DataFileError, match=rf"line 1: no protocol: .*{name}"):
            load_records(saved)

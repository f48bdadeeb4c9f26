"""Paired comparison of two runs: numbers by hand, intervals that mean what they say, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from refer.evaluation import EvaluationError, ItemRecord, ResProtocol, save_records, score
from refer.evaluation.compare import CHUNK, _resampled, compare
from refer.evaluation.records import RecordFile
from ris.cli import main

PROTOCOL = ResProtocol()


def item(ref: int, picture: int, intersection: int, pred: int = 100, true: int = 100) -> ItemRecord:
    return ItemRecord(ref, ref, picture, 0, intersection, pred + true - intersection, pred, true)


def file(records: list[ItemRecord], protocol: ResProtocol = PROTOCOL) -> RecordFile:
    return RecordFile({"dataset": "refcoco"}, protocol, records)


def random_file(seed: int, better: float = 0.0, pictures: int = 60) -> RecordFile:
    """Two items a picture; the truth depends on the picture alone, the overlap on the seed."""
    generator = np.random.default_rng(seed)
    records = []
    for number in range(2 * pictures):
        share = np.clip(generator.uniform(0.2, 0.8) + better, 0, 1)
        records.append(item(number, number // 2, int(100 * share)))
    return file(records)


def test_scores_and_changes_by_hand():
    a = file([item(1, 1, 50), item(2, 1, 0), item(3, 2, 100)])
    b = file([item(3, 2, 100), item(2, 1, 100), item(1, 1, 40)])
    found = compare(a, b)
    overall, mean = found.differences
    assert overall.a == pytest.approx(100 * 150 / 450)
    assert overall.b == pytest.approx(100 * 240 / 360)
    assert overall.points == pytest.approx(overall.b - overall.a)
    assert mean.a == score(a.records, PROTOCOL)["mIoU"]
    assert [change.a.ref_id for change in found.changes] == [2, 1, 3]
    assert (found.changes[0].iou_a, found.changes[0].iou_b) == (0.0, 1.0)
    assert found.pictures == 2


def test_the_interval_is_that_of_a_plain_bootstrap():
    """One draw after the other, written out: the same spread but for the draws' own chance."""
    a, b = random_file(1), random_file(2, 0.1)
    found = compare(a, b, seed=3)
    generator = np.random.default_rng(0)
    spread: dict[str, list[float]] = {"oIoU": [], "mIoU": []}
    for _ in range(2000):
        drawn = generator.integers(60, size=60)
        pairs = [
            score([f.records[2 * p + k] for p in drawn for k in (0, 1)], PROTOCOL) for f in (a, b)
        ]
        for name, values in spread.items():
            values.append(pairs[1][name] - pairs[0][name])
    for one in found.differences:
        low, high = np.percentile(spread[one.name], [2.5, 97.5])
        assert one.low == pytest.approx(low, abs=0.6)
        assert one.high == pytest.approx(high, abs=0.6)
        assert one.low < one.points < one.high


def test_the_same_seed_gives_the_same_interval():
    a, b = random_file(1), random_file(2)
    assert compare(a, b, seed=5) == compare(a, b, seed=5)
    assert compare(a, b, seed=5).differences != compare(a, b, seed=6).differences


@pytest.mark.parametrize("draws", [1, CHUNK, CHUNK + 1])
def test_as_many_draws_as_asked_for(draws):
    """Each of as many pictures as there are."""
    drawn = _resampled(np.ones((7, 2)), draws, seed=0)
    assert drawn.tolist() == [[7.0, 7.0]] * draws


def test_equal_runs_differ_by_nothing_and_clear_ones_clearly():
    a = random_file(1)
    for one in compare(a, a).differences:
        assert (one.points, one.low, one.high, one.clear) == (0, 0, 0, False)
    for one in compare(a, random_file(1, 0.1)).differences:
        assert one.clear
        assert one.low > 0


def test_pictures_are_drawn_and_not_items():
    """Items that repeat within a picture say nothing new: the interval stays as wide."""
    a, b = random_file(1), random_file(2)

    def thrice(one: RecordFile) -> RecordFile:
        return file(
            [r._replace(sent_id=1000 * k + r.sent_id) for k in range(3) for r in one.records]
        )

    for one, more in zip(compare(a, b).differences, compare(thrice(a), thrice(b)).differences,
                         strict=True):  # fmt: skip
        assert (more.low, more.high) == pytest.approx((one.low, one.high), abs=1e-9)


@pytest.mark.parametrize("rule", ["zero", "one", "skip"])
def test_empty_unions_follow_the_protocol(rule):
    protocol = replace(PROTOCOL, empty_union=rule)
    nothing = item(1, 1, 0, 0, 0)
    a = file([nothing, item(2, 2, 50), item(3, 3, 20)], protocol)
    b = file([nothing, item(2, 2, 60), item(3, 3, 10)], protocol)
    found = compare(a, b, resamples=500)
    assert found.differences[1].a == score(a.records, protocol)["mIoU"]
    assert np.isfinite([(one.low, one.high) for one in found.differences]).all()
    assert len(found.changes) == (2 if rule == "skip" else 3)


def test_runs_that_cannot_be_compared_say_why():
    a = file([item(1, 1, 50), item(2, 2, 50)])
    for other, message in (
        (file([item(1, 1, 50), item(3, 2, 50)]), r"1 only in A \(first: ref 2.*1 only in B"),
        (file([item(1, 1, 50), item(2, 2, 50, true=90)]), "100 true pixels in A"),
        (file([item(1, 1, 50), item(2, 7, 50)]), "of 7 with"),
        (file(a.records, replace(PROTOCOL, resolution="480x480")), "resolution is '512x512' and"),
        (file([item(1, -1, 50), item(2, 2, 50)]), "without its picture"),
    ):
        with pytest.raises(EvaluationError, match=message):
            compare(a, other)
    with pytest.raises(EvaluationError, match="one picture"):
        compare(file([item(1, 1, 5), item(2, 1, 5)]), file([item(1, 1, 5), item(2, 1, 5)]))
    with pytest.raises(EvaluationError, match="empty"):
        compare(file([]), file([]))
    with pytest.raises(EvaluationError, match="confidence"):
        compare(a, a, confidence=95)


def test_the_command_takes_files_and_folders(tmp_path: Path, capsys):
    for name, one in (("a", random_file(1)), ("b", random_file(1, 0.1))):
        save_records(tmp_path / name / "records_val.jsonl", one.records, one.header, PROTOCOL)
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b/records_val.jsonl")]) == 0
    text = capsys.readouterr().out
    assert "oIoU" in text
    assert "protocol vpd: P@X at IoU >= X, all sentences, masks at 512x512" in text
    assert "scored: refcoco, 120 items" in text
    assert "95 % interval" in text
    assert "120 items of 60 pictures: " in text
    assert text.count("ref ") == 20
    save_records(tmp_path / "a/records_testA.jsonl", random_file(1).records, {}, PROTOCOL)
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert "testA, val" in capsys.readouterr().err
    folders = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert main(["compare", *folders, "--split", "val", "--items", "0"]) == 0
    assert "changed most" not in capsys.readouterr().out
    assert main(["compare", *folders, "--split", "test"]) == 2
    assert "records_test.jsonl" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "absent"), folders[1]]) == 2
    assert "no record file" in capsys.readouterr().err


@pytest.mark.parametrize("dataset", ["refshapes", "refshapes+refcoco"])
def test_sentences_are_printed_from_the_data(shapes_root, tmp_path, capsys, dataset):
    from refer import REFER

    refer = REFER(shapes_root, "refshapes")
    asked = [(ref, sent) for ref in refer.loadRefs(refer.getRefIds(split="val"))
             for sent in ref["sentences"]]  # fmt: skip
    for name, pixels in (("a", 10), ("b", 60)):
        records = [
            item(ref["ref_id"], ref["image_id"], pixels)._replace(sent_id=sent["sent_id"])
            for ref, sent in asked
        ]
        header = {"dataset": dataset, "split_by": None, "task": "res"}  # as older runs have it
        save_records(tmp_path / name / "records_val.jsonl", records, header, PROTOCOL)
    folders = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert main(["compare", *folders, "--refer_data_root", str(shapes_root), "--items", "1"]) == 0
    assert repr(asked[0][1]["sent"]) in capsys.readouterr().out

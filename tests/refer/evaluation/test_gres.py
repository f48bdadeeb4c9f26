"""GRES scores against hand-worked items and a second, slow implementation of the table."""

from __future__ import annotations

import json

import numpy as np
import pytest

from refer.errors import DataFileError, MissingDataError, UnknownNameError
from refer.evaluation import gres_records, gres_scores
from refer.evaluation.gres import GresEvaluator, GresProtocol
from refer.evaluation.gres_scores import GresRecord
from refer.evaluation.gres_table import gres_table
from refer.evaluation.protocol import EvaluationError


def strip(*columns: int) -> np.ndarray:
    """bool [1, 1, 10] with these columns set."""
    mask = np.zeros((1, 1, 10), bool)
    mask[0, 0, list(columns)] = True
    return mask


def one(pred: np.ndarray, target: np.ndarray, count: int, nothing: bool) -> dict[str, float]:
    evaluator = GresEvaluator()
    evaluator.update(
        pred, target, n_targets=[count], pred_nt=[nothing], img_ids=[1], ref_ids=[2], sent_ids=[3]
    )
    return evaluator.compute()["grefcoco"]


# The four rows of the table, each alone; a fifth item with a target keeps the accuracies defined.
def test_nothing_and_said_so_whatever_the_mask_shows():
    scores = one(strip(1, 2), strip(), 0, True)
    assert (scores["gIoU"], scores["cIoU"], scores["N_acc"]) == (100.0, 0.0, 1.0)


def test_nothing_but_something_was_said():
    assert one(strip(1, 2), strip(), 0, False)["gIoU"] == 0.0
    # An empty mask is still not "nothing": the head decides.
    scores = one(strip(), strip(), 0, False)
    assert (scores["gIoU"], scores["cIoU"], scores["N_acc"]) == (0.0, 0.0, 0.0)


def test_a_wrong_nothing_keeps_the_union_of_the_raw_mask():
    evaluator = GresEvaluator()
    evaluator.update(
        np.concatenate([strip(1, 2, 3), strip(0, 1)]),
        np.concatenate([strip(3, 4), strip(0, 1)]),
        n_targets=[1, 1], pred_nt=[True, False], img_ids=[1, 1], ref_ids=[1, 2], sent_ids=[1, 2],
    )  # fmt: skip
    scores = evaluator.compute()["grefcoco"]
    assert scores["cIoU"] == pytest.approx(100 * 2 / (4 + 2))  # U of the first is {1, 2, 3, 4}
    assert scores["gIoU"] == 50.0
    assert scores["T_acc"] == 0.0  # no item names nothing: ReLA gives 0 for both
    assert scores["Pr@0.7"] == 50.0


def test_targets_and_found():
    scores = one(strip(1, 2, 3), strip(2, 3, 4), 2, False)
    assert scores["gIoU"] == scores["cIoU"] == pytest.approx(50.0)
    assert scores["Pr@0.7"] == 0.0


@pytest.mark.parametrize(
    ("found", "expected"),
    [(7, (100, 0, 0)), (8, (100, 100, 0)), (9, (100, 100, 100)), (6, (0, 0, 0))],
)
def test_a_threshold_that_is_met_exactly_counts(found, expected):
    scores = one(strip(*range(found)), strip(*range(10)), 1, False)
    assert tuple(scores[f"Pr@{x}"] for x in (0.7, 0.8, 0.9)) == expected


def test_precision_is_over_items_with_targets_only():
    evaluator = GresEvaluator()
    evaluator.update(
        np.concatenate([strip(1), strip(), strip()]),
        np.concatenate([strip(1), strip(), strip()]),
        n_targets=[1, 0, 0], pred_nt=[False, True, False],
        img_ids=[1, 1, 1], ref_ids=[1, 2, 3], sent_ids=[1, 2, 3],
    )  # fmt: skip
    scores = evaluator.compute()["grefcoco"]
    assert scores["Pr@0.9"] == 100.0
    assert scores["gIoU"] == pytest.approx(200 / 3)
    assert (scores["T_acc"], scores["N_acc"]) == (1.0, 0.5)


def test_fifty_pixels_decide_where_there_is_no_head():
    pred = np.zeros((3, 10, 10), bool)
    pred[0].flat[:49] = pred[1].flat[:50] = True
    evaluator = GresEvaluator(GresProtocol(no_target="pixels"))
    evaluator.update(
        pred, np.zeros_like(pred), n_targets=[0, 0, 0],
        img_ids=[1, 1, 1], ref_ids=[1, 2, 3], sent_ids=[1, 2, 3],
    )  # fmt: skip
    assert [record.pred_nt for record in evaluator.records] == [True, False, True]


def slow(records: list[GresRecord]) -> dict[str, float]:
    """The table once more, row by row in floats, as its words say."""
    gious, inter, union, tp, fn, fp, tn = [], 0, 0, 0, 0, 0, 0
    for r in records:
        if r.n_targets == 0:
            if r.pred_nt:
                gious.append(1.0)
                tp += 1
            else:
                gious.append(0.0)
                union += r.union
                fn += 1
        elif r.pred_nt:
            gious.append(0.0)
            union += r.union
            fp += 1
        else:
            gious.append(r.intersection / r.union if r.union > 0 else 0.0)
            inter += r.intersection
            union += r.union
            tn += 1
    targeted = [
        0.0 if r.pred_nt or not r.union else r.intersection / r.union
        for r in records
        if r.n_targets
    ]
    return {
        "gIoU": 100 * float(np.mean(gious)),
        "cIoU": 100 * inter / union if union else 0.0,
        "T_acc": tn / (tn + fp) if tp + fn and tn + fp else 0.0,
        "N_acc": tp / (tp + fn) if tp + fn else 0.0,
        **{
            f"Pr@{x}": 100 * float(np.mean([iou >= x for iou in targeted])) if targeted else 0.0
            for x in (0.7, 0.8, 0.9)
        },
    }


def random_evaluator(rng: np.random.Generator, count: int, start: int = 0) -> GresEvaluator:
    targets = rng.integers(0, 4, count)
    pred = rng.random((count, 4, 5)) < rng.random((count, 1, 1))
    truth = (rng.random((count, 4, 5)) < 0.5) & (targets > 0)[:, None, None]
    pred[::3] = truth[::3]
    evaluator = GresEvaluator()
    ids = list(range(start, start + count))
    evaluator.update(
        pred, truth, n_targets=targets.tolist(), pred_nt=(rng.random(count) < 0.4).tolist(),
        img_ids=ids, ref_ids=ids, sent_ids=ids, source=("refcoco", "grefcoco")[start % 2],
    )  # fmt: skip
    return evaluator


def test_thousands_of_random_items_agree_with_the_slow_table():
    rng = np.random.default_rng(0)
    for _ in range(200):
        evaluator = random_evaluator(rng, int(rng.integers(1, 25)))
        found = evaluator.compute()["refcoco"]
        assert found == pytest.approx(slow(evaluator.records))


def test_shards_merge_to_the_whole_and_sources_are_pooled():
    rng = np.random.default_rng(1)
    one, two = random_evaluator(rng, 30), random_evaluator(rng, 21, start=101)
    whole = GresEvaluator()
    whole.merge(one).merge(two).merge(one)  # items that come again are the same
    scores = whole.compute()
    assert list(scores) == ["grefcoco", "refcoco", "full"]
    assert scores["refcoco"] == one.compute()["refcoco"]
    pooled = slow(whole.records)
    assert scores["full"] == pytest.approx({k: v for k, v in pooled.items() if "_acc" not in k})
    first = one.records[0]
    with pytest.raises(EvaluationError, match="twice with different"):
        whole.add([first._replace(union=first.union + 1)])


def test_the_always_empty_row_and_the_strata():
    evaluator = random_evaluator(np.random.default_rng(2), 80)
    records = evaluator.records
    trivial = gres_scores.always_empty(records)
    share = sum(r.gt_nt for r in records) / len(records)
    assert trivial["gIoU"] == pytest.approx(100 * share)
    assert (trivial["cIoU"], trivial["N_acc"], trivial["T_acc"]) == (0.0, 1.0, 0.0)
    strata = gres_scores.by_targets(records)
    assert list(strata) == ["0", "1", "2", "3+"]
    assert sum(s["items"] for s in strata.values()) == len(records)
    mean = sum(s["items"] * s["gIoU"] for s in strata.values()) / len(records)
    assert mean == pytest.approx(evaluator.compute()["refcoco"]["gIoU"])


def test_saved_predictions_are_scored_again_without_a_model(tmp_path):
    evaluator = random_evaluator(np.random.default_rng(3), 40)
    results, details = gres_records.save(tmp_path, "grefcoco", evaluator)
    assert [path.name for path in (results, details)] == [
        "grefcoco_results.json", "grefcoco_detailed_results.json",
    ]  # fmt: skip
    ((source, scores),) = json.loads(results.read_text())
    assert source == "refcoco"
    assert set(scores) == {"gIoU", "cIoU", "T_acc", "N_acc", "Pr@0.7", "Pr@0.8", "Pr@0.9"}
    published = {"source", "img_id", "gt_nt", "pred_nt", "sent", "sent_info", "I", "U", "cIoU"}
    assert published <= set(json.loads(details.read_text())[0])
    assert gres_records.load(details).compute() == evaluator.compute()
    pixels = gres_records.load(details, GresProtocol(no_target="pixels", pixels=5))
    assert all(r.pred_nt == (r.pred_area < 5) for r in pixels.records)


@pytest.mark.parametrize("rule", ["union", "drop"])
def test_the_protocol_names_the_overlap_rule_and_so_does_a_saved_run(tmp_path, rule):
    evaluator = GresEvaluator(GresProtocol(overlap=rule))
    evaluator.add(random_evaluator(np.random.default_rng(3), 5).records)
    assert f"their overlapping parts: {rule}" in evaluator.protocol.describe()
    _, details = gres_records.save(tmp_path, "grefcoco", evaluator)
    # The truth was drawn by it: who scores the file again cannot have another.
    assert gres_records.load(details, GresProtocol(no_target="pixels")).protocol.overlap == rule
    assert f"parts: {rule}" in gres_table(gres_records.load(details), "val")
    items = json.loads(details.read_text())
    details.write_text(json.dumps([{k: v for k, v in i.items() if k != "overlap"} for i in items]))
    assert "rule not recorded" in gres_records.load(details).protocol.describe()
    items[0]["overlap"] = "sum"
    details.write_text(json.dumps(items))
    with pytest.raises(DataFileError, match=f"'{rule}', 'sum'|'sum', '{rule}'.*union, drop"):
        gres_records.load(details)
    with pytest.raises(UnknownNameError, match="union, drop"):
        GresProtocol(overlap="sum")


def test_where_outlines_were_drawn_is_the_saved_runs(tmp_path):
    evaluator = GresEvaluator(GresProtocol(drawn_at="original"))
    evaluator.add(random_evaluator(np.random.default_rng(3), 5).records)
    assert "outlines drawn at original size" in evaluator.protocol.describe()
    assert "outlines drawn at input size" in GresProtocol().describe()  # ReLA's
    _, details = gres_records.save(tmp_path, "grefcoco", evaluator)
    assert gres_records.load(details).protocol.drawn_at == "original"
    items = json.loads(details.read_text())
    details.write_text(json.dumps([{k: v for k, v in i.items() if k != "drawn_at"} for i in items]))
    assert "place not recorded" in gres_records.load(details).protocol.describe()
    items[0]["drawn_at"] = "input"
    details.write_text(json.dumps(items))
    with pytest.raises(DataFileError, match="items of drawn_at 'input', 'original'"):
        gres_records.load(details)
    with pytest.raises(UnknownNameError, match="original, input"):
        GresProtocol(drawn_at="here")


def test_bad_input_is_named(tmp_path):
    evaluator = GresEvaluator()
    ids = {"img_ids": [1], "ref_ids": [7], "sent_ids": [8]}
    with pytest.raises(
        EvaluationError, match="ref 7, sentence 8 has no target, but its mask has 2"
    ):
        evaluator.update(strip(), strip(1, 2), n_targets=[0], pred_nt=[True], **ids)
    with pytest.raises(EvaluationError, match="wants pred_nt"):
        evaluator.update(strip(), strip(), n_targets=[0], **ids)
    with pytest.raises(EvaluationError, match="2 n_targets for 1 masks"):
        evaluator.update(strip(), strip(), n_targets=[0, 1], pred_nt=[True], **ids)
    with pytest.raises(EvaluationError, match="float64"):
        evaluator.update(strip() * 0.5, strip(), n_targets=[0], pred_nt=[True], **ids)
    given = {"n_targets": [1], "pred_nt": [False], **ids}
    for counts, said in (
        (([50], [10], [10], [3]), "50 pixels in both masks"),
        (([2], [10], [10], [3]), "10 in either cannot be"),
        (([2.0], [11], [10], [3]), "intersection is float64"),
        (([2], [11, 11], [10], [3]), "2 unions for 1 masks"),
    ):
        with pytest.raises(EvaluationError, match=said):
            evaluator.update_counts(*counts, **given)
    with pytest.raises(EvaluationError, match="no items"):
        evaluator.compute()
    with pytest.raises(MissingDataError, match="test run"):
        gres_records.load(tmp_path / "none.json")
    bad = tmp_path / "bad.json"
    bad.write_text('[{"source": "grefcoco"}]')
    with pytest.raises(DataFileError, match="item 0: 'sent_info'"):
        gres_records.load(bad)


ITEM = {
    "source": "grefcoco", "img_id": 1, "gt_nt": False, "pred_nt": False, "sent": "a dog",
    "sent_info": {"ref_id": 2, "sent_id": 3, "n_targets": 1}, "I": 4, "U": 9, "pred_area": 6,
}  # fmt: skip


def _with(**changes):
    info = {name: changes.pop(name) for name in ("ref_id", "n_targets") if name in changes}
    return {**ITEM, **changes, "sent_info": {**ITEM["sent_info"], **info}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        *(({name: value}, name) for name in ("I", "U", "pred_area", "n_targets")
          for value in (-1, 1.5, None, "4", 10**400)),
        *(({name: value}, name) for name in ("source", "sent", "img_id", "ref_id", "pred_nt")
          for value in (None, [], "no" if name == "pred_nt" else {})),
        ({"I": 10**6}, "I 1000000, U 9 and pred_area 6 do not agree"),
        ({"I": 7}, "do not agree"),
        ({"pred_area": 10}, "do not agree"),
        ({"n_targets": 0}, "gt_nt is False with n_targets 0"),
        ({"n_targets": 0, "gt_nt": True}, "do not agree"),
        ({"gt_nt": True}, "gt_nt is True with n_targets 1"),
    ],
)  # fmt: skip
def test_items_that_cannot_be_are_named(tmp_path, changes, said):
    path = tmp_path / "d.json"
    path.write_text(json.dumps([_with(ref_id=1), _with(**changes)]))
    with pytest.raises(
        DataFileError, match=rf"d\.json(, item 1: .*{said}| cannot be read: .*range)"
    ):
        gres_records.load(path)


@pytest.mark.parametrize("content", ["{}", "3", "[3]", "[[]]", "[" * 100_000, '[{"I": NaN}]', ""])
def test_files_of_no_items_are_named(tmp_path, content):
    (tmp_path / "d.json").write_text(content)
    with pytest.raises(DataFileError, match=r"d\.json"):
        gres_records.load(tmp_path / "d.json")


def test_an_item_as_written_is_scored(tmp_path):
    (tmp_path / "d.json").write_text(json.dumps([ITEM]))
    assert gres_records.load(tmp_path / "d.json").compute()["grefcoco"]["gIoU"] == 100 * 4 / 9

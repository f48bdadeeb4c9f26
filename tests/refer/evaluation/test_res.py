"""Scores against the published figures, hand-worked cases, and properties of the evaluator."""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refer.errors import UnknownNameError
from refer.evaluation import (
    PROTOCOLS,
    EvaluationError,
    ItemRecord,
    ResEvaluator,
    ResProtocol,
    find_protocol,
    score,
    table,
)

VPD = PROTOCOLS["vpd"]
SMALL = replace(VPD, resolution="4x5")


def record(ref_id: int, sent_id: int, inter: int, pred: int, target: int) -> ItemRecord:
    return ItemRecord(ref_id, sent_id, -1, -1, inter, pred + target - inter, pred, target)


def counts(inter: int, union: int) -> ItemRecord:
    return record(0, 0, inter, union, inter)


@st.composite
def item_records(draw: Any) -> list[ItemRecord]:
    """Items with distinct ids; IoUs of exactly one half, empty ones and perfect ones included."""
    ids = draw(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, unique=True))
    found = []
    for ref_id, sent_id in ids:
        pred, target = draw(st.integers(0, 40)), draw(st.integers(0, 40))
        inter = draw(st.sampled_from([0, min(pred, target), min(pred, target) // 2]))
        found.append(record(ref_id, sent_id, inter, pred, target))
    return found


def evaluator(records: list[ItemRecord], protocol: ResProtocol = VPD) -> ResEvaluator:
    filled = ResEvaluator(protocol)
    if records:
        names = ("intersection", "union", "pred_area", "target_area", "ref_ids", "sent_ids")
        fields = [name.removesuffix("s") if name.endswith("ids") else name for name in names]
        columns = [[getattr(one, field) for one in records] for field in fields]
        filled.update_counts(**dict(zip(names, columns, strict=True)))
    return filled


def test_published_figures(shared: Path) -> None:
    from numpy._core.multiarray import scalar

    path = shared / "golden" / "preprocess_metrics_golden.pt"
    with torch.serialization.safe_globals([scalar, np.dtype, np.dtypes.Float64DType]):
        golden = torch.load(path, weights_only=True)["metrics"]
    found = ResEvaluator(replace(VPD, resolution="64x64"))
    found.update(golden["pred"], golden["gt"], ref_ids=range(12), sent_ids=range(12))
    scores = found.compute()
    assert scores["mIoU"] == pytest.approx(golden["mIoU"], rel=1e-12)
    assert scores["oIoU"] == pytest.approx(golden["oIoU"], rel=1e-12)
    precision = [scores[f"P@{x}"] for x in (0.5, 0.6, 0.7, 0.8, 0.9)]
    assert precision == pytest.approx(golden["precision"], rel=1e-12)
    ious = [one.intersection / one.union if one.union else 0.0 for one in found.records]
    assert ious == golden["iou"]
    assert scores["n_items"] == 12


def test_hand_worked_case() -> None:
    target = np.zeros((4, 4, 5), bool)
    target[:3, 0] = True  # 5 pixels each, the last one none
    pred = np.zeros_like(target)
    pred[0, 0] = True  # IoU 1
    pred[1, :2] = True  # 10 pixels, IoU 5 / 10
    pred[2, 1] = True  # IoU 0, union 10
    found = ResEvaluator(SMALL)
    found.update(pred, target, ref_ids=[1, 1, 2, 3], sent_ids=[1, 2, 3, 4])
    scores = found.compute()
    assert scores["oIoU"] == 100 * 10 / 25
    assert scores["mIoU"] == 100 * 1.5 / 4
    assert (scores["P@0.5"], scores["P@0.6"], scores["P@0.9"]) == (50.0, 25.0, 25.0)
    assert (scores["n_items"], scores["n_empty_union"], scores["n_duplicates"]) == (4, 1, 0)
    assert found.records[1] == ItemRecord(1, 2, -1, -1, 5, 10, 10, 5)


@pytest.mark.parametrize(
    ("rule", "miou", "p9", "items"),
    [("zero", 50.0, 50.0, 2), ("one", 100.0, 100.0, 2), ("skip", 100.0, 100.0, 1)],
)
def test_empty_union_rules(rule: Any, miou: float, p9: float, items: int) -> None:
    scores = score([counts(3, 3), counts(0, 0)], replace(VPD, empty_union=rule))
    assert (scores["mIoU"], scores["P@0.9"], scores["n_items"]) == (miou, p9, items)
    assert (scores["oIoU"], scores["n_empty_union"]) == (100.0, 1)


def test_nothing_but_empty_items() -> None:
    assert score([counts(0, 0)], VPD)["oIoU"] == 0.0
    assert score([counts(0, 0)], replace(VPD, empty_union="one"))["oIoU"] == 100.0
    with pytest.raises(EvaluationError, match="1 items, all skipped"):
        score([counts(0, 0)], replace(VPD, empty_union="skip"))


def test_exactly_half() -> None:
    half = [counts(5, 10)]
    assert score(half, VPD)["P@0.5"] == 100.0
    assert score(half, replace(VPD, threshold_operator="gt"))["P@0.5"] == 0.0


def test_integer_thresholds_equal_float_ones_for_every_quotient() -> None:
    # Published: floats compared, LAVT and VPD with >=, CRIS with > and 1e-6 added to the union.
    union, inter = np.mgrid[1:2001, 0:2001]
    possible = inter <= union
    union, inter = union[possible], inter[possible]
    for index, threshold in enumerate(VPD.thresholds):
        tenths = 5 + index
        at_least, above = inter * 10 >= union * tenths, inter * 10 > union * tenths
        assert np.array_equal(at_least, inter / union >= threshold)
        assert np.array_equal(above, inter / union > threshold)
        assert np.array_equal(above, inter / (union + 1e-6) > np.arange(0.5, 1.0, 0.1)[index])


@given(st.integers(1, 2**24), st.data())
def test_passes_agrees_with_floats(union: int, data: Any) -> None:
    near = [union * tenths // 10 + step for tenths in range(5, 10) for step in (-1, 0, 1)]
    inter = data.draw(st.sampled_from([i for i in near if 0 <= i <= union]))
    assert VPD.passes(inter, union) == tuple(inter / union >= x for x in VPD.thresholds)
    above = replace(VPD, threshold_operator="gt").passes(inter, union)
    assert above == tuple(inter / union > x for x in VPD.thresholds)


@given(item_records())
def test_operators_and_thresholds_are_ordered(records: list[ItemRecord]) -> None:
    at_least, above = (
        [value for key, value in score(records, replace(VPD, threshold_operator=op)).items()
         if key.startswith("P@")]
        for op in ("ge", "gt")
    )  # fmt: skip
    assert all(a >= b for a, b in zip(at_least, above, strict=True))
    assert at_least == sorted(at_least, reverse=True)


@given(item_records())
def test_miou_lies_between_the_bounds_that_precisions_give(records: list[ItemRecord]) -> None:
    scores = score(records, VPD)
    p = [scores[f"P@{x}"] for x in VPD.thresholds]
    lower = 0.5 * p[0] + 0.1 * sum(p[1:])
    upper = 0.5 * (100 - p[0]) + 0.6 * (p[0] - p[1]) + 0.7 * (p[1] - p[2])
    upper += 0.8 * (p[2] - p[3]) + 0.9 * (p[3] - p[4]) + p[4]
    assert lower - 1e-9 <= scores["mIoU"] <= upper + 1e-9


@given(item_records(), st.data())
def test_padded_shards_equal_the_whole(records: list[ItemRecord], data: Any) -> None:
    shards = data.draw(st.integers(1, 4))
    # As samplers pad: the first items come again until every shard has as many.
    padding = -len(records) % shards
    padded = records + (records * shards)[:padding]
    parts = [evaluator(padded[start::shards]) for start in range(shards)]
    order = data.draw(st.permutations(range(shards)))
    merged = ResEvaluator(VPD)
    for index in order:
        merged.merge(parts[index])
    whole = evaluator(records)
    assert merged.records == whole.records
    assert merged.compute() == {**whole.compute(), "n_duplicates": padding}


@given(item_records(), item_records(), item_records())
def test_merge_is_associative(a: Any, b: Any, c: Any) -> None:
    b = [one._replace(ref_id=one.ref_id + 10) for one in b]
    # c repeats one of its own items and one of a's.
    c = [one._replace(ref_id=one.ref_id + 20) for one in [*c, c[0]]] + a[:1]
    left = evaluator(a).merge(evaluator(b)).merge(evaluator(c))
    right = evaluator(a).merge(evaluator(b).merge(evaluator(c)))
    assert left.records == right.records
    assert left.compute() == right.compute()
    assert left.duplicates == 2


@given(item_records(), st.randoms())
def test_order_does_not_matter(records: list[ItemRecord], random: Any) -> None:
    shuffled = records.copy()
    random.shuffle(shuffled)
    assert score(shuffled, VPD) == score(records, VPD)


@settings(max_examples=20)
@given(item_records())
def test_pickle_and_plain_state_keep_everything(records: list[ItemRecord]) -> None:
    found = evaluator([*records, records[0]])
    for again in (
        pickle.loads(pickle.dumps(found)),
        ResEvaluator.from_state(VPD, found.state()),
    ):
        assert again.compute() == found.compute()
        assert again.records == found.records
    assert found.state()["numbers"].dtype == np.int64


def test_an_empty_shard_merges() -> None:
    empty = ResEvaluator.from_state(VPD, ResEvaluator(VPD).state())
    assert evaluator([counts(1, 2)]).merge(empty).compute()["mIoU"] == 50.0


def test_sums_do_not_overflow() -> None:
    area = 2**62
    scores = score([record(i, 0, area, area, area) for i in range(8)], VPD)
    assert scores["oIoU"] == scores["P@0.9"] == 100.0


def test_the_same_item_with_another_result_is_refused_and_changes_nothing() -> None:
    found = evaluator([record(1, 2, 3, 4, 5)])
    other = evaluator([record(0, 0, 1, 1, 1), record(1, 2, 2, 4, 5)])
    with pytest.raises(EvaluationError, match="ref 1, sentence 2 was evaluated twice"):
        found.merge(other)
    assert len(found) == 1


def test_masks_are_kept_and_the_fuller_record_wins() -> None:
    pred = np.eye(4, 5, dtype=np.uint8)[None]
    bare, kept = ResEvaluator(SMALL), ResEvaluator(SMALL)
    bare.update(pred, pred, [1], [2])
    kept.update(torch.from_numpy(pred), pred, [1], [2], keep_masks=True)
    for merged in (pickle.loads(pickle.dumps(bare)).merge(kept), kept.merge(bare)):
        (found,) = merged.records
        assert found.mask is not None
        assert found.mask["size"] == [4, 5]
        json.dumps(found.mask)


def test_one_item_without_a_batch_axis() -> None:
    found = ResEvaluator(SMALL)
    found.update(np.ones((4, 5), bool), np.ones((4, 5), bool), 1, 2, image_ids=3, sentence_index=0)
    assert found.records == [ItemRecord(1, 2, 3, 0, 20, 20, 20, 20)]


@pytest.mark.parametrize(
    ("pred", "message"),
    [
        (np.ones((1, 4, 6), bool), r"\[N, H, W\] at 4x5"),
        (np.full((1, 4, 5), 255, np.uint8), "uint8 from 255 to 255"),
        (np.full((1, 4, 5), 0.7), "float64 from 0.7"),
        (np.ones((2, 4, 5), bool), "want the same"),
    ],
)
def test_masks_that_are_refused(pred: np.ndarray, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        ResEvaluator(SMALL).update(pred, np.ones((1, 4, 5), bool), [1], [1])


def test_counts_that_are_refused() -> None:
    found = ResEvaluator(VPD)
    with pytest.raises(EvaluationError, match=r"ref 1, sentence 2: intersection 3.*do not agree"):
        found.update_counts([3], [3], [2], [3], ref_ids=[1], sent_ids=[2])
    with pytest.raises(EvaluationError, match="2 sent_ids for 1 ref_ids"):
        found.update_counts([3], [3], [3], [3], ref_ids=[1], sent_ids=[2, 3])
    with pytest.raises(EvaluationError, match="intersection is float64"):
        found.update_counts([0.5], [3], [3], [3], ref_ids=[1], sent_ids=[2])
    with pytest.raises(EvaluationError, match="no items to score for refcoco val"):
        ResEvaluator(VPD, label="refcoco val").compute()
    with pytest.raises(EvaluationError, match="protocols differ"):
        evaluator([]).merge(ResEvaluator(PROTOCOLS["lavt"]))


def test_presets() -> None:
    assert {name: preset.name for name, preset in PROTOCOLS.items()} == {n: n for n in PROTOCOLS}
    assert ResProtocol() == VPD
    vpd, lavt, cris = VPD.describe(), PROTOCOLS["lavt"].describe(), PROTOCOLS["cris"].describe()
    assert {key for key in vpd if vpd[key] != lavt[key]} == {"name", "resolution"}
    assert (cris["threshold_operator"], cris["resolution"]) == ("gt", "native")
    assert (PROTOCOLS["cris"].size, VPD.size) == (None, (512, 512))
    with pytest.raises(UnknownNameError, match="vpd, lavt"):
        find_protocol("vdp")


def test_description_says_what_was_changed_and_reads_back() -> None:
    changed = replace(VPD, resolution="256x256", overlap="union")
    description = json.loads(json.dumps(changed.describe()))
    assert description["changed"] == ["resolution", "overlap"]
    assert ResProtocol.from_description(description) == changed
    with pytest.raises(ValueError, match="a protocol has"):
        ResProtocol.from_description({"name": "vpd"})


@pytest.mark.parametrize(
    "wrong",
    [
        {"thresholds": ()},
        {"thresholds": (0.0,)},
        {"thresholds": (math.nan,)},
        {"threshold_operator": ">="},
        {"empty_union": "nan"},
        {"sentence_mode": "last"},
        {"resolution": "512"},
        {"overlap": "sum"},
    ],
)
def test_protocols_that_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="want"):
        ResProtocol(**wrong)


def test_table() -> None:
    scores = score([counts(3, 4)], VPD)
    lines = table([("val", scores), ("a", {**scores, "not_honoured": ["x is y"]})]).splitlines()
    assert lines[0].split() == ["P@0.5", "P@0.6", "P@0.7", "P@0.8", "P@0.9", "oIoU", "mIoU"]
    assert lines[1].split() == ["val", "100.00", "100.00", "100.00", "0.00", "0.00", *["75.00"] * 2]
    assert lines[3:] == ["a: x is y"]

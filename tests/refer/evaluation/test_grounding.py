"""Grounding scores against hand-worked phrases and a slow second implementation."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from refer.errors import UnknownNameError
from refer.evaluation.grounding import GroundingEvaluator
from refer.evaluation.grounding_scores import (
    GROUNDING_PROTOCOLS,
    GroundingProtocol,
    find_grounding_protocol,
    ious_of,
)
from refer.evaluation.grounding_table import grounding_table
from refer.evaluation.protocol import EvaluationError

REFTR, TRANSVG = GROUNDING_PROTOCOLS["reftr"], GROUNDING_PROTOCOLS["transvg"]
ANY, MERGED = GROUNDING_PROTOCOLS["mdetr_any"], GROUNDING_PROTOCOLS["mdetr_merged"]
A, B, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [500, 500, 510, 510]
HALF = [0, 0, 10, 5]  # IoU with A is 1/2 exactly


def scored(protocol: GroundingProtocol, *phrases: tuple[Any, Any], **more: Any) -> dict[str, Any]:
    evaluator = GroundingEvaluator(protocol)
    for number, (boxes, truth) in enumerate(phrases):
        evaluator.update("caption", boxes, truth, phrase=number, **more)
    return evaluator.compute()


# Hand-worked.


@pytest.mark.parametrize(("protocol", "accuracy"), [(REFTR, 0.0), (TRANSVG, 100.0)])
def test_an_iou_of_exactly_a_half(protocol, accuracy):
    """RefTR counts > 0.5, the others >= 0.5."""
    scores = scored(protocol, (HALF, A))
    assert (scores["Acc@0.5"], scores["R@1"], scores["mIoU"]) == (accuracy, accuracy, 50.0)


@pytest.mark.parametrize("protocol", [REFTR, TRANSVG])
@pytest.mark.parametrize(("step", "accuracy"), [(1e-9, 100.0), (-1e-9, 0.0)])
def test_beside_the_half_the_operator_is_all_one(protocol, step, accuracy):
    assert scored(protocol, ([0, 0, 10, 5 + step], A))["Acc@0.5"] == accuracy


def test_a_half_is_exact_wherever_the_box_lies():
    """No rounding may move an IoU of one half: sides in eighths of a pixel are exact floats."""
    draw = random.Random(0)
    for _ in range(2000):
        x, y, w, h = (draw.randrange(1, 8000) / 8 for _ in range(4))
        whole, half = [x, y, x + w, y + 2 * h], [x, y, x + w, y + h]
        assert scored(REFTR, (half, whole))["Acc@0.5"] == 0.0
        assert scored(TRANSVG, (half, whole))["Acc@0.5"] == 100.0


def test_the_published_operators_by_name():
    operators = {name: p.threshold_operator for name, p in GROUNDING_PROTOCOLS.items()}
    assert operators == {"reftr": "gt", "transvg": "ge", "mdetr_any": "ge", "mdetr_merged": "ge"}
    assert GroundingProtocol() == REFTR
    assert find_grounding_protocol("transvg") is TRANSVG
    with pytest.raises(UnknownNameError, match="choose reftr, transvg, mdetr_any, mdetr_merged"):
        find_grounding_protocol("RefTR")


def test_any_box_and_merged_box():
    """Two people, 10 pixels apart: their hull is 30 x 10, a third of which each of them is."""
    hull = [0, 0, 30, 10]
    assert scored(ANY, (A, [A, B]))["Acc@0.5"] == 100.0
    assert scored(MERGED, (A, [A, B]))["Acc@0.5"] == 0.0
    assert scored(MERGED, (A, [A, B]))["mIoU"] == pytest.approx(100 / 3)
    assert scored(ANY, (hull, [A, B]))["Acc@0.5"] == 0.0
    assert scored(MERGED, (hull, [A, B]))["mIoU"] == 100.0


def test_merged_is_the_hull_of_all_corners_not_of_areas():
    tall, wide = [10, 0, 12, 50], [0, 20, 40, 22]
    assert scored(MERGED, ([0, 0, 40, 50], [tall, wide]))["mIoU"] == 100.0


def test_recall_at_k_by_hand():
    ranked = [FAR] * 4 + [A] + [FAR] * 10
    late = [FAR] * 12 + [A]
    scores = scored(REFTR, (A, A), (ranked, A), (late, A), (FAR, A))
    found = [scores[name] for name in ("Acc@0.5", "R@1", "R@5", "R@10", "R@all", "mIoU")]
    assert found == [25.0, 25.0, 50.0, 50.0, 75.0, 25.0]
    assert scores["n_items"] == 4


def test_scores_rank_the_boxes_and_equal_ones_stay_in_order():
    evaluator = GroundingEvaluator(REFTR)
    evaluator.update("a", [FAR, A, B], [A], scores=[0.1, 0.9, 0.5])
    evaluator.update("b", [A, FAR], [A], scores=torch.tensor([0.5, 0.5]))
    assert [row["rank"] for row in evaluator.rows()] == [1, 1]
    assert evaluator.items[0].boxes[1] == tuple(map(float, B))
    many = [[n, 0, n + 10, 10] for n in range(40)]  # as many as a detector gives
    evaluator.update("c", many, [A], scores=[0.5] * 20 + [0.7] * 20)
    assert [box[0] for box in evaluator.items[2].boxes] == [*range(20, 40), *range(20)]


def test_a_phrase_of_two_types_counts_under_both_and_once_in_all():
    evaluator = GroundingEvaluator(REFTR)
    evaluator.update("a", A, [A], types=["people", "bodyparts"])
    evaluator.update("b", FAR, [A], types=["people"])
    scores = evaluator.compute()
    assert scores["Acc@0.5"] == 50.0
    assert {name: row["n_items"] for name, row in scores["by_type"].items()} == {
        "bodyparts": 1,
        "people": 2,
    }
    assert scores["by_type"]["people"]["R@1"] == 50.0
    evaluator.update("c", FAR, [A], types=["people", "people"])
    assert evaluator.compute()["by_type"]["people"]["n_items"] == 3


def test_no_prediction_is_a_wrong_answer():
    for nothing in ([], np.zeros((0, 4)), torch.zeros(0, 4)):
        scores = scored(REFTR, (nothing, A), (A, A))
        assert (scores["Acc@0.5"], scores["mIoU"], scores["R@all"]) == (50.0, 50.0, 50.0)


def test_boxes_without_area_are_wrong_and_do_no_harm():
    point = [5, 5, 5, 5]
    assert scored(REFTR, (point, A))["mIoU"] == 0.0
    assert scored(REFTR, (point, point))["mIoU"] == 0.0


def test_counting_pixels_as_refer_does_gives_the_same_iou():
    """REFER: x2 = x + w - 1, and 1 added to the sides of the intersection, cancel out."""
    draw = random.Random(1)
    for _ in range(500):
        one, two = (
            (draw.randrange(20), draw.randrange(20), draw.randrange(1, 20), draw.randrange(1, 20))
            for _ in range(2)
        )
        sides = [
            min(one[i] + one[i + 2] - 1, two[i] + two[i + 2] - 1) - max(one[i], two[i]) + 1
            for i in (0, 1)
        ]
        inside = max(sides[0], 0) * max(sides[1], 0)
        pixels = inside / (one[2] * one[3] + two[2] * two[3] - inside)
        corners = [[b[0], b[1], b[0] + b[2], b[1] + b[3]] for b in (one, two)]
        assert scored(REFTR, (corners[0], corners[1]))["mIoU"] == pytest.approx(100 * pixels)


def test_the_table_by_hand():
    evaluator = GroundingEvaluator(REFTR)
    evaluator.update("a", [FAR, A], [A], types=["people"])
    evaluator.update("b", A, [A], types=["animals"])
    assert grounding_table([("val", evaluator.compute())], REFTR, by_type=True).splitlines() == [
        "           Acc@0.5     mIoU      R@1      R@5     R@10    R@all   phrases",
        "val          50.00    50.00    50.00   100.00   100.00   100.00         2",
        "  animals        -        -   100.00   100.00   100.00   100.00         1",
        "  people         -        -     0.00   100.00   100.00   100.00         1",
        "protocol reftr: right at IoU > 0.5 with the box around all true boxes of the phrase "
        "(MERGED-BOX), all phrases as they occur",
    ]
    assert "IoU >= 0.5 with any true box" in grounding_table([], ANY)


# The second implementation: exact fractions, one pair at a time.


def slow_iou(a: list[float], b: list[float]) -> Fraction:
    a1, b1 = ([Fraction(v) for v in box] for box in (a, b))
    width = min(a1[2], b1[2]) - max(a1[0], b1[0])
    height = min(a1[3], b1[3]) - max(a1[1], b1[1])
    inside = width * height if width > 0 and height > 0 else Fraction(0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a1, b1))
    return inside / (areas - inside) if areas > inside else Fraction(0)


def slow_scores(phrases: list[tuple[Any, Any]], operator: str, truth: str) -> dict[str, Fraction]:
    first, hits = Fraction(0), {1: 0, 5: 0, 10: 0, 10**6: 0}
    for boxes, true in phrases:
        if truth == "merged":
            xs, ys = [b[0] for b in true], [b[1] for b in true]
            true = [[min(xs), min(ys), max(b[2] for b in true), max(b[3] for b in true)]]
        best = [max(slow_iou(box, one) for one in true) for box in boxes]
        first += best[0] if best else 0
        for k in hits:
            top = max(best[:k], default=Fraction(0))
            hits[k] += top > Fraction(1, 2) or (operator == "ge" and top == Fraction(1, 2))
    names = {1: "R@1", 5: "R@5", 10: "R@10", 10**6: "R@all"}
    found = {names[k]: Fraction(100 * hits[k], len(phrases)) for k in hits}
    return {**found, "Acc@0.5": found["R@1"], "mIoU": 100 * first / len(phrases)}


def random_box(draw: random.Random) -> list[float]:
    """On a coarse grid, so that halves and touching boxes are frequent."""
    x, y = draw.randrange(6), draw.randrange(6)
    return [x, y, x + draw.randrange(5), y + draw.randrange(5)]


@pytest.mark.parametrize(("operator", "truth"), itertools.product(["ge", "gt"], ["any", "merged"]))
def test_thousands_of_random_cases(operator, truth):
    draw = random.Random(f"{operator} {truth}")
    protocol = GroundingProtocol("own", threshold_operator=operator, truth=truth)
    halves = cases = 0
    for _ in range(250):
        phrases = [
            (
                [random_box(draw) for _ in range(draw.randrange(14))],
                [random_box(draw) for _ in range(draw.randrange(1, 4))],
            )
            for _ in range(draw.randrange(1, 12))
        ]
        cases += len(phrases)
        evaluator = GroundingEvaluator(protocol)
        for number, (boxes, true) in enumerate(phrases):
            evaluator.update("c", boxes, true, phrase=number)
        halves += sum((ious_of(item, protocol) == 0.5).any() for item in evaluator.items)
        scores = evaluator.compute()
        for name, value in slow_scores(phrases, operator, truth).items():
            assert scores[name] == pytest.approx(float(value), abs=1e-9), name
    assert cases > 1000
    assert halves > 20  # so the operator was put to the test


# One row an expression, shards, refusals.


def filled(protocol: GroundingProtocol = REFTR) -> GroundingEvaluator:
    evaluator = GroundingEvaluator(protocol)
    evaluator.update("pic1/left man", [A, B], [A], types=["people"])
    evaluator.update("pic1/right man", [HALF], [A])
    evaluator.update("pic2/both", [A], [A, B], phrase=3)
    return evaluator


def test_every_expression_of_a_picture_keeps_its_row():
    rows = filled().rows()
    assert [(row["id"], row["phrase"]) for row in rows] == [
        ("pic1/left man", 0),
        ("pic1/right man", 0),
        ("pic2/both", 3),
    ]
    assert [row["right"] for row in rows] == [True, False, False]


def test_padded_items_count_once_however_the_shards_fall():
    whole = filled().compute()
    for order in itertools.permutations(filled().items):
        shards = [GroundingEvaluator(REFTR) for _ in range(2)]
        padded = [*order, order[0]]  # two processes, three items: the first is repeated
        for place, item in enumerate(padded):
            shards[place % 2].update(
                item.expression, item.boxes, item.truth, phrase=item.phrase, types=item.types
            )
        merged = shards[0].merge(shards[1])
        assert merged.compute() == {**whole, "n_duplicates": 1}
        states = [GroundingEvaluator.from_state(REFTR, shard.state()) for shard in shards]
        assert states[0].items == shards[0].items


def test_a_contradiction_is_refused_and_changes_nothing():
    evaluator, other = filled(), GroundingEvaluator(REFTR)
    before = evaluator.state()
    other.update("new", A, A)
    other.update("pic1/left man", [B], [A], types=["people"])
    with pytest.raises(EvaluationError, match=r"'pic1/left man', phrase 0 was evaluated twice"):
        evaluator.merge(other)
    assert evaluator.state() == before
    with pytest.raises(EvaluationError, match="different content"):
        evaluator.update("pic2/both", [A], [A], phrase=3)


def test_shards_of_other_protocols_do_not_merge():
    with pytest.raises(EvaluationError, match="protocols differ"):
        filled(REFTR).merge(filled(TRANSVG))


def test_missing_and_unknown_phrases_are_named():
    keys = [item.key for item in filled().items]
    assert filled().compute(keys) == filled().compute()
    with pytest.raises(EvaluationError, match=r"1 of 4 phrases were not evaluated: \('x', 0\)"):
        filled().compute([*keys, ("x", 0)])
    with pytest.raises(EvaluationError, match=r"are not of the split: \('pic1/left man', 0\)"):
        filled().compute(keys[1:])
    with pytest.raises(EvaluationError, match="no phrases to score"):
        GroundingEvaluator().compute()


@pytest.mark.parametrize(
    ("boxes", "truth", "more", "message"),
    [
        ([A], [], {}, "no true box; leave such phrases out"),
        ([[0, 0, 1]], [A], {}, r"boxes are \(1, 3\)"),
        ([[10, 0, 0, 10]], [A], {}, r"boxes: \[10.0, 0.0, 0.0, 10.0\]"),
        ([[0, 0, float("nan"), 1]], [A], {}, "not finite"),
        ([A], [[0, 0, float("inf"), 1]], {}, "truth: .* not finite"),
        ([A], [A], {"scores": [1, 2]}, "scores of 1 boxes"),
        ([A], [A], {"scores": [float("nan")]}, "scores of 1 boxes"),
        ([A], [A], {"types": "people"}, "types are 'people'; want a list"),
        ([A], [A], {"phrase": -1}, "an int from 0 on"),
        ([A], [A], {"phrase": True}, "an int from 0 on"),
    ],
)
def test_bad_input_is_named(boxes, truth, more, message):
    with pytest.raises(EvaluationError, match=f"'some id'.*{message}"):
        GroundingEvaluator().update("some id", boxes, truth, **more)


@pytest.mark.parametrize(
    "change", [{"threshold": 0}, {"threshold": 1.5}, {"ranks": ()}, {"ranks": (0,)}]
)
def test_bad_protocols(change):
    with pytest.raises(ValueError, match="want"):
        replace(REFTR, **change)
    with pytest.raises(UnknownNameError, match="want one of ge, gt"):
        replace(REFTR, threshold_operator=">")
    with pytest.raises(UnknownNameError, match="want one of any, merged"):
        replace(REFTR, truth="first")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64])
def test_tensors_of_every_precision(dtype):
    boxes = torch.tensor([A, HALF], dtype=dtype, requires_grad=dtype.is_floating_point)
    evaluator = GroundingEvaluator(REFTR)
    evaluator.update("x", boxes, torch.tensor(A), scores=boxes.sum(1))
    assert evaluator.compute()["Acc@0.5"] == 100.0
    assert evaluator.items[0].boxes == (tuple(map(float, A)), tuple(map(float, HALF)))

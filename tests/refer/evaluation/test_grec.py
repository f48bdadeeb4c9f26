"""GREC scores against hand-worked items and a second implementation that tries every matching."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from refer.evaluation.grec import GrecEvaluator, GrecItem, GrecProtocol, f1, overlap
from refer.evaluation.protocol import EvaluationError

A, B, C = [0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]
IOU, GIOU = GrecProtocol("iou"), GrecProtocol()


def item(
    boxes: list[list[float]], truth: list[list[float]], scores: list[float] | None = None
) -> GrecItem:
    scored = scores or [0.9] * len(boxes)
    shape = (-1, 4)
    return GrecItem(
        (1, 1), np.array(boxes, float).reshape(shape), np.array(scored, float),
        np.array(truth, float).reshape(shape),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("boxes", "truth", "expected"),
    [
        ([], [], 1.0),  # nothing named, nothing given
        ([A], [], 0.0),
        ([], [A], 0.0),
        ([A], [A], 1.0),
        ([A, B], [A, B], 1.0),
        ([B, A], [A, B], 1.0),
        ([A], [A, B], 2 / 3),  # one missed
        ([A, B, C], [A, B], 4 / 5),  # one left over
        ([A, A], [A], 2 / 3),  # the same target is met once
        ([A, A], [A, B], 1 / 2),
    ],
)
def test_hand_worked_items(boxes, truth, expected):
    assert f1(item(boxes, truth), GIOU) == pytest.approx(expected)


def test_the_best_pair_is_matched_first():
    """A box that fits both targets goes to the one it fits best, so both are met."""
    near = [0, 0, 10, 9]
    assert f1(item([A, near], [near, A]), IOU) == 1.0


@pytest.mark.parametrize(("score", "expected"), [(0.7, 1.0), (0.6999, 0.0)])
def test_a_score_at_the_threshold_counts(score, expected):
    assert f1(item([A], [A], [score]), GIOU) == expected


def test_an_overlap_at_the_threshold_counts():
    half = [0, 0, 10, 5]
    assert overlap(np.array([half], float), np.array([A], float), "iou")[0, 0] == 0.5
    assert f1(item([half], [A]), IOU) == 1.0
    assert f1(item([[0, 0, 10, 4.999]], [A]), IOU) == 0.0


def test_generalized_and_plain_iou_differ():
    """Shifted along both axes: IoU is above one half, generalized IoU below."""
    shifted = [2, 1, 12, 11]
    pair = np.array([shifted], float), np.array([A], float)
    inside, union, hull = 8 * 9, 200 - 8 * 9, 12 * 11
    assert overlap(*pair, "iou")[0, 0] == pytest.approx(inside / union)
    assert overlap(*pair, "giou")[0, 0] == pytest.approx(inside / union - (hull - union) / hull)
    wide = [3, 0, 13, 10]
    assert f1(item([wide], [A]), IOU) == 1.0  # 70 / 130
    corner = [1.7, 1.7, 11.7, 11.7]
    assert f1(item([corner], [A]), IOU) == 1.0
    assert f1(item([corner], [A]), GIOU) == 0.0


def slow_f1(one: GrecItem, protocol: GrecProtocol) -> float:
    """Right only if some one-to-one matching meets every target with every box."""
    boxes = one.boxes[one.scores >= protocol.score]
    if len(boxes) != len(one.truth):
        return 0.0
    pairs = overlap(boxes, one.truth, protocol.match)
    orders = itertools.permutations(range(len(boxes)))
    return float(any(all(pairs[i, j] >= protocol.overlap for i, j in enumerate(o)) for o in orders))


def test_random_items_are_right_exactly_when_some_matching_is():
    """True where targets lie apart, as boxes that meet two targets at 0.5 hardly exist then."""
    rng = np.random.default_rng(0)
    right = 0
    for _ in range(3000):
        count = int(rng.integers(0, 4))
        truth = [[20.0 * k, 0, 20.0 * k + 10, 10] for k in range(count)]
        boxes = [
            (np.array(box) + rng.normal(0, rng.choice([0.5, 3]), 4)).tolist()
            for box in rng.permutation(np.array(truth).reshape(-1, 4))
        ]
        boxes = [[min(a, c), min(b, d), max(a, c), max(b, d)] for a, b, c, d in boxes]
        if rng.random() < 0.2:
            boxes.append([100, 100, 120, 130])
        scores = rng.choice([0.5, 0.9], len(boxes), p=[0.1, 0.9]).tolist()
        one = item(boxes, truth, scores or None)
        for protocol in (IOU, GIOU):
            found = f1(one, protocol) >= 1.0
            assert found == (slow_f1(one, protocol) == 1.0)
            right += found
    assert 1000 < right < 5000  # both outcomes were tried


def test_the_scores_of_a_set():
    evaluator = GrecEvaluator()
    evaluator.update(1, 1, [A], [0.9], [A])  # right
    evaluator.update(2, 2, [A], [0.9], [])  # nothing named, something given
    evaluator.update(3, 3, [], [], [])  # right
    evaluator.update(4, 4, [A], [0.3], [A])  # below the score: missed
    shard = GrecEvaluator()
    shard.update(5, 5, [A, B], [0.9, 0.8], [A, B])  # right
    shard.update(1, 1, [A], [0.9], [A])  # again
    scores = evaluator.merge(shard).compute()
    assert scores["F1_score"] == pytest.approx(3 / 5)
    assert scores["N_acc"] == pytest.approx(1 / 2)
    assert scores["T_acc"] == pytest.approx(2 / 3)
    # Four true boxes, five found; the wrong one ties with two right ones at 0.9.
    assert 0.7 < scores["AP50"] < 1.0


@pytest.mark.parametrize(("score", "given"), [(0.7, True), (0.6999, False)])
def test_a_box_at_the_threshold_is_given(score, given):
    """Which decides what is said of a sentence, whether it names something or not."""
    evaluator = GrecEvaluator()
    evaluator.update(1, 1, [A], [score], [B])
    evaluator.update(2, 2, [A], [score], [])
    scores = evaluator.compute()
    assert (scores["T_acc"], scores["N_acc"]) == (float(given), float(not given))


def test_average_precision_by_hand():
    """One true box found first, one false after it: precision 1 at full recall; the other way
    round, 1/2."""
    for scores, expected in (([0.9, 0.8], 1.0), ([0.8, 0.9], 0.5)):
        evaluator = GrecEvaluator()
        evaluator.update(1, 1, [A, C], scores, [A])
        assert evaluator.compute()["AP50"] == pytest.approx(expected, abs=1e-6)


def test_bad_boxes_are_refused():
    evaluator = GrecEvaluator()
    with pytest.raises(EvaluationError, match="x1 <= x2"):
        evaluator.update(1, 1, [[5, 0, 1, 1]], [0.9], [])
    with pytest.raises(EvaluationError, match=r"\[N, 4\]"):
        evaluator.update(1, 1, [[5, 0, 1]], [0.9], [])
    with pytest.raises(EvaluationError, match="1 boxes, 2 scores"):
        evaluator.update(1, 1, [A], [0.9, 0.8], [])
    evaluator.update(1, 1, [A], [0.9], [])
    with pytest.raises(EvaluationError, match="twice with different"):
        evaluator.update(1, 1, [B], [0.9], [])

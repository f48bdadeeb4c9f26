"""Boxes of a mask's connected parts: what is one part, and what is too small to be one."""

from __future__ import annotations

import numpy as np
import pytest

from ris.boxes import boxes_of


def test_cells_that_touch_at_a_corner_are_one_part():
    probability = np.zeros((6, 6))
    probability[1:3, 1:3] = probability[3:5, 3:5] = 0.75
    boxes, scores = boxes_of(probability, (6, 6))
    assert boxes.tolist() == [[1.0, 1.0, 5.0, 5.0]]
    assert scores == pytest.approx([0.75])


def test_cells_with_a_cell_between_them_are_two_parts():
    probability = np.zeros((3, 6))
    probability[1, 1], probability[1, 3] = 0.75, 0.875
    boxes, scores = boxes_of(probability, (3, 6))
    assert boxes.tolist() == [[3.0, 1.0, 4.0, 2.0], [1.0, 1.0, 2.0, 2.0]]
    assert scores.tolist() == [0.875, 0.75]


@pytest.mark.parametrize(("pixels", "kept"), [(3, 0), (4, 1), (5, 1)])
def test_a_part_of_just_the_least_share_is_kept(pixels, kept):
    probability = np.zeros((8, 8))
    probability[2, :pixels] = 0.9
    assert len(boxes_of(probability, (8, 8), least=1 / 16)[0]) == kept


def test_a_pixel_of_one_half_is_no_part():
    assert len(boxes_of(np.full((4, 4), 0.5), (4, 4))[0]) == 0

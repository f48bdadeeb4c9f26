"""Boxes that leave the picture: scored as they are, or cut at its edges, and files say which."""

from __future__ import annotations

import pytest
import torch

from refer.evaluation import GROUNDING_PROTOCOLS, load_predictions
from ris.engine.ground_metric import GroundMetric
from ris.grounding import GroundAnswer

# The true box is the right half of a picture of 80 x 40; the answer, 32 pixels further out.
TRUTH, FOUND = [40.0, 0.0, 80.0, 40.0], [40.0, 0.0, 112.0, 40.0]


@pytest.mark.parametrize(
    ("clamp", "box", "iou"), [(False, FOUND, 40 / 72), (True, TRUTH, 1.0)], ids=["whole", "cut"]
)
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_box_beyond_the_edge_is_cut_only_where_asked(tmp_path, clamp, box, iou, side):
    answer, truth = torch.tensor([76 / 80, 0.5, 72 / 80, 1.0]), TRUTH
    if side == "left":
        answer[0] = 1 - answer[0]
        truth, box = ([80 - one[2], one[1], 80 - one[0], one[3]] for one in (truth, box))
    metric = GroundMetric(GROUNDING_PROTOCOLS["transvg"], None, {"split": "val"}, [("a", 0)],
                          tmp_path, clamp=clamp)  # fmt: skip
    batch = {"picture_index": torch.tensor([0]), "caption_of_phrase": torch.tensor([0]),
             "original_sizes": [(40, 80)], "keys": [("a", 0)], "types": [()],
             "truth": [torch.tensor([truth], dtype=torch.float64)]}  # fmt: skip
    metric.process(batch, [GroundAnswer(answer, None)])
    assert metric.evaluate(1)["box_mIoU"] == pytest.approx(100 * iou, rel=1e-5)
    evaluator, header = load_predictions(tmp_path / "boxes_val.jsonl")
    assert list(evaluator.items[0].boxes[0]) == pytest.approx(box, abs=1e-4)
    assert header["clamp"] is clamp

"""Boxes that leave the picture: scored as they are, or cut at its edges, and files say which."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

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


PHRASES = 5


class Boxes(Dataset[dict[str, Any]]):
    """Pictures of as many phrases, each with a tensor of its own."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> dict[str, Any]:
        box = [[0.0, 0.0, 4.0, 4.0]]
        return {"truth": [torch.tensor(box, dtype=torch.float64) for _ in range(PHRASES)]}


def test_workers_tensors_are_let_go(tmp_path):
    """Each holds a file descriptor, of which a process may have a thousand."""
    keys = [(str(picture), phrase) for picture in range(40) for phrase in range(PHRASES)]
    metric = GroundMetric(GROUNDING_PROTOCOLS["reftr"], None, {"split": "val"}, keys, tmp_path)
    answer = GroundAnswer(torch.tensor([0.5, 0.5, 1, 1]), None)
    before, most = len(os.listdir("/proc/self/fd")), 0
    loader = DataLoader(Boxes(), batch_size=None, num_workers=1)
    for picture, item in enumerate(loader):
        batch = {
            "picture_index": torch.tensor([0]),
            "caption_of_phrase": torch.zeros(PHRASES, dtype=torch.int64),
            "original_sizes": [(4, 4)],
            "keys": keys[picture * PHRASES : (picture + 1) * PHRASES],
            "types": [()] * PHRASES,
            **item,
        }
        metric.process(batch, [answer] * PHRASES)
        del batch, item
        most = max(most, len(os.listdir("/proc/self/fd")) - before)
    assert most < 60
    assert metric.evaluate(1)["Acc@0.5"] == 100

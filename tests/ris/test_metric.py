"""Masks of several pictures at once: every record says whose it is, and counts every pixel."""

from __future__ import annotations

import torch

from refer.evaluation import PROTOCOLS, load_records
from refer.evaluation.gres import GresProtocol
from ris.engine.gres_metric import GresMetric
from ris.engine.metric import ResMetric
from ris.general import GeneralAnswer


def test_every_record_is_of_its_own_picture_ref_and_sentence(tmp_path):
    """Two pictures of a batch; the second has two refs, the last of them two sentences."""
    truth = torch.zeros(3, 4, 5, dtype=torch.uint8)
    truth[0, :1] = truth[1, :2] = truth[2, :3] = 1  # 5, 10 and 15 pixels
    found = torch.zeros(4, 4, 5, dtype=torch.bool)
    for sentence, columns in enumerate((5, 4, 3, 2)):
        found[sentence, 0, :columns] = True
    batch = {
        "picture_index": torch.tensor([0, 1, 1, 1]),
        "ref_of_text": torch.tensor([0, 1, 2, 2]),
        "image_ids": [70, 80],
        "ref_ids": [1, 2, 3],
        "sent_ids": [11, 21, 31, 32],
        "sentence_index": [0, 0, 0, 1],
        "masks": truth,
    }
    path = tmp_path / "records.jsonl"
    metric = ResMetric(PROTOCOLS["vpd"], {"dataset": "refcoco", "split": "val"}, path)
    metric.process(batch, list(found))
    later = {**batch, "ref_ids": [4, 5, 6], "sent_ids": [41, 51, 61, 62], "image_ids": [90, 60]}
    metric.process(later, list(found))
    metric.evaluate(8)
    records = load_records(path).records
    assert sorted(record.numbers for record in records) == [
        (1, 11, 70, 0, 5, 5, 5, 5),
        (2, 21, 80, 0, 4, 10, 4, 10),
        (3, 31, 80, 0, 3, 15, 3, 15),
        (3, 32, 80, 1, 2, 15, 2, 15),
        (4, 41, 90, 0, 5, 5, 5, 5),
        (5, 51, 60, 0, 4, 10, 4, 10),
        (6, 61, 60, 0, 3, 15, 3, 15),
        (6, 62, 60, 1, 2, 15, 2, 15),
    ]


def test_counts_are_right_for_large_masks(tmp_path):
    """512 x 640 pixels are more than 16 bits count."""
    truth, found = torch.ones(1, 512, 640, dtype=torch.uint8), torch.ones(1, 512, 640).bool()
    found[0, 0, 0] = False
    batch = {
        "picture_index": torch.tensor([0]), "ref_of_text": torch.tensor([0]), "image_ids": [7],
        "ref_ids": [1], "sent_ids": [11], "sentence_index": [0], "masks": truth,
        "text": ["all of it"], "n_targets": [1],
    }  # fmt: skip
    pixels = 512 * 640
    res = ResMetric(PROTOCOLS["vpd"], {})
    res.process(batch, list(found))
    res._take_in()
    assert res.evaluator.records[0].numbers[4:] == (pixels - 1, pixels, pixels - 1, pixels)
    gres = GresMetric(GresProtocol(), "made", tmp_path, "val")
    gres.process(batch, [GeneralAnswer(found[0].float(), torch.tensor(0.0))])
    gres._take_in()
    (record,) = gres.masks.records
    assert (record.intersection, record.union, record.pred_area) == (pixels - 1, pixels, pixels - 1)

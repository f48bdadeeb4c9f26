"""Which number says "nothing here": the second of two channels, in loss, answer and score."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from refer.evaluation import gres
from refer.evaluation.grec import GrecProtocol
from ris.engine.gres_metric import GresMetric
from ris.general import GeneralAnswer, GeneralRefer
from ris.heads.gres import GRESOutput
from vpd import DiffusionBackbone

SMALL = {"type": "GRESHead", "mask": {"type": "VPDDecoder", "channels": 16}, "grid": 4,
         "width": 32, "heads": 4, "feedforward": 32, "mask_channels": 8}  # fmt: skip
SAYS = torch.tensor([[0.0, 3.0], [0.0, -1.0]])  # of "the unicorn": nothing; of "a dog": there is


@pytest.fixture(scope="module")
def system() -> GeneralRefer:
    """A system whose head says `SAYS` of two sentences."""
    backbone = DiffusionBackbone.from_name("tiny", "random", token_length=8)
    model = GeneralRefer(backbone, SMALL).eval()
    output = GRESOutput(torch.zeros(2, 2, 8, 8), torch.zeros(2, 2, 4, 4), SAYS)
    model.output = lambda *asked: output
    return model


def asked(system: GeneralRefer, mode: str, **truth):
    image, mask = torch.zeros(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.uint8)
    return system(image, ["the unicorn", "a dog"], mask, mode, **truth)


def test_the_answer_is_the_probability_of_the_second_channel(system):
    answers = asked(system, "predict")
    expected = [1 / (1 + math.exp(-3.0)), 1 / (1 + math.exp(1.0))]
    assert [float(one.no_target) for one in answers] == pytest.approx(expected)


@pytest.mark.parametrize("n_targets", [[0, 1], [0, 3], [2, 0], [1, 4], [0, 0]])
def test_the_second_channel_is_learned_where_no_target_is(system, n_targets):
    logs = SAYS.log_softmax(dim=1).tolist()
    weight = {0: 0.9, 1: 1.1}
    classes = [1 if count == 0 else 0 for count in n_targets]
    told = sum(-weight[own] * log[own] for own, log in zip(classes, logs, strict=True))
    loss = asked(system, "loss", n_targets=n_targets)["loss_no_target"]
    assert float(loss) == pytest.approx(0.5 * told / sum(weight[own] for own in classes))


JUST_MORE = float(np.nextafter(np.float32(0.5), np.float32(1)))


@pytest.mark.parametrize(
    ("said", "nothing"), [(0.4, False), (0.5, False), (JUST_MORE, True), (0.6, True)]
)
def test_at_just_one_half_something_is_there(tmp_path, said, nothing):
    """As the argmax of two equal channels, which is the first. Of a pair, one has no target."""
    metric = GresMetric(gres.GresProtocol(), "made", tmp_path, "val", GrecProtocol())
    probability = torch.full((20, 20), 0.05)
    probability[4:14, 4:14] = 0.9
    truth = torch.stack([probability > 0.5, torch.zeros(20, 20, dtype=torch.bool)])
    batch = {
        "ref_of_text": torch.tensor([0, 1]), "picture_index": torch.tensor([0, 0]),
        "image_ids": [7], "ref_ids": [1, 2], "sent_ids": [3, 4], "text": ["a", "b"],
        "masks": truth, "n_targets": [1, 0], "original_sizes": [(20, 20)],
        "boxes": [np.array([[4.0, 4.0, 14.0, 14.0]]), np.zeros((0, 4))],
    }  # fmt: skip
    metric.process(batch, [GeneralAnswer(probability, torch.tensor(said))] * 2)
    scores = metric.evaluate(2)
    assert bool(scores["N_acc"]) == bool(scores["GREC_N_acc"]) == nothing
    assert bool(scores["T_acc"]) == bool(scores["GREC_T_acc"]) == (not nothing)

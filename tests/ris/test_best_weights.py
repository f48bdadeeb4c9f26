"""Which weights are kept as the best ones: those of the highest score, the first of equals."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MessageHub

from ris import checkpoints
from ris.engine.hooks import BestWeightsHook


@pytest.fixture
def saved(monkeypatch) -> list[tuple[float, float]]:
    """(score on the card, the one weight) of everything that is saved."""
    found: list[tuple[float, float]] = []
    monkeypatch.setattr(
        checkpoints,
        "save",
        lambda model, folder, state, **card: found.append((card["val_oIoU"], float(state["w"]))),
    )
    return found


def validated(tmp_path, scores: list[float], best: float | None = None) -> MessageHub:
    """A run whose only weight is the number of the epoch, validated with these scores."""
    model = torch.nn.Module()
    model.w = torch.nn.Parameter(torch.zeros(()))
    hub = MessageHub("best")
    if best is not None:
        hub.update_info("best_score", best)
    runner = SimpleNamespace(
        model=model, message_hub=hub, logger=logging.getLogger("test"), run_id="one", epoch=0
    )
    hook = BestWeightsHook(tmp_path, {})
    for epoch, score in enumerate(scores, start=1):
        runner.epoch = epoch
        model.w.data.fill_(epoch)
        hook.after_val_epoch(runner, {"oIoU": score, "mIoU": -score})
    return hub


@pytest.mark.parametrize(
    ("scores", "epochs"),
    [
        ([50.0, 70.0, 60.0, 80.0], [1, 2, 4]),
        ([80.0, 70.0, 60.0], [1]),
        ([0.0, 0.1], [1, 2]),
        ([70.0, 70.0, 70.0], [1]),  # a tie is no new best
    ],
)
def test_the_highest_score_is_kept_and_the_first_of_equals(tmp_path, saved, scores, epochs):
    hub = validated(tmp_path, scores)
    assert saved == [(scores[epoch - 1], epoch) for epoch in epochs]
    assert hub.get_info("best_score") == max(scores)


def test_the_best_of_a_resumed_run_has_to_be_beaten(tmp_path, saved):
    validated(tmp_path, [70.0, 75.0, 76.0], best=75.0)
    assert saved == [(76.0, 3)]

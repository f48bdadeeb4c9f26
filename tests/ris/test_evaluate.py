"""A test of a checkpoint: what the checkpoint is goes before what the settings say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ris import checkpoints
from ris.engine import evaluate as evaluation
from ris.engine import settings
from ris.grounding import GroundRefer
from vpd import DiffusionBackbone

HEAD = {"type": "PhrasePixelHead", "channels": 16, "word_channels": 8, "width": 8}


@pytest.fixture(scope="module")
def backbone() -> DiffusionBackbone:
    return DiffusionBackbone.from_name("tiny", "random", token_length=16)


@pytest.mark.parametrize("asked", ["boxes", "both"])
@pytest.mark.parametrize(
    ("answers", "masks", "boxes_of"),
    [("boxes", False, None), ("both", True, None), ("masks", True, "the mask's tight box")],
)
def test_what_a_model_answers_it_says_itself(
    backbone, shapes_root, tmp_path, monkeypatch, asked, answers, masks, boxes_of
):
    """Whatever the settings have for its head, what is scored is what the model gives."""
    model = GroundRefer(backbone, {**HEAD, "answers": answers})
    monkeypatch.setattr(checkpoints, "load", lambda *path, **options: model)
    made: dict[str, Any] = {}

    def runner(config: Any, *parts: Any, **more: Any) -> SimpleNamespace:
        made.update(more)
        return SimpleNamespace(test=lambda: None)

    monkeypatch.setattr(evaluation, "make_runner", runner)
    entries = {"data.root": str(shapes_root), "data.image_size": 64, "data.token_length": 16}
    path = settings.find_config("rec", "refshapes", "tiny", None)
    config = settings.load(path, {**entries, "model.head.answers": asked})
    result = evaluation.evaluate(
        config, "model", tmp_path, split="testA", device="cpu", fast_convolutions=False
    )
    (metric,) = made["test_evaluator"].metrics
    assert (metric.masks is not None) == ("masks" in result["protocol"]) == masks
    assert result["protocol"]["boxes"].get("of") == boxes_of
    assert result["settings"]["model"]["head"]["answers"] == answers

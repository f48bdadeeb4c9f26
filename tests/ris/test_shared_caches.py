"""Latents and text features that another process has kept since this one began."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ris.engine.loop import ResumableEpochLoop
from ris.engine.sampler import EpochBatches
from ris.models import VPDRefer
from vpd import DiffusionBackbone
from vpd.cache import digest_of


class NoBatches(list[Any]):
    batch_sampler = EpochBatches(2, 2)


def next_epoch(system: VPDRefer) -> None:
    """An epoch without batches."""
    loop = ResumableEpochLoop.__new__(ResumableEpochLoop)
    loop._runner = SimpleNamespace(model=system, call_hook=lambda name: None)
    loop.dataloader, loop._epoch = NoBatches(), 0
    loop.run_epoch()


def test_latents_are_found_from_the_next_epoch_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = DiffusionBackbone.from_name("tiny", "random", token_length=8)
    ours, theirs = (VPDRefer(backbone, cache_dir=str(tmp_path)).eval() for _ in range(2))
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    mask = torch.zeros(1, 64, 64, dtype=torch.uint8)
    encoded = []
    encode = backbone.encode_image
    monkeypatch.setattr(backbone, "encode_image", lambda image: encoded.append(1) or encode(image))

    def ask(system: VPDRefer, number: int) -> float:
        with torch.no_grad():
            found = system(images[number : number + 1], ["a dog"], mask, mode="loss",
                           picture=[str(number)], content=[b"%d" % number * 32])  # fmt: skip
        return float(found["loss"])

    ask(ours, 0)
    ask(theirs, 1)
    assert len(encoded) == 2
    next_epoch(ours)
    ask(ours, 1)
    assert len(encoded) == 2


def test_text_features_are_found_from_the_next_epoch_on(tmp_path: Path) -> None:
    backbone = DiffusionBackbone.from_name("tiny", "random", token_length=8)
    ours = VPDRefer(backbone, cache_dir=str(tmp_path))
    own = backbone.texts.on_disk
    backbone.encode_text(["a cat"])
    backbone.keep_texts(tmp_path)
    theirs, backbone.texts.on_disk = backbone.texts.on_disk, own
    assert own is not None
    assert theirs is not None
    dog = digest_of(b"a dog")
    theirs.put(dog, torch.ones(8, backbone.text_channels))
    assert own.get(dog) is None
    next_epoch(ours)
    assert own.get(dog) is not None

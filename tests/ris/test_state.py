"""What a run is at one moment, to disk and back: its weights, moments and random state."""

from __future__ import annotations

import logging
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from torch import nn

from ris.engine.optim import build_optimizer
from ris.engine.state import capture, restore
from ris.engine.store import Snapshot, Store
from ris.errors import CheckpointError

RECIPE = {"lr": 0.1, "weight_decay": 0.0, "amsgrad": False, "precision": "fp32"}


def run() -> SimpleNamespace:
    """A runner with all that a state is made of; its model is nothing but a dropout and a layer."""
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(16, 1))
    model.frozen_fingerprint, model.tuned = "none", set()
    wrapper = build_optimizer(model, RECIPE, "cpu")
    return SimpleNamespace(
        run_id="one", message_hub=MessageHub("state"), optim_wrapper=wrapper, model=model,
        param_schedulers=[],
    )  # fmt: skip


def train(runner: SimpleNamespace, steps: int) -> None:
    """Steps on inputs drawn by numpy, with noise by Python and dropout by torch."""
    for _ in range(steps):
        inputs = torch.from_numpy(np.random.standard_normal((4, 16))).float()
        loss = (runner.model(inputs) - random.gauss(0, 1)).square().mean()
        runner.optim_wrapper.update_params(loss)


@pytest.mark.parametrize("gauss", [0, 1])
def test_a_restored_run_draws_what_an_unbroken_one_does(tmp_path, gauss):
    """Also where a generator keeps the second of a pair of normal numbers (`gauss`)."""
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    unbroken = run()
    train(unbroken, 3)
    for _ in range(gauss):
        random.gauss(0, 1)
        np.random.standard_normal()
    store = Store(tmp_path)
    store.write(capture(unbroken, unbroken.model, 3, {"epoch": 0, "consumed": 12}))
    train(unbroken, 3)
    after = torch.rand(3), np.random.rand(3).tolist(), random.random()

    resumed = run()
    train(resumed, 1)  # as building a model does, it draws numbers of its own
    snapshot = store.latest(logging.getLogger("test"))
    assert snapshot is not None
    restore(resumed, resumed.model, snapshot)
    train(resumed, 3)
    for one, two in zip(unbroken.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, two)
    assert torch.equal(torch.rand(3), after[0])
    assert (np.random.rand(3).tolist(), random.random()) == after[1:]


@pytest.mark.parametrize("best", [None, 61.5])
def test_the_best_score_and_the_faults_so_far_are_not_forgotten(tmp_path, best):
    unbroken = run()
    train(unbroken, 2)
    unbroken.optim_wrapper.restore_faults({"skipped": 3, "streak": 1})
    if best is not None:
        unbroken.message_hub.update_info("best_score", best)
    store = Store(tmp_path)
    store.write(capture(unbroken, unbroken.model, 2, {"epoch": 0, "consumed": 8}))
    resumed = run()
    restore(resumed, resumed.model, store.read(2))
    assert resumed.message_hub.runtime_info.get("best_score") == best
    assert resumed.optim_wrapper.faults() == {"skipped": 3, "streak": 1}


def test_a_state_of_other_processes_leaves_the_random_state_alone(monkeypatch):
    runner = run()
    train(runner, 1)
    snapshot = capture(runner, runner.model, 1, {"epoch": 0, "consumed": 4})
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    monkeypatch.setattr("ris.engine.state.get_world_size", lambda: 2)
    restore(runner, runner.model, snapshot)
    assert torch.equal(torch.rand(3), expected)


def test_damage_is_found_wherever_it_is_in_a_large_file(tmp_path, monkeypatch):
    """Files are read block by block."""
    monkeypatch.setattr("ris.engine.store._BLOCK", 100)
    store = Store(tmp_path)
    path = store.write(Snapshot(1, {"model": {"w": torch.zeros(1000)}}, {}))
    assert torch.equal(store.read(1).tensors["model"]["w"], torch.zeros(1000))
    file = path / "model.safetensors"
    content = bytearray(file.read_bytes())
    for place in (-1, 2000):
        damaged = content.copy()
        damaged[place] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="CRC-32"):
            store.read(1)


def test_moments_lie_in_memory_as_their_weights_do(tmp_path):
    """Channels innermost, say; a kernel that updates both at once goes along one order."""

    def convolutional() -> SimpleNamespace:
        runner = run()
        layers = nn.Sequential(nn.Conv2d(4, 6, 3), nn.Flatten(), nn.LazyLinear(1))
        layers(torch.zeros(1, 4, 4, 4))
        runner.model = layers.to(memory_format=torch.channels_last)
        runner.model.frozen_fingerprint, runner.model.tuned = "none", set()
        runner.optim_wrapper = build_optimizer(runner.model, RECIPE, "cpu")
        return runner

    def step(runner: SimpleNamespace, count: int) -> None:
        for number in range(count):
            torch.manual_seed(number)
            loss = runner.model(torch.randn(2, 4, 4, 4)).square().mean()
            runner.optim_wrapper.update_params(loss)

    unbroken, resumed = convolutional(), convolutional()
    step(unbroken, 2)
    store = Store(tmp_path)
    store.write(capture(unbroken, unbroken.model, 2, {"epoch": 0, "consumed": 4}))
    restore(resumed, resumed.model, store.read(2))
    for parameter, entries in resumed.optim_wrapper.optimizer.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            assert entries[name].stride() == parameter.stride()
    for runner in (unbroken, resumed):
        step(runner, 2)
    for one, two in zip(unbroken.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, two)

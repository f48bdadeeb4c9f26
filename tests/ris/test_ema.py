"""The average of the trained weights: when it steps, and that the trained weights come back."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ris.engine.ema import EMAHook, EMAReturnHook

DECAY = 0.3  # less than the warm-up's from the second step on


def started(accumulate: int = 1) -> tuple[SimpleNamespace, torch.nn.Parameter, EMAHook]:
    model = torch.nn.Module()
    model.w = torch.nn.Parameter(torch.zeros(2))
    wrapper = SimpleNamespace(_accumulative_counts=accumulate)
    runner = SimpleNamespace(model=model, optim_wrapper=wrapper, iter=0)
    hook = EMAHook(DECAY)
    hook.before_train(runner)
    return runner, model.w, hook


def train(runner: SimpleNamespace, weight: torch.nn.Parameter, hook: EMAHook, steps: int) -> None:
    """Batches after each of which the weight is the number of batches so far."""
    for step in range(steps):
        runner.iter = step
        weight.data.fill_(step + 1)
        hook.after_train_iter(runner, step)


@pytest.mark.parametrize(
    ("accumulate", "averaged"), [(1, [1, 2, 3, 4, 5, 6]), (2, [2, 4, 6]), (3, [3, 6])]
)
def test_the_average_is_of_the_steps_and_not_of_the_batches(accumulate, averaged):
    runner, weight, hook = started(accumulate)
    train(runner, weight, hook, 6)
    expected = float(averaged[0])  # the warm-up takes the first as it is
    for value in averaged[1:]:
        expected = DECAY * expected + (1 - DECAY) * value
    assert hook.tensors()["0"].tolist() == pytest.approx([expected] * 2)
    assert hook.average.optimization_step == len(averaged)


def test_a_validation_sees_the_average_and_training_goes_on_from_its_own_weights():
    runner, weight, hook = started()
    train(runner, weight, hook, 3)
    average = hook.tensors()["0"].clone()
    hook.before_val_epoch(runner)
    assert torch.equal(weight, average)
    assert not torch.equal(average, torch.full((2,), 3.0))
    EMAReturnHook(hook).after_val_epoch(runner, {})
    assert torch.equal(weight, torch.full((2,), 3.0))
    assert torch.equal(hook.tensors()["0"], average)

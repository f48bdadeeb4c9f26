"""Updating inside the backward pass: the same bits, and no gradient left behind."""

import copy

import pytest
import torch
from torch import nn

from ris.engine.guard import GuardedOptimWrapper
from ris.engine.in_backward import InBackwardOptimWrapper
from ris.engine.optim import build_optimizer
from ris.errors import OptionError

SETTINGS = {"lr": 1e-2, "weight_decay": 1e-2, "amsgrad": False, "precision": "fp32"}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Linear(8, 1))


def train(wrapper, model, scales) -> None:
    torch.manual_seed(1)
    for scale in scales:
        wrapper.update_params(scale * model(torch.randn(5, 3)).square().mean())


@pytest.mark.parametrize("scales", [[1.0] * 4, [1.0, float("nan"), 1.0], [float("inf"), 1.0]])
def test_the_same_weights_as_the_ordinary_step(scales):
    ordinary, inside = network(), network()
    wrappers = [
        build_optimizer(ordinary, SETTINGS, "cpu"),
        build_optimizer(inside, {**SETTINGS, "in_backward": True}, "cpu"),
    ]
    assert type(wrappers[0]) is GuardedOptimWrapper
    assert type(wrappers[1]) is InBackwardOptimWrapper
    start = copy.deepcopy(inside.state_dict())
    for wrapper, model in zip(wrappers, (ordinary, inside), strict=True):
        train(wrapper, model, scales)
    for (name, one), other in zip(
        ordinary.state_dict().items(), inside.state_dict().values(), strict=True
    ):
        if "num_batches" not in name:
            assert torch.equal(one, other), name
    assert not torch.equal(start["0.weight"], inside.state_dict()["0.weight"])
    assert wrappers[0].faults() == wrappers[1].faults()
    assert wrappers[0].take_flags() == wrappers[1].take_flags()


def test_no_two_gradients_stand_side_by_side():
    model = network()
    wrapper = build_optimizer(model, {**SETTINGS, "in_backward": True}, "cpu")
    seen = []
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(
            lambda _: seen.append(sum(p.grad is not None for p in model.parameters()))
        )
    train(wrapper, model, [1.0])
    assert len(seen) == 6
    assert max(seen) == 0  # their own was freed before this second hook ran


@pytest.mark.parametrize("entry", [{"clip": 1.0}, {"accumulate": 2}])
def test_what_needs_all_gradients_is_refused(entry):
    with pytest.raises(OptionError, match="in_backward"):
        build_optimizer(network(), {**SETTINGS, "in_backward": True, **entry}, "cpu")

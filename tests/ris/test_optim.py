"""The optimizer that a recipe asks for, against torch's own, written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ris.engine.optim import build_optimizer, parameter_groups

RECIPE = {"lr": 0.1, "weight_decay": 0.02, "amsgrad": False, "precision": "fp32"}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 1))


def batches(count: int) -> list[torch.Tensor]:
    """Each smaller than the one before it, so that the second moments fall."""
    torch.manual_seed(1)
    return [torch.randn(8, 3) * 4.0**-n for n in range(count)]


def stepped(accumulate: int = 1, data: int = 4, **entries: object) -> list[torch.Tensor]:
    """The weights after the steps of the wrapper, each of `accumulate` equal parts of a batch."""
    model = network()
    wrapper = build_optimizer(model, {**RECIPE, "accumulate": accumulate, **entries}, "cpu")
    wrapper.initialize_count_status(model, 0, data * accumulate)
    for batch in batches(data):
        for part in batch.chunk(accumulate):
            with wrapper.optim_context(model):
                loss = model(part).square().mean()
            wrapper.update_params(loss)
    return [parameter.detach() for parameter in model.parameters()]


def by_hand(clip: float | None = None, **options: object) -> list[torch.Tensor]:
    """The same by torch alone."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.02, **options)
    for batch in batches(4):
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


def alike(one: list[torch.Tensor], two: list[torch.Tensor]) -> bool:
    return all(torch.allclose(a, b, atol=1e-5) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("recipe", [{"clip": 1e-2}, {"amsgrad": True}], ids=["clip", "amsgrad"])
def test_every_entry_of_the_recipe_reaches_the_step(recipe):
    assert alike(stepped(**recipe), by_hand(**recipe))
    assert not alike(by_hand(), by_hand(**recipe))  # or it would show nothing
    assert alike(stepped(), by_hand())


@pytest.mark.parametrize("accumulate", [2, 4])
@pytest.mark.parametrize("clip", [None, 1e-2])
def test_an_accumulated_step_is_that_of_the_joined_batch(accumulate, clip):
    """Clipping included, which looks at the joined gradient."""
    assert alike(stepped(accumulate, clip=clip), stepped(clip=clip))


def test_no_weight_moves_before_the_last_part_of_a_step():
    model = network()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    wrapper = build_optimizer(model, {**RECIPE, "accumulate": 3}, "cpu")
    wrapper.initialize_count_status(model, 0, 6)
    moved = []
    for part in batches(6):
        with wrapper.optim_context(model):
            loss = model(part).square().mean()
        wrapper.update_params(loss)
        now = [parameter.detach().clone() for parameter in model.parameters()]
        moved.append(not all(map(torch.equal, now, before)))
        before = now
    assert moved == [False, False, True] * 2


@pytest.mark.parametrize("scale", [{"0": 2.0, "0.weight": 4.0}, {"0.weight": 4.0, "0": 2.0}])
def test_of_two_names_that_fit_the_longer_decides(scale):
    model = network()
    found = {}
    for group in parameter_groups(model, 0.02, 0.1, scale):
        found |= {id(parameter): group.get("lr", 0.1) for parameter in group["params"]}
    rates = {name: found[id(parameter)] for name, parameter in model.named_parameters()}
    assert rates == {"0.weight": 0.4, "0.bias": 0.2, "2.weight": 0.1, "2.bias": 0.1}

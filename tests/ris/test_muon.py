"""Muon for the head's matrices beside AdamW: which parameters, which steps, states, skipping."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

from ris.engine.muon import MuonAdamW, matrices
from ris.engine.optim import at_batch, build_optimizer
from ris.errors import OptionError

SETTINGS = {"lr": 1e-2, "weight_decay": 0.1, "amsgrad": False, "precision": "fp32", "muon": 0.05}


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Linear(4, 6)
        self.head = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x))


def learn(model: Model, optimizer: torch.optim.Optimizer, steps: int, begin: int = 0) -> None:
    for step in range(begin, begin + steps):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def test_both_inside_step_as_torchs_own_alone():
    model, other = Model(), Model()
    built = build_optimizer(model, SETTINGS, "cpu").optimizer
    assert {p.shape for p in matrices(model)} == {(5, 6), (3, 5)}
    learn(model, built, 5)
    apart = matrices(other)
    rest = [p for p in other.parameters() if all(p is not m for m in apart)]
    muon = torch.optim.Muon(apart, lr=0.05, weight_decay=0.1)
    adamw = torch.optim.AdamW(rest, lr=1e-2, weight_decay=0.1, fused=True)
    for step in range(5):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        for optimizer in (muon, adamw):
            optimizer.zero_grad()
        other(x).square().mean().backward()
        muon.step()
        adamw.step()
    for own, expected in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(own, expected)


def test_without_muon_all_is_adamws():
    wrapper = build_optimizer(Model(), {**SETTINGS, "muon": None}, "cpu")
    assert type(wrapper.optimizer) is torch.optim.AdamW


def test_both_rates_are_for_the_batch_that_the_settings_name():
    asked = {**SETTINGS, "lr_batch": 32}
    found = at_batch(asked, 8)
    assert (found["lr"], found["muon"]) == (pytest.approx(2.5e-3), pytest.approx(0.0125))
    assert at_batch({**asked, "lr_batch": None}, 8)["muon"] == 0.05
    assert at_batch({**asked, "muon": None}, 8)["muon"] is None


def test_a_saved_state_goes_on_to_the_same_bits():
    model = Model()
    optimizer = build_optimizer(model, SETTINGS, "cpu").optimizer
    learn(model, optimizer, 3)
    other = Model()
    other.load_state_dict(model.state_dict())
    again = build_optimizer(other, SETTINGS, "cpu").optimizer
    state = optimizer.state_dict()
    groups = json.loads(json.dumps(state["param_groups"]))  # as states are kept on disk
    again.load_state_dict({"state": copy.deepcopy(state["state"]), "param_groups": groups})
    learn(model, optimizer, 3, begin=3)
    learn(other, again, 3, begin=3)
    for own, expected in zip(other.parameters(), model.parameters(), strict=True):
        assert torch.equal(own, expected)


@pytest.mark.parametrize("sound_before", [0, 2])
def test_a_step_that_is_forbidden_changes_nothing(sound_before):
    model = Model()
    optimizer = build_optimizer(model, SETTINGS, "cpu").optimizer
    assert isinstance(optimizer, MuonAdamW)
    learn(model, optimizer, sound_before)
    before = copy.deepcopy(model.state_dict())
    momenta = [optimizer.state[p].get("momentum_buffer", torch.zeros(())).clone()
               for p in matrices(model)]  # fmt: skip
    optimizer.zero_grad()
    (model(torch.randn(8, 4)).square().mean() * float("nan")).backward()
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    for parameter, momentum in zip(matrices(model), momenta, strict=True):
        assert torch.equal(
            optimizer.state[parameter]["momentum_buffer"], momentum.expand_as(parameter)
        )
    optimizer.found_inf = torch.tensor(0.0)
    learn(model, optimizer, 1)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert not torch.equal(model.head[0].weight, before["head.0.weight"])


def test_a_head_without_matrices_is_adamws():
    model = Model()
    model.head = nn.Conv2d(3, 3, 1)
    assert type(build_optimizer(model, SETTINGS, "cpu").optimizer) is torch.optim.AdamW


def test_embeddings_and_the_backbone_are_not_muons():
    model = Model()
    model.head.append(nn.Embedding(4, 3))
    model.head.places = nn.Parameter(torch.zeros(4, 3))
    assert {id(p) for p in matrices(model)} == {id(model.head[0].weight), id(model.head[2].weight)}


@pytest.mark.parametrize("rate", [0, -1.0])
def test_no_rate_at_all_is_refused(rate):
    with pytest.raises(OptionError, match="more than 0, or None"):
        build_optimizer(Model(), {**SETTINGS, "muon": rate}, "cpu")


def test_a_scale_reaches_both():
    asked = {**SETTINGS, "lr_scale": {"head.0": 10.0}}
    groups = build_optimizer(Model(), asked, "cpu").optimizer.param_groups
    rates = {tuple(p.shape): group["lr"] for group in groups for p in group["params"]}
    assert rates[5, 6] == pytest.approx(0.5)  # a matrix of the layer that is scaled
    assert rates[3, 5] == 0.05
    with pytest.raises(OptionError, match="elsewhere"):
        build_optimizer(Model(), {**SETTINGS, "lr_scale": {"elsewhere": 2.0}}, "cpu")


def test_updates_inside_the_backward_pass_have_the_same_bits():
    one, other = Model(), Model()
    wrappers = [
        build_optimizer(one, SETTINGS, "cpu"),
        build_optimizer(other, {**SETTINGS, "in_backward": True}, "cpu"),
    ]
    for model, wrapper in zip((one, other), wrappers, strict=True):
        for step, scale in enumerate((1.0, float("nan"), 1.0)):
            x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
            wrapper.update_params(scale * model(x).square().mean())
    for own, expected in zip(other.parameters(), one.parameters(), strict=True):
        assert torch.isfinite(own).all()
        assert torch.equal(own, expected)
    assert wrappers[0].faults() == wrappers[1].faults() == {"skipped": 1, "streak": 0}

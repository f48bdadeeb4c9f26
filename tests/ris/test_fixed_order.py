"""What keeps sums in one order, on devices and behind a resume: the same numbers as torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ris.engine import state
from ris.heads.gres import _averages
from ris.losses import WeightedCrossEntropy


@pytest.mark.parametrize(("height", "width", "grid"), [(16, 16, 4), (16, 13, 10), (7, 9, 10)])
def test_means_of_regions_in_a_fixed_order_are_torchs(height, width, grid):
    cells = torch.randn(2, 3, height, width, dtype=torch.float64, requires_grad=True)
    expected = F.adaptive_avg_pool2d(cells, grid)
    torch.use_deterministic_algorithms(True)
    try:
        found = _averages(cells, grid)
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    grads = [torch.autograd.grad((one * weights).sum(), cells)[0] for one in (found, expected)]
    torch.testing.assert_close(*grads)


def test_cross_entropy_in_a_fixed_order_is_torchs():
    logits, mask = torch.randn(2, 2, 5, 7, dtype=torch.float64), torch.randint(0, 2, (2, 5, 7))
    loss = WeightedCrossEntropy((0.5, 2.0))
    expected = F.cross_entropy(logits, mask, weight=torch.tensor([0.5, 2.0], dtype=torch.float64))
    torch.use_deterministic_algorithms(True)
    try:
        torch.testing.assert_close(loss(logits, mask), expected)
    finally:
        torch.use_deterministic_algorithms(False)


def test_moments_lie_as_their_weights_do_behind_a_resume():
    """Fused AdamW walks both in memory's order; the files hold the moments contiguous."""
    torch.manual_seed(0)
    pictures = torch.randn(6, 2, 8, 5, 5)
    layers, optimizers = [], []
    for _ in range(2):
        torch.manual_seed(1)
        layers.append(torch.nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last))
        optimizers.append(torch.optim.AdamW(layers[-1].parameters(), lr=1e-2, fused=True))

    def steps(index: int, batches: torch.Tensor) -> None:
        for batch in batches:
            optimizers[index].zero_grad()
            layers[index](batch).square().mean().backward()
            optimizers[index].step()

    steps(0, pictures)
    steps(1, pictures[:3])
    moments, groups = state._optimizer_parts(optimizers[1])
    optimizers[1] = torch.optim.AdamW(layers[1].parameters(), lr=1e-2, fused=True)
    saved = {"state": state._unflatten(moments), "param_groups": groups}
    optimizers[1].load_state_dict(saved)
    state._lay_out(optimizers[1])
    steps(1, pictures[3:])
    assert torch.equal(layers[0].weight, layers[1].weight)

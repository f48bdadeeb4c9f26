"""How frozen weights are known again."""

from __future__ import annotations

import torch

from ris.frozen import fingerprint


def test_weights_that_differ_in_any_part_of_a_tensor_are_others():
    plain = torch.randn(64, 300)
    own = fingerprint({"w": plain, "b": torch.zeros(3)})
    assert own == fingerprint({"b": torch.zeros(3), "w": plain.clone()})
    for rows in (slice(0, 16), slice(24, 40), slice(48, 64)):
        other = plain.clone()
        other[rows] *= 1.001
        assert fingerprint({"w": other, "b": torch.zeros(3)}) != own
    for other in ({"w": plain}, {"v": plain, "b": torch.zeros(3)},
                  {"w": plain.view(300, 64), "b": torch.zeros(3)}):  # fmt: skip
        assert fingerprint(other) != own


def test_how_they_lie_in_memory_or_are_wrapped_is_no_matter():
    plain = torch.randn(8, 4, 3, 3)
    own = fingerprint({"layer.weight": plain})
    assert fingerprint({"layer.weight": plain.to(memory_format=torch.channels_last)}) == own
    assert fingerprint({"layer.base_layer.weight": plain}) == own

"""Losses on mask logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class WeightedCrossEntropy(nn.Module):
    """Two-channel cross-entropy with class weights, torch's weighted mean over all pixels.

    Weights 0.9 (background) and 1.1 (referred) as published in VPD and LAVT.
    """

    weight: Tensor

    def __init__(self, class_weight: Sequence[float] = (0.9, 1.1)) -> None:
        super().__init__()
        # Not persistent: the released checkpoints hold no such tensor.
        self.register_buffer("weight", Tensor(list(class_weight)), persistent=False)

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """logits [B, 2, H, W], mask uint8 [B, H, W] in {0, 1} -> scalar."""
        return F.cross_entropy(logits, mask.long(), weight=self.weight.to(logits.dtype))

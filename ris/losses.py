"""Losses on mask logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


class WeightedCrossEntropy(nn.Module):
    """Two-channel cross-entropy with class weights, torch's weighted mean over all pixels.

    Weights 0.9 (background) and 1.1 (referred) as published in VPD and LAVT.

    Args:
        over_processes: divide by the weights of all processes' pixels, so that several processes
            step exactly as one with the total batch would. As published (False), each process
            divides by its own, and their gradients are averaged.
    """

    weight: Tensor

    def __init__(
        self, class_weight: Sequence[float] = (0.9, 1.1), over_processes: bool = False
    ) -> None:
        super().__init__()
        self.over_processes = over_processes
        # Not persistent: the released checkpoints hold no such tensor.
        self.register_buffer("weight", Tensor(list(class_weight)), persistent=False)

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """logits [B, 2, H, W], mask uint8 [B, H, W] in {0, 1} -> scalar."""
        weight, target = self.weight.to(logits.dtype), mask.long()
        if not self.over_processes or not dist.is_initialized():
            return F.cross_entropy(logits, target, weight=weight)
        total = weight[target].sum()
        dist.all_reduce(total)
        # DDP averages the processes' gradients, so each has its share of the whole times their
        # number.
        share = total / dist.get_world_size()
        return F.cross_entropy(logits, target, weight=weight, reduction="sum") / share

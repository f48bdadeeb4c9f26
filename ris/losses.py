"""Losses on mask logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ris.errors import OptionError
from ris.heads import GRESOutput

GRES_WEIGHTS = {"total": 5.0, "minimap": 0.1, "no_target": 0.1}


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
        together = self.over_processes and dist.is_initialized()
        # CUDA's kernel for pictures sums in no fixed order, and is refused then.
        fixed = torch.are_deterministic_algorithms_enabled()
        if not together and not fixed:
            return F.cross_entropy(logits, target, weight=weight)
        total = weight[target].sum()
        if together:
            dist.all_reduce(total)
            # DDP averages the processes' gradients, so each has its share of the whole times their
            # number.
            total = total / dist.get_world_size()
        if fixed:
            return F.cross_entropy(logits, target, weight=weight, reduction="none").sum() / total
        return F.cross_entropy(logits, target, weight=weight, reduction="sum") / total


def dice_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """1 - (2 sum(p t) + 1) / (sum p + sum t + 1): [S, H, W] -> [S]."""
    share, truth = logits.sigmoid().flatten(1), truth.to(logits.dtype).flatten(1)
    both = 2 * (share * truth).sum(dim=1)
    return 1 - (both + 1) / (share.sum(dim=1) + truth.sum(dim=1) + 1)


class MaskLoss(nn.Module):
    """Cross-entropy as published, and `dice` times the Dice loss, a mean over the masks.

    Cross-entropy counts pixels, so a large thing outweighs many small ones; Dice counts masks.
    Channels enter Dice by their difference: the softmax of two is the sigmoid of it.

    Args:
        class_weight, over_processes: see `WeightedCrossEntropy`.
        dice: 0, as published, leaves Dice out.
    """

    def __init__(
        self,
        class_weight: Sequence[float] = (0.9, 1.1),
        over_processes: bool = False,
        dice: float = 0.0,
    ) -> None:
        super().__init__()
        if dice < 0:
            raise OptionError(f"dice_weight must be 0 or more, got {dice}")
        self.dice = dice
        self.cross_entropy = WeightedCrossEntropy(class_weight, over_processes)

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """logits [B, 2, H, W], mask uint8 [B, H, W] in {0, 1} -> scalar."""
        loss: Tensor = self.cross_entropy(logits, mask)
        if self.dice:
            loss = loss + self.dice * dice_loss(logits[:, 1] - logits[:, 0], mask).mean()
        return loss


class GeneralLoss(nn.Module):
    """total * (mask + minimap * CE(minimap) + no_target * CE(no target)), all two-channel.

    The mask's part is `MaskLoss`. The minimap's truth is the mask resized to the grid (bilinear,
    which reads the four pixels at a cell's centre), 1 only where all of them are the object's. A
    weight of 0 leaves its part out. Source: ReLA; its weights are the defaults.
    """

    def __init__(
        self,
        class_weight: Sequence[float] = (0.9, 1.1),
        weights: Mapping[str, float] | None = None,
        over_processes: bool = False,
        dice: float = 0.0,
    ) -> None:
        super().__init__()
        self.weights = {**GRES_WEIGHTS, **(weights or {})}
        if set(self.weights) != set(GRES_WEIGHTS):
            raise OptionError(
                f"loss weights {sorted(self.weights)}; there are {', '.join(GRES_WEIGHTS)}"
            )
        self.mask = MaskLoss(class_weight, over_processes, dice)
        self.part = WeightedCrossEntropy(class_weight, over_processes)

    def forward(
        self, logits: Tensor, output: GRESOutput, mask: Tensor, no_target: Tensor
    ) -> dict[str, Tensor]:
        """logits [B, 2, H, W], the output's mask at the truth's size; mask uint8 [B, H, W];
        no_target [B] in {0, 1} -> scalars by name, whose sum is the loss."""
        total = self.weights["total"]
        parts = {"loss_mask": total * self.mask(logits, mask)}
        if output.minimap is not None and self.weights["minimap"]:
            size = output.minimap.shape[-2:]
            covered = F.interpolate(mask[:, None].float(), size=size, mode="bilinear")[:, 0].floor()
            parts["loss_minimap"] = (
                total * self.weights["minimap"] * self.part(output.minimap.float(), covered)
            )
        if output.no_target is not None and self.weights["no_target"]:
            parts["loss_no_target"] = (
                total * self.weights["no_target"] * self.part(output.no_target.float(), no_target)
            )
        return parts

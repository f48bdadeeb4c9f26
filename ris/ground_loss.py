"""Losses of boxes and masks of phrases, as RefTR has them.

Shapes: S phrases of a batch, L decoder layers, N places along a side, H W pixels. Boxes are cxcywh
shares of the picture.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refer.boxes import to_pixels
from ris.errors import OptionError
from ris.heads import GroundOutput
from ris.losses import dice_loss

GROUND_WEIGHTS = {"l1": 1.0, "giou": 1.0, "edges": 0.0, "focal": 1.0, "dice": 1.0}
DIVIDE_BY = ("captions", "phrases")


def generalized_iou(boxes: Tensor, truth: Tensor) -> Tensor:
    """xyxy [..., 4], pair by pair -> GIoU [...] in (-1, 1] (Rezatofighi et al. 2019).

    Boxes without extent are fine as long as the two together have some.
    """
    low, high = torch.maximum(boxes, truth), torch.minimum(boxes, truth)
    both = (high[..., 2:] - low[..., :2]).clamp(min=0).prod(dim=-1)
    areas = [(box[..., 2:] - box[..., :2]).clamp(min=0).prod(dim=-1) for box in (boxes, truth)]
    either = areas[0] + areas[1] - both
    around = (low[..., 2:] - high[..., :2]).clamp(min=0).prod(dim=-1)
    least = torch.finfo(boxes.dtype).tiny
    return both / either.clamp(min=least) - (around - either) / around.clamp(min=least)


def focal_loss(logits: Tensor, truth: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss, the mean over pixels: [S, H, W], truth in {0, 1} -> [S]."""
    truth = truth.to(logits.dtype)
    cross = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    right = torch.exp(-cross)  # the probability given to the truth
    share = alpha * truth + (1 - alpha) * (1 - truth)
    return (share * (1 - right) ** gamma * cross).flatten(1).mean(dim=1)


def edge_loss(edges: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy of where the edges are, a place between two cells shared out over both (as in
    generalized focal loss): logits [S, 4, N], truth xyxy shares [S, 4] -> [S], mean over edges."""
    count = edges.shape[2]
    place = truth.clamp(0, 1) * (count - 1)
    low = place.floor().clamp(max=count - 2).long()
    high = (place - low)[..., None]
    logs = edges.log_softmax(dim=2)
    below, above = (logs.gather(2, index[..., None]) for index in (low, low + 1))
    return -((1 - high) * below + high * above)[..., 0].mean(dim=1)


class GroundLoss(nn.Module):
    """Weighted sum of L1 and GIoU of the boxes, focal and Dice of the masks.

    Args:
        weights: of the parts (`GROUND_WEIGHTS`, RefTR's; its Dice and focal are in use only with
            masks). 'edges' is for heads that say where the edges are; RefTR has none.
        auxiliary: the boxes of all decoder layers count alike, not those of the last alone.
        divide_by: 'captions' sums the losses of boxes over phrases and divides by the captions of
            the batch, as published, so that long captions count more; 'phrases' takes the mean.
            Masks, of which RefTR has one a caption, are a mean over phrases.
    """

    def __init__(
        self,
        weights: Mapping[str, float] | None = None,
        auxiliary: bool = True,
        divide_by: str = "captions",
    ) -> None:
        super().__init__()
        self.weights = {**GROUND_WEIGHTS, **(weights or {})}
        if set(self.weights) != set(GROUND_WEIGHTS):
            raise OptionError(
                f"loss weights {sorted(self.weights)}; there are {', '.join(GROUND_WEIGHTS)}"
            )
        if divide_by not in DIVIDE_BY:
            raise OptionError(f"divide_by is {divide_by!r}; choose {' or '.join(DIVIDE_BY)}")
        self.auxiliary, self.divide_by = auxiliary, divide_by

    def forward(
        self,
        output: GroundOutput,
        boxes: Tensor,
        captions: int,
        logits: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """boxes float [S, 4]; captions of the batch; logits float [S, H, W], the output's mask at
        the size of masks uint8 [S, H, W] -> scalars by name, whose sum is the loss."""
        weights, parts = self.weights, {}
        if output.boxes is not None:
            found = output.boxes if self.auxiliary else output.boxes[-1:]
            number = captions if self.divide_by == "captions" else len(boxes)
            truth = boxes.expand_as(found)
            giou = generalized_iou(to_pixels(found, 1, 1), to_pixels(truth, 1, 1))
            parts["loss_l1"] = weights["l1"] * (found - truth).abs().sum() / number
            parts["loss_giou"] = weights["giou"] * (1 - giou).sum() / number
            if output.edges is not None and weights["edges"]:
                own = edge_loss(output.edges, to_pixels(boxes, 1, 1)).sum() / number
                parts["loss_edges"] = weights["edges"] * own
        if logits is not None and masks is not None:
            for name, loss in (("focal", focal_loss), ("dice", dice_loss)):
                parts[f"loss_{name}"] = weights[name] * loss(logits, masks).mean()
        return parts

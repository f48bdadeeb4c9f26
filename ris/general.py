"""`GeneralRefer`: the same backbone asked for several targets or none (GRES, GREC).

Shapes: P pictures, B (picture, sentence) pairs, T tokens, H W pixels, h w latent cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ris.errors import OptionError
from ris.heads import GRESHead, GRESOutput
from ris.losses import GeneralLoss
from ris.models import VPDRefer
from vpd import DiffusionBackbone


class GeneralAnswer(NamedTuple):
    """What is said of one pair: probability float [H, W] that a pixel is referred to, and of
    "nothing here", a scalar (NaN where the model has no head for it)."""

    probability: Tensor
    no_target: Tensor


class GeneralRefer(VPDRefer):
    """Generalized referring segmenter.

    Called as `VPDRefer` is, with `n_targets` in mode `loss`: for each pair, the objects it names.
    Mode `loss` -> scalars by name; `predict` -> B `GeneralAnswer`; `tensor` -> `GRESOutput`.

    Args:
        backbone: the feature extractor.
        head: config of a `GRESHead`.
        loss_weights: of the parts of the loss (`ris.losses.GRES_WEIGHTS`).
        options: as for `VPDRefer`.
    """

    head: GRESHead
    loss: GeneralLoss

    def __init__(
        self,
        backbone: DiffusionBackbone,
        head: Mapping[str, Any] | None = None,
        *,
        loss_weights: Mapping[str, float] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(backbone, dict(head or {"type": "GRESHead"}), **options)
        if not isinstance(self.head, GRESHead):
            raise OptionError(
                f"a generalized system wants a GRESHead, not {self.head_config['type']!r}; give "
                "another mask decoder as model.head.mask"
            )
        over = bool(options.get("loss_over_processes", False))
        dice = float(options.get("dice_weight", 0.0))
        self.loss = GeneralLoss(self.class_weight, loss_weights, over, dice)

    def _losses(
        self,
        latent: Tensor,
        text: Sequence[str] | Tensor,
        size: tuple[int, int] | torch.Size,
        picture_index: Tensor | None,
        mask: Tensor | None,
        truth: Mapping[str, Any],
    ) -> dict[str, Tensor]:
        if mask is None or truth.get("n_targets") is None:
            raise OptionError("mode 'loss' needs the masks and numbers of targets of the batch")
        output = self.output(latent, text, picture_index)
        nothing = torch.tensor([int(n == 0) for n in truth["n_targets"]])
        nothing = nothing.to(mask.device, non_blocking=True)
        return self.loss(self.upsample(output.mask.float(), size), output, mask, nothing)

    def _answers(self, *asked: Any) -> Any:
        return self.answers(*asked)

    def _tensor(self, *asked: Any) -> Any:
        latent, text, _, picture_index = asked
        return self.output(latent, text, picture_index)

    def output(
        self, latent: Tensor, text: Sequence[str] | Tensor, picture_index: Tensor | None = None
    ) -> GRESOutput:
        """latent [P, c, h, w], B sentences or features [B, T, D] -> the head's logits of B pairs.

        Sentences' padding is kept from the regions; of features it is not known.
        """
        words = None
        if not isinstance(text, Tensor):
            if self.ignore_sentence:
                text = ["object"] * len(text)
            words = self.backbone.token_mask(text)
        features = self._text(text)
        joined = self.pyramid(latent, features, picture_index).joined()
        found: GRESOutput = self.head(joined, features, words)
        return found

    def logits(
        self,
        latent: Tensor,
        text: Sequence[str] | Tensor,
        size: tuple[int, int] | torch.Size,
        picture_index: Tensor | None = None,
    ) -> Tensor:
        """The mask's logits [B, 2, *size]; what the no-target head says is left out."""
        return self.upsample(self.output(latent, text, picture_index).mask.float(), size)

    @torch.no_grad()
    def answers(
        self,
        latent: Tensor,
        text: Sequence[str] | Tensor,
        size: tuple[int, int] | torch.Size,
        picture_index: Tensor | None = None,
    ) -> list[GeneralAnswer]:
        """One answer a pair, `sentence_batch` pairs at a time. `probability` is not blanked where
        nothing is said to be there: the metrics want it raw."""
        found: list[GeneralAnswer] = []
        for pictures, texts, index in self._in_parts(latent, text, picture_index):
            output = self.output(pictures, texts, index)
            masks = self.upsample(output.mask.float(), size).softmax(dim=1)[:, 1]
            nothing = masks.new_full((len(masks),), float("nan"))
            if output.no_target is not None:
                nothing = output.no_target.float().softmax(dim=1)[:, 1]
            found += map(GeneralAnswer, masks, nothing)
        return found

"""`GroundRefer`: the same backbone asked for boxes, and masks, of expressions and of phrases.

Shapes: P pictures, C captions (an expression is a caption that is one phrase), S phrases of all of
them, T tokens, D text channels, H W pixels, h w latent cells. Boxes are cxcywh shares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ris.errors import OptionError
from ris.ground_loss import GroundLoss
from ris.heads import GROUND_HEADS, GroundOutput, PhraseInput
from ris.models import VPDRefer
from ris.phrase_text import AskedPhrases, Span, ask
from vpd import DiffusionBackbone


class GroundAnswer(NamedTuple):
    """What is said of one phrase: box float [4], cxcywh shares, not cut at the picture's edges; and
    probability float [H, W] that a pixel is meant. None where the model gives no such answer."""

    box: Tensor | None
    probability: Tensor | None


class GroundRefer(VPDRefer):
    """Boxes and masks of phrases, all phrases of a caption from one pass of the UNet.

    Args:
        backbone: the feature extractor.
        head: config of a `RefTRHead` or a `PhrasePixelHead`.
        loss_weights, auxiliary, divide_by: see `ris.ground_loss.GroundLoss`.
        options: as for `VPDRefer`.
    """

    loss: GroundLoss

    def __init__(
        self,
        backbone: DiffusionBackbone,
        head: Mapping[str, Any] | None = None,
        *,
        loss_weights: Mapping[str, float] | None = None,
        auxiliary: bool = True,
        divide_by: str = "captions",
        **options: Any,
    ) -> None:
        super().__init__(backbone, dict(head or {"type": "RefTRHead"}), **options)
        if not isinstance(self.head, GROUND_HEADS):
            known = ", ".join(one.__name__ for one in GROUND_HEADS)
            raise OptionError(
                f"a grounding system wants one of {known}, not {self.head_config['type']!r}"
            )
        if options.get("dice_weight"):
            raise OptionError("model.dice_weight is for other tasks; here it is loss_weights.dice")
        self.loss = GroundLoss(loss_weights, auxiliary, divide_by)

    def forward(  # type: ignore[override]
        self,
        image: Tensor,
        captions: Sequence[str],
        caption_of_phrase: Tensor,
        spans: Tensor,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        mode: str = "tensor",
        picture_index: Tensor | None = None,
        pictures: Sequence[str] | None = None,
        content: Sequence[bytes] | None = None,
        **unused: Any,
    ) -> Any:
        """What mmengine's loops call; `unused` takes what only the evaluator reads.

        image float [P, 3, H, W] in [-1, 1]; captions C strings; caption_of_phrase int64 [S] into
        them; spans int64 [S, 2], characters [start, end) of the caption; boxes float [S, 4]; masks
        uint8 [S, H, W]; picture_index int64 [C] (absent: P equals C).

        mode `loss` -> scalars by name; `predict` -> S `GroundAnswer`; `tensor` -> `GroundOutput`.
        """
        if mode not in ("loss", "predict", "tensor"):
            raise OptionError(f"mode {mode!r} is unknown; choose loss, predict or tensor")
        pairs = [(int(start), int(end)) for start, end in spans.tolist()]
        owners = caption_of_phrase.tolist()
        if mode == "loss":
            latent = self.latents.encode(self.backbone, image, pictures, content)
        else:
            latent = self.backbone.encode_image(image)
        if picture_index is None:
            picture_index = torch.arange(len(captions), device=latent.device)
        if mode == "predict":
            return self.ground(latent, captions, owners, pairs, image.shape[-2:], picture_index)
        output = self.output(latent, self.asked(captions, owners, pairs), picture_index)
        if mode == "tensor":
            return output
        if boxes is None or (masks is None and output.mask is not None):
            raise OptionError("mode 'loss' needs the boxes of the batch, and masks for a mask head")
        logits = None if output.mask is None else self.resized(output.mask, image.shape[-2:])
        return self.loss(output, boxes, len(captions), logits, masks)

    def asked(
        self, captions: Sequence[str], caption_of_phrase: Sequence[int], spans: Sequence[Span]
    ) -> AskedPhrases:
        """The phrases' tokens (see `ris.phrase_text.ask`)."""
        if self.ignore_sentence:
            captions, spans = ["object"] * len(captions), [(0, 6)] * len(spans)
        backbone = self.backbone
        length = backbone.token_length
        return ask(backbone.tokenizer, captions, caption_of_phrase, spans, length)

    def output(self, latent: Tensor, asked: AskedPhrases, picture_index: Tensor) -> GroundOutput:
        """latent [P, c, h, w], phrases, picture_index int64 [C] -> the head's answers for them."""
        backbone, device = self.backbone, latent.device
        index = picture_index[torch.tensor(asked.origin)].to(device, non_blocking=True)
        text = backbone.encode_text(asked.captions)
        place = torch.arange(backbone.token_length, device=device)
        first, last = torch.tensor(asked.tokens).to(device, non_blocking=True).T[..., None]
        alone = backbone.token_mask(asked.phrases).sum(dim=1) - 1
        each = torch.arange(len(alone), device=device)
        said = PhraseInput(
            text=text,
            words=backbone.token_mask(asked.captions),
            inside=(place >= first) & (place < last),
            caption=torch.tensor(asked.caption).to(device, non_blocking=True),
            alone=backbone.encode_text(asked.phrases)[each, alone],
            owners=asked.caption,
        )
        pyramid = self.pyramid(latent, text, index)
        maps = tuple(pyramid.maps[level] for level in sorted(pyramid.maps))
        found: GroundOutput = self.head(pyramid.joined(), said._replace(maps=maps))
        return found

    @staticmethod
    def resized(logits: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
        """Bilinear: [S, h, w] -> float32 [S, *size]."""
        return F.interpolate(
            logits[:, None].float(), size=tuple(size), mode="bilinear", align_corners=False
        )[:, 0]

    @torch.no_grad()
    def ground(
        self,
        latent: Tensor,
        captions: Sequence[str],
        caption_of_phrase: Sequence[int],
        spans: Sequence[Span],
        size: tuple[int, int] | torch.Size,
        picture_index: Tensor,
    ) -> list[GroundAnswer]:
        """One answer a phrase, `sentence_batch` captions at a time; `size` is the masks'."""
        found: dict[int, GroundAnswer] = {}
        for start in range(0, len(captions), self.sentence_batch):
            part = slice(start, start + self.sentence_batch)
            own = [i for i, c in enumerate(caption_of_phrase) if part.start <= c < part.stop]
            if not own:
                continue
            # Only the pictures of this part: the UNet's picture-only work runs once for each.
            # On the host, since how many they are would have to be read from the device.
            pictures, index = picture_index[part].cpu().unique(return_inverse=True)
            owners = [caption_of_phrase[i] - start for i in own]
            asked = self.asked(captions[part], owners, [spans[i] for i in own])
            output = self.output(
                latent.index_select(0, pictures.to(latent.device, non_blocking=True)), asked, index
            )
            boxes: Sequence[Tensor | None] = [None] * len(own)
            masks: Sequence[Tensor | None] = [None] * len(own)
            if output.boxes is not None:
                boxes = list(output.boxes[-1].float())
            if output.mask is not None:
                masks = list(self.resized(output.mask, size).sigmoid())
            found |= dict(zip(own, map(GroundAnswer, boxes, masks), strict=True))
        return [found[i] for i in range(len(spans))]

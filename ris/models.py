"""`VPDRefer`: backbone, mask head and loss as one model that mmengine's Runner can drive.

Shapes: P pictures, B (picture, sentence) pairs, T tokens, H W pixels, h w latent cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import Tensor, nn

from refer.transforms import normalise
from ris import allocator
from ris.errors import OptionError
from ris.heads import build_head, reads_words
from ris.kept_latents import KeptLatents
from ris.losses import MaskLoss
from vpd import DiffusionBackbone, FeaturePyramid, convolution
from vpd.precision import lower

READ_BY_THE_HOST = ("picture_index", "caption_of_phrase", "spans")


class PicturePreprocessor(BaseDataPreprocessor):
    """Moves a batch to the model's device and turns uint8 pictures into floats in [-1, 1] there."""

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        # What the host reads stays with it: from the device it would have to wait for it.
        read = {name: data[name] for name in READ_BY_THE_HOST if name in data}
        data = {**self.cast_data(data), **read}
        if data["image"].dtype == torch.uint8:
            data["image"] = normalise(data["image"])
        return data


class VPDRefer(BaseModel):
    """Referring segmenter: diffusion features and cross-attention maps under a light mask head.

    Args:
        backbone: the feature extractor.
        head: config of the mask head (`type='VPDDecoder'` or `type='mmseg.<head>'`).
        class_weight: loss weights of background and referred pixels.
        sentence_batch: pairs run through the UNet at once when predicting.
        latent_cache_mb: latents of training pictures kept in memory, by path; 0 keeps none
            (see `ris.kept_latents`).
        cache_dir: folder where latents of training pictures and text features are kept on disk, for
            every run with the same weights and sizes; None keeps none.
        cache_dtype: 'float32' keeps every bit, 'float16' half the space.
        park_encoders: once `park` is called, VAE and text encoder wait in files in `cache_dir` in
            every training step whose pictures and sentences are all kept.
        ignore_sentence: every expression is read as the same word, which shows how far the
            picture alone leads.
        loss_over_processes: see `WeightedCrossEntropy`.
        dice_weight: of the Dice loss beside the cross-entropy; 0, as published, leaves it out.
    """

    def __init__(
        self,
        backbone: DiffusionBackbone,
        head: Mapping[str, Any] | None = None,
        *,
        class_weight: Sequence[float] = (0.9, 1.1),
        sentence_batch: int = 8,
        latent_cache_mb: int = 0,
        cache_dir: str | None = None,
        cache_dtype: str = "float32",
        park_encoders: bool = False,
        ignore_sentence: bool = False,
        loss_over_processes: bool = False,
        dice_weight: float = 0.0,
    ) -> None:
        super().__init__(data_preprocessor=PicturePreprocessor(non_blocking=True))
        if sentence_batch < 1:
            raise OptionError(f"sentence_batch must be 1 or more, got {sentence_batch}")
        if park_encoders and cache_dir is None:
            raise OptionError(
                "model.park_encoders lets the encoders wait on disk while kept latents and text "
                "features stand in for them; give a folder to keep those in: model.cache_dir"
            )
        self.backbone = backbone
        self.head_config = dict(head or {"type": "VPDDecoder"})
        self.head: nn.Module = build_head(
            self.head_config, backbone.channels, backbone.text_channels
        )
        self.loss: nn.Module = MaskLoss(class_weight, loss_over_processes, dice_weight)
        self.class_weight = tuple(class_weight)
        self.sentence_batch = sentence_batch
        self.ignore_sentence = ignore_sentence
        self.test_dtype = torch.float32
        self.frozen_fingerprint: str | None = None
        self.tuned: set[str] = set()  # names of weights that an earlier stage trained
        self.latents = KeptLatents(latent_cache_mb * 2**20, cache_dir, cache_dtype)
        self.cache_dir, self.park_encoders = cache_dir, park_encoders
        if cache_dir is not None:
            backbone.keep_texts(cache_dir, cache_dtype)

    def forward(
        self,
        image: Tensor,
        text: Sequence[str] | Tensor,
        mask: Tensor | None = None,
        mode: str = "tensor",
        picture: Sequence[str] | None = None,
        picture_index: Tensor | None = None,
        content: Sequence[bytes] | None = None,
        **truth: Any,
    ) -> Any:
        """What mmengine's loops call; `truth` takes what only some systems' losses, or the
        evaluator, read of a batch.

        image float [P, 3, H, W] in [-1, 1]; text B sentences or features [B, T, D]; mask uint8
        [B, H, W]; picture: names of the pictures, by which their latents are kept in memory;
        picture_index int64 [B] into the pictures (absent: P equals B); content: digests of the
        pictures, by which their latents are kept on disk.

        mode `loss` -> {'loss': scalar}; `predict` -> bool masks [B, H, W]; `tensor` -> logits
        float [B, 2, H, W].
        """
        size = image.shape[-2:]
        if mode == "loss":
            latent = self.latents.encode(self.backbone, image, picture, content)
            return self._losses(latent, text, size, picture_index, mask, truth)
        latent = self.backbone.encode_image(image)
        if mode == "predict":
            return self._answers(latent, text, size, picture_index)
        if mode == "tensor":
            return self._tensor(latent, text, size, picture_index)
        raise OptionError(f"mode {mode!r} is unknown; choose loss, predict or tensor")

    def _losses(
        self,
        latent: Tensor,
        text: Sequence[str] | Tensor,
        size: tuple[int, int] | torch.Size,
        picture_index: Tensor | None,
        mask: Tensor | None,
        truth: Mapping[str, Any],
    ) -> dict[str, Tensor]:
        if mask is None:
            raise OptionError("mode 'loss' needs the masks of the batch")
        return {"loss": self.loss(self.logits(latent, text, size, picture_index), mask)}

    def _answers(self, *asked: Any) -> Any:
        return self.predict(*asked)

    def _tensor(self, *asked: Any) -> Any:
        return self.logits(*asked)

    def lower_precision(self, dtype: torch.dtype) -> None:
        """From now on `test_step` runs in `dtype` (autocast), and the weights are kept so.

        The text encoder stays in float32. For scoring only: the UNet does not train any more.
        """
        self.test_dtype = dtype
        if dtype == torch.float32:
            return
        for part in (self.backbone.unet, self.backbone.vae):
            lower(part.requires_grad_(False), dtype)

    def lower_frozen(self, dtype: torch.dtype, fingerprint: str) -> int:
        """Keep the UNet's frozen weights in `dtype` while the rest trains under autocast of the
        same, which gives the same bits; `val_step` and `test_step` then run in `dtype` too.

        fingerprint: of the frozen weights as they were, by which a checkpoint knows them.
        Returns the bytes saved.
        """
        self.test_dtype, self.frozen_fingerprint = dtype, fingerprint
        return lower(self.backbone.unet, dtype)

    def park(self) -> int:
        """Begin to park, where the model was built to (see `DiffusionBackbone.park`): once it lies
        on its device. Returns the bytes that a step spares."""
        if not self.park_encoders or self.cache_dir is None:
            return 0
        parked = self.backbone.park(self.cache_dir)
        allocator.give_back()  # many small weights leave gaps that no activation fits
        return parked

    def refresh_caches(self) -> None:
        """Take notice of what other processes have kept on disk since."""
        self.latents.refresh()
        self.backbone.texts.refresh()

    def fast_convolutions(self) -> None:
        """Fewer multiplications in backbone and head, equal within rounding: for a CPU, in float32,
        without gradient (see `vpd.convolution`)."""
        self.backbone.fast_convolutions()
        convolution.install(self.head)

    def test_step(self, data: Any) -> Any:
        """As mmengine's, in the precision that `lower_precision` or `lower_frozen` set."""
        device = next(self.parameters()).device.type
        with torch.autocast(device, self.test_dtype, enabled=self.test_dtype != torch.float32):
            return super().test_step(data)

    val_step = test_step

    def logits(
        self,
        latent: Tensor,
        text: Sequence[str] | Tensor,
        size: tuple[int, int] | torch.Size,
        picture_index: Tensor | None = None,
    ) -> Tensor:
        """latent [P, c, h, w], B sentences or features [B, T, D] -> logits [B, 2, *size]."""
        text = self._text(text)
        joined = self.pyramid(latent, text, picture_index).joined()
        low = self.head(joined, text) if reads_words(self.head) else self.head(joined)
        if low.dtype in (torch.bfloat16, torch.float16):
            low = low.float()  # the gradient of a cell sums hundreds of pixels: too many for bf16
        return self.upsample(low, size)

    def pyramid(
        self,
        latent: Tensor,
        text: Sequence[str] | Tensor,
        picture_index: Tensor | None = None,
    ) -> FeaturePyramid:
        """The feature pyramid and maps of B pairs (see `vpd.FeaturePyramid`)."""
        return self.backbone(latent, self._text(text).to(latent.dtype), picture_index)

    def _text(self, text: Sequence[str] | Tensor) -> Tensor:
        if isinstance(text, Tensor):
            return text
        return self.backbone.encode_text(["object"] * len(text) if self.ignore_sentence else text)

    @staticmethod
    def upsample(logits: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
        """Bilinear with corners aligned, as published: [B, 2, h, w] -> [B, 2, *size]."""
        return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=True)

    @torch.no_grad()
    def predict(
        self,
        latent: Tensor,
        text: Sequence[str] | Tensor,
        size: tuple[int, int] | torch.Size,
        picture_index: Tensor | None = None,
    ) -> Tensor:
        """bool [B, *size]: argmax of the two channels, `sentence_batch` pairs at a time.

        Without `picture_index` there is one picture for all sentences, or one for each.
        """
        parts = [
            logits[:, 1] > logits[:, 0]
            for logits in (
                self.logits(*part[:2], size, part[2])
                for part in self._in_parts(latent, text, picture_index)
            )
        ]
        return torch.cat(parts)

    def _in_parts(
        self, latent: Tensor, text: Sequence[str] | Tensor, picture_index: Tensor | None
    ) -> Iterator[tuple[Tensor, Sequence[str] | Tensor, Tensor]]:
        """Latents, texts and picture index of `sentence_batch` pairs at a time."""
        if picture_index is None:
            if len(latent) not in (1, len(text)):
                raise OptionError(
                    f"{len(text)} sentences and {len(latent)} pictures: picture_index must say "
                    "which picture each sentence is asked of"
                )
            picture_index = torch.arange(len(text)) % len(latent)
        for start in range(0, len(text), self.sentence_batch):
            part = slice(start, start + self.sentence_batch)
            # Only the pictures of this part: the UNet's picture-only work runs once for each.
            pictures, index = picture_index[part].unique(return_inverse=True)
            pictures = pictures.to(latent.device, non_blocking=True)
            yield latent.index_select(0, pictures), text[part], index

"""`Predictor`: set a picture once, ask many expressions.

Shapes: S expressions, H W the picture's own size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from refer.pictures import open_picture
from refer.transforms import normalise, resize_picture
from ris import checkpoints
from ris.errors import OptionError
from ris.general import GeneralRefer
from ris.models import VPDRefer
from vpd import text


@dataclass
class Prediction:
    """What one call of `Predictor.predict` found, at the picture's own size.

    expressions: the S expressions asked.
    masks: bool [S, H, W].
    probabilities: float32 [S, H, W] in [0, 1], softmax of the two channels.
    scores: float32 [S] in [0, 1]: mean probability inside the mask, 0 where the mask is empty.
    truncated: for each expression, whether it had more tokens than the model takes.
    no_target: float32 [S] in [0, 1], probability that nothing in the picture is meant, of models
        that were trained to say so (above 0.5 the mask is empty); None of others.
    """

    expressions: list[str]
    masks: np.ndarray
    probabilities: np.ndarray
    scores: np.ndarray
    truncated: list[bool]
    no_target: np.ndarray | None = None


class Predictor:
    """Runs a trained segmenter on single pictures.

    Args:
        model: the segmenter.
        image_size: side of the square the picture is squashed to, as in training, or (H, W).
        device: where to run; default CUDA when there is one.
    """

    def __init__(
        self,
        model: VPDRefer,
        image_size: int | Sequence[int] = 512,
        device: str | torch.device | None = None,
    ) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = model.to(self.device).eval()
        self.image_size = image_size if isinstance(image_size, int) else tuple(image_size)
        self._latent: Tensor | None = None
        self.picture: Image.Image | None = None

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, device: str | torch.device | None = None, **options: Any
    ) -> Predictor:
        """From a checkpoint folder or a released `.pth` (see `ris.checkpoints.load`)."""
        model = checkpoints.load(path, **options)
        size = 512
        if Path(path).is_dir():
            size = checkpoints.read_config(path)["info"].get("image_size", 512)
        return cls(model, size, device)

    @torch.inference_mode()
    def set_image(self, picture: str | Path | Image.Image | np.ndarray) -> None:
        """Encode a picture (path, PIL picture, or uint8 RGB array [H, W, 3]); the one VAE pass.

        A photo's EXIF rotation is applied. Raises refer.PictureError for what is no picture.
        """
        if isinstance(picture, (str, Path)):
            opened = open_picture(picture, orient="exif")
        elif isinstance(picture, np.ndarray):
            if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
                raise OptionError(
                    f"a picture array must be uint8 [H, W, 3]; got {picture.dtype} {picture.shape}"
                )
            opened = Image.fromarray(picture)
        else:
            opened = picture.convert("RGB")
        pixels = normalise(resize_picture(opened, self.image_size)[None].to(self.device))
        self._latent = self.model.backbone.encode_image(pixels)
        self.picture = opened

    @torch.inference_mode()
    def predict(self, expressions: str | Sequence[str]) -> Prediction:
        """Segment what each expression refers to in the picture set before.

        Raises:
            OptionError: no picture was set. vpd.TextError: an expression is empty.
        """
        if self._latent is None or self.picture is None:
            raise OptionError("no picture is set; call set_image first")
        asked = [expressions] if isinstance(expressions, str) else list(expressions)
        if not asked:
            raise OptionError("no expression was given")
        size = (self.picture.height, self.picture.width)
        side = self.image_size
        square = (side, side) if isinstance(side, int) else (side[0], side[1])
        features = self.model.backbone.encode_text(asked)
        index = torch.zeros(len(asked), dtype=torch.long, device=self.device)
        parts: list[Tensor] = []
        nothing: list[Tensor] = []
        for start in range(0, len(asked), self.model.sentence_batch):
            part = slice(start, start + self.model.sentence_batch)
            if isinstance(self.model, GeneralRefer):
                output = self.model.output(self._latent, asked[part], index[part])
                logits = self.model.upsample(output.mask, square)
                if output.no_target is not None:
                    nothing.append(output.no_target.float().softmax(dim=1)[:, 1])
            else:
                logits = self.model.logits(self._latent, features[part], square, index[part])
            # From the model's square to the picture's own grid, before the decision.
            logits = F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)
            parts.append(logits.softmax(dim=1)[:, 1])
        probabilities = torch.cat(parts)
        masks = probabilities > 0.5
        if nothing:
            masks &= (torch.cat(nothing) <= 0.5)[:, None, None]
        inside = (probabilities * masks).sum((1, 2)) / masks.sum((1, 2)).clamp(min=1)
        lengths = text.token_counts(self.model.backbone.tokenizer, asked)
        return Prediction(
            asked,
            masks.cpu().numpy(),
            probabilities.cpu().numpy(),
            inside.cpu().numpy(),
            [length > self.model.backbone.token_length for length in lengths],
            torch.cat(nothing).cpu().numpy() if nothing else None,
        )

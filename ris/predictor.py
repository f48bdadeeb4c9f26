"""`Predictor`: set a picture once, ask many expressions.

Shapes: P pictures, S expressions, T tokens, H W a picture's own size, h w cells.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from refer.pictures import open_picture
from refer.transforms import normalise, resize_picture
from ris import cards, checkpoints, hub, sizes
from ris.devices import choose_device, choose_dtype
from ris.download import fetch_picture, is_url
from ris.errors import OptionError
from ris.inference import segment
from ris.models import VPDRefer
from ris.prediction import Prediction
from vpd import weights

__all__ = ["Picture", "Prediction", "Predictor"]

Picture = str | Path | Image.Image | np.ndarray


class Predictor:
    """Runs a trained segmenter on pictures.

    Args:
        model: the segmenter.
        image_size: side of the square the picture is squashed to, as in training, or (H, W).
        device: where to run; None or 'auto' is CUDA when there is one, else the CPU.
        dtype: precision of UNet and head, by autocast: 'float32', 'bfloat16' or 'float16'; None is
            float32 on the CPU and bfloat16 on CUDA. The picture and the sentences are always
            encoded in float32. Scores of the published protocol are of float32.
        info: what the model's card says beside the image size, kept by `save_pretrained`.
        fast_convolutions: on the CPU, see `VPDRefer.fast_convolutions`; False saves 2.2 GiB
            with Stable Diffusion.
    """

    def __init__(
        self,
        model: VPDRefer,
        image_size: int | Sequence[int] = 512,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        info: dict[str, Any] | None = None,
        fast_convolutions: bool = True,
    ) -> None:
        self.device = choose_device(device)
        self.dtype = choose_dtype(dtype, self.device)
        self.model = model.to(self.device).eval()
        if fast_convolutions and self.device.type == "cpu":
            self.model.fast_convolutions()
        self.image_size = image_size if isinstance(image_size, int) else tuple(image_size)
        self.info = dict(info or {})
        self._latent: Tensor | None = None
        self.picture: Image.Image | None = None

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        revision: str | None = None,
        fast_convolutions: bool = True,
        image_size: int | Sequence[int] | None = None,
        **options: Any,
    ) -> Predictor:
        """From a checkpoint folder, a released `.pth`, or a Hub id written by `push_to_hub`.

        image_size: another than that of the training; a released file, which names none, is taken
            at 512.
        revision: branch, tag or commit of a Hub id. options: as for `ris.checkpoints.load`.

        Raises CheckpointError or vpd.WeightsError with the cure, also when offline. A size that no
        model takes is refused by `set_image`.
        """
        if hub.is_hub_id(path):
            path = hub.fetch(str(path), revision)
        elif revision is not None:
            raise OptionError(f"revision {revision!r} is for a Hub id; {path} is none")
        model = checkpoints.load(path, **options)
        info = cards.read_config(path)["info"] if Path(path).is_dir() else {}
        size = image_size
        if size is None:
            with cards.built_from(path, "info.image_size"):
                size = sizes.image_size(info.get("image_size", 512))
        return cls(model, size, device, dtype, info, fast_convolutions)

    def save_pretrained(self, folder: str | Path, *, whole: bool = False) -> None:
        """Write the segmenter to `folder` (`config.json`, `model.safetensors`).

        whole: copy the frozen text-to-image weights too, so that the folder needs nothing else; by
            default it names where they came from. Mind their licence when passing them on.

        Raises CheckpointError if it cannot be written.
        """
        info = {**self.info, "image_size": self.image_size}
        backbone = self.model.backbone
        source = backbone.source
        if whole and not source.startswith("random"):
            backbone.source = weights.INSIDE.format(Path(source).name)
        try:
            checkpoints.save(self.model, folder, **info)
        finally:
            backbone.source = source

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        message: str = "Upload a segmenter",
        whole: bool | None = None,
    ) -> str:
        """Send the segmenter to `repo_id` (owner/name) on the Hub; returns its address.

        private, token: as huggingface_hub takes them; a login is used without `token`.
        whole: as for `save_pretrained`; None copies frozen weights that lie in a file or folder
            here, where nobody else finds them.

        Raises CheckpointError with the cure when the Hub does not take it.
        """
        if whole is None:
            whole = Path(self.model.backbone.source).exists()
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "model"
            self.save_pretrained(folder, whole=whole)
            (folder / "README.md").write_text(hub.CARD.format(repo_id=repo_id))
            return hub.push(folder, repo_id, private=private, token=token, message=message)

    @torch.inference_mode()
    def set_image(self, picture: Picture) -> None:
        """Encode a picture; the one VAE pass.

        picture: path, http(s) address (20 MB at most), PIL picture, or uint8 RGB array [H, W, 3].
        A photo's EXIF rotation is applied.

        Raises refer.PictureError for what is no picture, refer.MissingDataError for what is not
        there, OptionError for an array of another kind.
        """
        opened = _open(picture)
        self._latent = self._encode(opened)
        self.picture = opened

    @torch.inference_mode()
    def predict(self, expressions: str | Sequence[str], *, attention: bool = False) -> Prediction:
        """Segment what each expression refers to in the picture set before.

        attention: also say where each token looked (see `Prediction`).

        Raises:
            OptionError: no picture was set, or the model was built without attention maps.
            vpd.TextError: an expression is empty.
        """
        if self._latent is None or self.picture is None:
            raise OptionError("no picture is set; call set_image first")
        asked = _asked(expressions)
        return self._segment(self._latent, [self.picture], [asked], attention)[0]

    @torch.inference_mode()
    def predict_many(
        self,
        pictures: Sequence[Picture],
        expressions: str | Sequence[str] | Sequence[Sequence[str]],
        *,
        attention: bool = False,
    ) -> list[Prediction]:
        """Segment in P pictures, pairs of all of them batched together (`sentence_batch` of the
        model at a time); the picture set before stays set.

        pictures: as for `set_image`.
        expressions: one or several that are asked of every picture, or P lists, one a picture.

        Returns P predictions. Raises as `set_image` and `predict`, and OptionError for another
        number of lists than of pictures.
        """
        if isinstance(expressions, str) or all(isinstance(e, str) for e in expressions):
            lists = [_asked(expressions)] * len(pictures)  # type: ignore[arg-type]
        else:
            lists = [_asked(part) for part in expressions]
        if not pictures or len(lists) != len(pictures):
            raise OptionError(
                f"{len(pictures)} pictures and {len(lists)} lists of expressions; want one or more "
                "pictures, and a list for each or one expression list for all"
            )
        opened = [_open(picture) for picture in pictures]
        # One by one: the encoder's activations are the peak of memory, and rounding that depends
        # on the neighbours would make a picture's masks differ from those of `set_image`.
        latents = torch.cat([self._encode(picture) for picture in opened])
        return self._segment(latents, opened, lists, attention)

    def _encode(self, picture: Image.Image) -> Tensor:
        """Latent float32 [1, c, h, w] of a picture."""
        pixels = normalise(resize_picture(picture, self.image_size)[None].to(self.device))
        return self.model.backbone.encode_image(pixels)

    def _segment(
        self,
        latents: Tensor,
        pictures: Sequence[Image.Image],
        lists: Sequence[list[str]],
        attention: bool,
    ) -> list[Prediction]:
        side = self.image_size
        square = (side, side) if isinstance(side, int) else (side[0], side[1])
        sizes = [(picture.height, picture.width) for picture in pictures]
        return segment(self.model, latents, sizes, lists, square, self.dtype, attention)


def _open(picture: Picture) -> Image.Image:
    if is_url(picture):
        return fetch_picture(str(picture))
    if isinstance(picture, (str, Path)):
        return open_picture(picture, orient="exif")
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise OptionError(
                f"a picture array must be uint8 [H, W, 3]; got {picture.dtype} {picture.shape}"
            )
        return Image.fromarray(picture)
    if not isinstance(picture, Image.Image):
        raise OptionError(
            f"a {type(picture).__name__} is no picture; give a path, an address, a PIL picture, or "
            "a uint8 array [H, W, 3] (of a tensor [3, H, W]: tensor.permute(1, 2, 0).numpy())"
        )
    return picture.convert("RGB")


def _asked(expressions: str | Sequence[str]) -> list[str]:
    asked = [expressions] if isinstance(expressions, str) else list(expressions)
    if not asked:
        raise OptionError("no expression was given")
    return asked

"""Pictures with captions, held as bytes: all that pre-training sees of a data set.

Shapes: N pictures of S x S pixels.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from vpd.errors import ConfigError


@dataclass(frozen=True)
class CaptionedPictures:
    """``pictures`` uint8 [N, 3, S, S]; ``captions`` one list of sentences a picture; ``sha256`` of
    the caption file and of every picture file read."""

    pictures: Tensor
    captions: list[list[str]]
    sha256: str

    @classmethod
    def read(
        cls, images: Path, captions: Path, split: str = "train", progress: bool = True
    ) -> CaptionedPictures:
        """Read the pictures of one split of a COCO caption file whose images carry their split.

        Raises:
            ConfigError: no picture of that split, a picture without caption, sizes that differ, or
                a broken picture; the message names the file.
        """
        content = json.loads(captions.read_text(encoding="utf-8"))
        wanted = [image for image in content["images"] if image.get("split") == split]
        if not wanted:
            raise ConfigError(f"{captions} has no picture of split {split!r}")
        texts: dict[int, list[str]] = {image["id"]: [] for image in wanted}
        for annotation in content["annotations"]:
            if annotation["image_id"] in texts:
                texts[annotation["image_id"]].append(annotation["caption"])
        digest = hashlib.sha256(captions.read_bytes())
        pictures: Tensor | None = None
        for index, image in enumerate(tqdm(wanted, desc="pictures", disable=not progress)):
            path = images / image["file_name"]
            if not texts[image["id"]]:
                raise ConfigError(f"{captions}: picture {image['file_name']} has no caption")
            try:
                content_bytes = path.read_bytes()
                with Image.open(path) as opened:
                    pixels = torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1)
            except (OSError, UnidentifiedImageError) as error:
                raise ConfigError(f"cannot read picture {path}: {error}") from error
            digest.update(content_bytes)
            if pictures is None:
                pictures = torch.empty((len(wanted), *pixels.shape), dtype=torch.uint8)
            if pixels.shape != pictures.shape[1:]:
                raise ConfigError(
                    f"{path} is {pixels.shape[2]} x {pixels.shape[1]}; the first picture was "
                    f"{pictures.shape[3]} x {pictures.shape[2]}, and all must be alike"
                )
            pictures[index] = pixels
        assert pictures is not None
        return cls(pictures, list(texts.values()), digest.hexdigest())


def normalised(pictures: Tensor, device: torch.device) -> Tensor:
    """uint8 -> float32 in [-1, 1] on the device."""
    return pictures.to(device).float() / 127.5 - 1.0

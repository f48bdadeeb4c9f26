"""The published preprocessing, pixel for pixel: squash picture and mask to one size, scale to ±1.

Shapes: C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from refer.resizing import as_size, resize_mask

__all__ = ["as_size", "normalise", "resize_mask", "resize_picture"]


def resize_picture(picture: Image.Image, size: int | Sequence[int]) -> Tensor:
    """PIL RGB picture -> uint8 [3, H, W], its aspect ignored, by Pillow's bilinear with antialias.

    A resize of the tensor would differ by a grey level; OpenCV's by far more.
    """
    if picture.mode != "RGB":
        raise ValueError(f"the picture's mode is {picture.mode!r}; want RGB (see open_picture)")
    height, width = as_size(size)
    resized = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
    return torch.from_numpy(resized.transpose(2, 0, 1).copy())


def normalise(pixels: Tensor) -> Tensor:
    """uint8 [..., H, W] -> float32 in [-1, 1] on the same device: mean and deviation are 0.5.

    Raises ValueError for another dtype, whose range would not be known.
    """
    if pixels.dtype != torch.uint8:
        raise ValueError(f"pixels are {pixels.dtype}; want uint8 in [0, 255]")
    # Both divisors and their order decide the last bit. As a tensor on the device 255 is divided
    # by; a plain number would be turned into a multiplication by 1/255 on CUDA.
    white = torch.full((), 255.0, device=pixels.device)
    return pixels.to(torch.float32).div_(white).sub_(0.5).div_(0.5)

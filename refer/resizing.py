"""Sizes, and masks of another size, without torch: whoever only looks at data does without it.

Shapes: H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def as_size(size: int | Sequence[int]) -> tuple[int, int]:
    """(H, W) from the side of a square or a pair. Raises ValueError unless both are positive."""
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or any(type(side) is not int or side < 1 for side in pair):
        raise ValueError(f"size is {size!r}; want a positive int or a pair (height, width)")
    return pair[0], pair[1]


def resize_mask(mask: NDArray[Any], size: int | Sequence[int]) -> NDArray[np.uint8]:
    """bool or uint8 [H0, W0] -> uint8 [H, W]: Pillow's nearest, which the published code uses.

    Pixel d shows source pixel floor((d + 0.5) * H0 / H). Where (d + 0.5) * H0 / H is an integer,
    Pillow may land on the pixel before: never at 512, but at 480 for a side of 640, where torch's
    'nearest-exact' differs in 99 rows or columns.
    """
    height, width = as_size(size)
    resized = Image.fromarray(mask.astype(np.uint8)).resize(
        (width, height), Image.Resampling.NEAREST
    )
    return np.asarray(resized)

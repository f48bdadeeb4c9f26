"""Preprocessing equals the published one bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from refer.transforms import as_size, normalise, resize_mask, resize_picture


@pytest.fixture(scope="module")
def published(shared: Path) -> list[dict[str, Any]]:
    from numpy._core.multiarray import scalar

    allowed = [scalar, np.dtype, np.dtypes.Float64DType]
    with torch.serialization.safe_globals(allowed):
        path = shared / "golden" / "preprocess_metrics_golden.pt"
        return torch.load(path, weights_only=True)["preprocess"]


@pytest.mark.parametrize("index", [0, 1])
def test_published_preprocessing(published: list[dict[str, Any]], index: int) -> None:
    golden = published[index]
    pixels = resize_picture(Image.fromarray(golden["img"].numpy()), 512)
    assert torch.equal(pixels, golden["x_u8"])
    crop = normalise(pixels)[:, 100:164, 200:264]
    assert crop.dtype == torch.float32
    assert torch.equal(crop, golden["x_crop"])
    # The file holds layer sums; the published target is where they equal 1.
    mask = golden["ref_mask"].numpy() == 1
    assert np.array_equal(resize_mask(mask, (512, 512)), golden["target"].numpy())


def test_normalise_is_exact_for_every_grey_level() -> None:
    grey = torch.arange(256, dtype=torch.uint8)
    expected = (np.arange(256, dtype=np.float32) / np.float32(255) - np.float32(0.5)) / 0.5
    assert np.array_equal(normalise(grey).numpy(), expected.astype(np.float32))
    assert grey.tolist() == list(range(256))  # the input is left alone


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_normalise_gives_the_same_bits_on_cuda() -> None:
    grey = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(normalise(grey.cuda()).cpu(), normalise(grey))


def test_normalise_refuses_other_types() -> None:
    with pytest.raises(ValueError, match="float32"):
        normalise(torch.zeros(3, 4, 4))


def columns_shown(width: int, out: int) -> np.ndarray:
    """Which source column each column of the resized mask shows, found one bit at a time."""
    source = np.arange(width)
    bits = [
        resize_mask(((source >> bit) & 1)[None].astype(np.uint8), (1, out))[0].astype(int) << bit
        for bit in range(width.bit_length())
    ]
    return np.sum(bits, axis=0)


@pytest.mark.parametrize("width", [*range(1, 40), 333, 375, 427, 480, 500, 512, 612, 640, 1024])
@pytest.mark.parametrize("out", [64, 256, 512])
def test_mask_resize_is_nearest_exact(width: int, out: int) -> None:
    shown = columns_shown(width, out)
    assert np.array_equal(shown, (2 * np.arange(out) + 1) * width // (2 * out))
    source = torch.arange(width, dtype=torch.float64)[None, None]
    exact = F.interpolate(source, size=(out,), mode="nearest-exact")[0, 0]
    assert np.array_equal(shown, exact.numpy())


def test_where_pillow_and_nearest_exact_part() -> None:
    shown = columns_shown(640, 480)
    source = torch.arange(640, dtype=torch.float64)[None, None]
    exact = F.interpolate(source, size=(480,), mode="nearest-exact")[0, 0].numpy()
    assert set((exact - shown).tolist()) == {0, 1}
    assert (exact != shown).sum() == 99


def test_mask_resize_treats_rows_like_columns() -> None:
    mask = np.random.RandomState(0).randint(0, 2, (37, 53), dtype=np.uint8)
    assert np.array_equal(resize_mask(mask, (512, 48)), resize_mask(mask.T, (48, 512)).T)
    assert resize_mask(mask.astype(bool), (512, 48)).dtype == np.uint8


def test_rectangles_and_sizes() -> None:
    picture = Image.new("RGB", (30, 20), (1, 2, 3))
    assert resize_picture(picture, (40, 50)).shape == (3, 40, 50)
    assert resize_picture(picture, 64)[:, 5, 5].tolist() == [1, 2, 3]
    assert as_size(64) == as_size([64, 64]) == (64, 64)
    for wrong in (0, -1, (1, 2, 3), (1, 0), (1.5, 2)):
        with pytest.raises(ValueError, match="positive"):
            as_size(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mode is 'L'"):
        resize_picture(picture.convert("L"), 64)

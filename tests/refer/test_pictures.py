"""Picture files of every kind give whole RGB pictures, or an error that names the file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refer.errors import MissingDataError, PictureError, UnknownNameError
from refer.pictures import open_annotated, open_picture

ROTATED = 6  # EXIF: turn 90 degrees clockwise to see it upright


def gradient(height: int = 20, width: int = 30) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 5, columns * 5, (rows + columns) * 2], axis=2).astype(np.uint8)


def save(path: Path, picture: Image.Image, orientation: int | None = None, **options: int) -> Path:
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    picture.save(path, exif=exif, **options)
    return path


def pixel(path: Path) -> tuple[int, ...]:
    picture = open_picture(path)
    assert picture.mode == "RGB"
    return picture.getpixel((0, 0))


@pytest.mark.parametrize(
    ("mode", "value", "suffix", "expected"),
    [
        ("1", 1, "png", (255, 255, 255)),
        ("L", 77, "png", (77, 77, 77)),
        ("L", 77, "webp", (77, 77, 77)),
        ("LA", (77, 255), "png", (77, 77, 77)),
        ("LA", (77, 0), "png", (255, 255, 255)),
        ("RGB", (10, 20, 30), "bmp", (10, 20, 30)),
        ("RGB", (10, 20, 30), "tiff", (10, 20, 30)),
        ("RGBA", (10, 20, 30, 255), "png", (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), "png", (255, 255, 255)),
        ("RGBA", (0, 0, 0, 51), "png", (204, 204, 204)),
        ("CMYK", (0, 255, 255, 0), "tiff", (255, 0, 0)),
        ("I;16", 0x4D00, "png", (77, 77, 77)),
        ("I;16", 0x4D00, "tiff", (77, 77, 77)),
        ("I", 0x4D00, "tiff", (77, 77, 77)),
    ],
)
def test_every_mode_becomes_rgb(
    tmp_path: Path, mode: str, value: object, suffix: str, expected: tuple[int, ...]
) -> None:
    path = tmp_path / f"picture.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    Image.new(mode, (4, 3), value).save(path, **options)
    assert pixel(path) == expected


def test_palette_with_and_without_transparency(tmp_path: Path) -> None:
    picture = Image.new("P", (4, 3), 1)
    picture.putpalette([0, 0, 0, 10, 20, 30])
    picture.save(tmp_path / "plain.png")
    picture.save(tmp_path / "clear.png", transparency=1)
    assert pixel(tmp_path / "plain.png") == (10, 20, 30)
    assert pixel(tmp_path / "clear.png") == (255, 255, 255)


def test_cmyk_and_gray_jpeg(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=100)
    Image.new("L", (16, 16), 77).save(tmp_path / "gray.jpg", quality=100)
    assert np.abs(np.subtract(pixel(tmp_path / "cmyk.jpg"), (255, 0, 0))).max() <= 3
    assert np.abs(np.subtract(pixel(tmp_path / "gray.jpg"), 77)).max() <= 1


@pytest.mark.parametrize("suffix", ["gif", "webp", "tiff"])
def test_first_frame_of_an_animation(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"two.{suffix}"
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("#ff0000", "#0000ff")]
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    assert pixel(path) == (255, 0, 0)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_exif_rotation_is_applied_when_asked(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"photo.{suffix}", Image.fromarray(gradient()), ROTATED)
    stored, upright = open_picture(path), open_picture(path, orient="exif")
    assert (stored.size, upright.size) == ((30, 20), (20, 30))
    assert np.array_equal(np.asarray(upright), np.rot90(np.asarray(stored), -1))


def test_exif_rotation_of_a_tiff_is_applied_once(tmp_path: Path) -> None:
    path = save(tmp_path / "photo.tiff", Image.fromarray(gradient()), ROTATED)
    upright = open_picture(path, orient="exif")
    assert np.array_equal(np.asarray(upright), np.rot90(gradient(), -1))


def test_annotated_picture_is_read_on_the_grid_of_its_annotation(tmp_path: Path) -> None:
    path = save(tmp_path / "photo.png", Image.fromarray(gradient()), ROTATED)
    assert np.array_equal(np.asarray(open_annotated(path, 20, 30)), gradient())
    assert np.array_equal(np.asarray(open_annotated(path, 30, 20)), np.rot90(gradient(), -1))
    with pytest.raises(PictureError, match=r"photo.png is 20 x 30 .* for 40 x 60"):
        open_annotated(path, 40, 60)


def test_a_square_picture_stays_as_stored(tmp_path: Path) -> None:
    path = save(tmp_path / "photo.png", Image.fromarray(gradient(20, 20)), ROTATED)
    assert np.array_equal(np.asarray(open_annotated(path, 20, 20)), gradient(20, 20))


def test_without_exif_the_other_orientation_is_an_error(tmp_path: Path) -> None:
    path = save(tmp_path / "photo.png", Image.fromarray(gradient()))
    with pytest.raises(PictureError, match="30 x 20"):
        open_annotated(path, 30, 20)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "tiff", "jp2", "bmp"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_a_truncated_file_gives_no_partial_picture(
    tmp_path: Path, suffix: str, share: float
) -> None:
    noise = np.random.RandomState(0).randint(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(PictureError, match=f"cut.{suffix}"):
        open_picture(path)


def test_a_progressive_jpeg_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    Image.fromarray(gradient(64, 64)).save(path, progressive=True, quality=95)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(PictureError, match="fetch it again"):
        open_picture(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "0 bytes"), (b"<!DOCTYPE html><html>not found</html>", "DOCTYPE"), (b"\xff\xd8", "cut")],
)
def test_what_is_no_picture(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "cut.jpg"
    path.write_bytes(content)
    with pytest.raises(PictureError, match=message):
        open_picture(path)


def test_formats_that_start_programs_are_not_tried(tmp_path: Path) -> None:
    path = tmp_path / "drawing.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")
    with pytest.raises(PictureError, match="no picture that can be read"):
        open_picture(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"nowhere\.jpg does not exist"):
        open_picture(tmp_path / "nowhere.jpg")
    with pytest.raises(PictureError, match="not a file"):
        open_picture(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(PictureError, match="not a file"):
        open_picture(tmp_path / "pipe.jpg")


def test_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (100, 100)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(PictureError, match=r"bomb.png is refused.*MAX_IMAGE_PIXELS"):
        open_picture(tmp_path / "bomb.png")


@pytest.mark.parametrize(("mode", "value"), [("F", 0.5), ("I", 70000), ("I", -1)])
def test_pixels_without_a_known_range(tmp_path: Path, mode: str, value: float) -> None:
    Image.new(mode, (4, 3), value).save(tmp_path / "odd.tiff")
    with pytest.raises(PictureError, match="8 bits a channel"):
        open_picture(tmp_path / "odd.tiff")


def test_unknown_orientation_option(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="stored, exif"):
        open_picture(tmp_path / "any.png", orient="upright")  # type: ignore[arg-type]

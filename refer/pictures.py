"""Picture files to whole RGB pictures: whatever is stored, or an error that names the file."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from refer.errors import DataFileError, PictureError
from refer.files import check_file
from refer.options import check_option

Orient = Literal["stored", "exif"]

# Named, because Pillow would otherwise also try readers that start other programs (EPS) or that
# hold no photographs.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")

# Pillow's decoders let these through for damaged files; MemoryError is of a length that lies.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, MemoryError)


def open_picture(
    path: str | Path, orient: Orient = "stored", max_pixels: int | None = None
) -> Image.Image:
    """Read a picture file: PIL picture of mode RGB, all of its pixels loaded.

    A small file may hold a huge picture; one of more than `max_pixels` is not decoded.

    `orient` says what an EXIF orientation does:
      'stored' (default): nothing. Annotations such as COCO's are made on the stored pixels, and the
        published code reads them so. For an annotated picture use `open_annotated`. (A TIFF is
        turned by Pillow all the same.)
      'exif': the picture is turned the way its photographer held the camera; for a user's photo.

    Grayscale, palette, CMYK and other colour modes are converted as Pillow does (no ICC profile is
    applied). 16-bit grayscale keeps its upper 8 bits. Where there is transparency the picture is
    laid on white: Pillow's plain conversion would uncover whatever colour is hidden there. Of an
    animation the first frame counts.

    Raises:
        MissingDataError: there is no such file.
        PictureError: it is no picture, is damaged or cut off, is too large (`max_pixels`; Pillow's
            limit against decompression bombs), or has pixels without a known range (float, 32-bit).
    """
    check_option("orient", orient, Orient)
    picture = _load(Path(path), max_pixels)
    if orient == "exif":
        picture = _upright(picture, Path(path))
    return _to_rgb(picture, Path(path))


def open_annotated(path: str | Path, height: int, width: int) -> Image.Image:
    """Read a picture whose annotations are for `height` x `width` pixels: PIL picture, RGB, so big.

    The stored pixels are taken if their size agrees. If it does only after the EXIF rotation, the
    annotations were made on the rotated picture, and it is rotated.

    Raises PictureError, naming both sizes, if neither agrees; else as `open_picture`.
    """
    picture = _load(Path(path))
    stored = (picture.height, picture.width)
    if stored == (height, width):
        return _to_rgb(picture, Path(path))
    turned = _upright(picture, Path(path))
    if (turned.height, turned.width) == (height, width):
        return _to_rgb(turned, Path(path))
    raise PictureError(
        f"{path} is {stored[0]} x {stored[1]} (height x width), its annotations are for "
        f"{height} x {width}; fetch the original picture again instead of a resized copy"
    )


def picture_size(path: str | Path) -> tuple[int, int]:
    """(width, height) of the stored pixels, from the file's head; the pixels are not read.

    Raises MissingDataError and PictureError, as `open_picture`.
    """
    _file_size(path)
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            return picture.size
    except (*_DAMAGED, Image.DecompressionBombError) as error:
        raise PictureError(
            f"{path} cannot be read: {str(error) or type(error).__name__}; fetch it again"
        ) from error


def _load(path: Path, max_pixels: int | None = None) -> Image.Image:
    """The decoded first frame, in its own mode and orientation."""
    if _file_size(path) == 0:
        raise PictureError(f"{path} is empty (0 bytes); fetch it again")
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            if max_pixels is not None and picture.width * picture.height > max_pixels:
                raise PictureError(
                    f"{path} has {picture.width} x {picture.height} pixels, more than the "
                    f"{max_pixels / 1e6:g} million that are taken here; scale it down"
                )
            picture.load()
            return picture
    except PictureError:  # a ValueError too
        raise
    except Image.DecompressionBombError as error:
        raise PictureError(
            f"{path} is refused: {error}; scale it down, or raise PIL.Image.MAX_IMAGE_PIXELS "
            "if you trust it"
        ) from error
    except Image.UnidentifiedImageError as error:
        raise PictureError(
            f"{path} is no picture that can be read (it begins with {_first_bytes(path)!r}); "
            f"want one of {', '.join(_FORMATS)}"
        ) from error
    except _DAMAGED as error:
        raise PictureError(
            f"{path} cannot be read whole: {str(error) or type(error).__name__}; fetch it again"
        ) from error


def _file_size(path: str | Path) -> int:
    """Bytes of a picture file. Raises MissingDataError, and PictureError for what is no file."""
    try:
        return check_file(path, f"picture {path} does not exist; check the path or the image root")
    except DataFileError as error:
        raise PictureError(str(error)) from error


def _upright(picture: Image.Image, path: Path) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error) as error:
        raise PictureError(
            f"{path} has a damaged EXIF block: {error}; save it again without EXIF"
        ) from error


def _to_rgb(picture: Image.Image, path: Path) -> Image.Image:
    if picture.mode.startswith("I"):
        return _upper_byte(picture, path).convert("RGB")
    if picture.mode == "F":
        raise PictureError(
            f"{path} has float pixels, whose range is unknown; save it with 8 bits a channel"
        )
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return picture.convert("RGB")


def _upper_byte(picture: Image.Image, path: Path) -> Image.Image:
    """16-bit grayscale to 8 bits; Pillow's own conversion would clip everything above 255."""
    values = np.asarray(picture)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise PictureError(
            f"{path} has integer pixels from {low} to {high}; want 0 to 65535: "
            "save it with 8 bits a channel"
        )
    return Image.fromarray((values >> 8).astype(np.uint8))


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(16)

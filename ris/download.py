"""A picture from a web address, within limits of time and size."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from PIL import Image

from refer.errors import MissingDataError, PictureError
from refer.pictures import open_picture

LIMIT = 20 * 2**20  # bytes
PIXELS = 64_000_000
TIMEOUT = 10.0  # seconds without an answer
WHOLE = 60.0  # seconds for all of it: a server may drip its bytes for ever
CHUNK = 2**16


def is_url(text: object) -> bool:
    """Whether `text` is a string that begins with http:// or https://."""
    return isinstance(text, str) and text.lower().startswith(("http://", "https://"))


def fetch_picture(
    url: str, *, limit: int = LIMIT, timeout: float = TIMEOUT, whole: float = WHOLE
) -> Image.Image:
    """Download a picture: PIL picture of mode RGB, turned as its EXIF says.

    Args:
        url: http or https.
        limit: most bytes that are taken.
        timeout: seconds without an answer.
        whole: seconds for the whole download.

    Raises:
        MissingDataError: the server cannot be reached, is too slow, or does not have it.
        PictureError: it is larger than `limit`, has more than `PIXELS` pixels, or is no picture.
    """
    content = _fetch(url, limit, timeout, whole)
    with tempfile.TemporaryDirectory() as folder:
        # Readers and their messages want a file; the name is not taken from the address.
        path = Path(folder) / "picture"
        path.write_bytes(content)
        try:
            return open_picture(path, orient="exif", max_pixels=PIXELS)
        except PictureError as error:
            raise PictureError(str(error).replace(str(path), url)) from error


def _fetch(url: str, limit: int, timeout: float, whole: float) -> bytes:
    import requests
    import urllib3

    if not urlsplit(url).hostname:
        raise MissingDataError(f"{url} names no server; want https://server/picture.jpg")
    content = bytearray()
    end = time.monotonic() + whole
    try:
        with requests.get(url, stream=True, timeout=timeout) as answer:
            answer.raise_for_status()
            # What has come so far, not whole chunks: these can be waited for without end.
            while chunk := answer.raw.read1(CHUNK, decode_content=True):
                content += chunk
                if len(content) > limit:
                    raise PictureError(
                        f"{url} is larger than {limit / 2**20:g} MB; download it yourself, scale "
                        "it down, and give the file"
                    )
                if time.monotonic() > end:
                    raise MissingDataError(
                        f"{url} took longer than {whole:g} s; download it yourself and give the "
                        "file"
                    )
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MissingDataError(
            f"{url} cannot be fetched: {reason}; check the address and the connection, or "
            "download it yourself and give the file"
        ) from error
    return bytes(content)

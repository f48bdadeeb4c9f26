"""Which picture files a folder or a glob means, and what their results are called."""

from __future__ import annotations

import glob
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from refer.errors import MissingDataError

UNREAD = (".avif", ".heic", ".heif", ".jxl", ".svg", ".psd", ".dng", ".cr2", ".nef", ".arw")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".jp2")


def many_pictures(place: str) -> list[Path] | None:
    """The pictures of a folder (not of those within) or that match a glob, by name; None where
    `place` is neither and so means one file.

    Raises MissingDataError if there is none.
    """
    folder = Path(place)
    if folder.is_file():  # whatever letters its name has
        return None
    if folder.is_dir():
        found = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES]
        wanted = f"no picture in folder {place}; want files ending in {', '.join(SUFFIXES)}"
    elif glob.has_magic(place):
        found = [Path(name) for name in glob.glob(place, recursive=True)]
        wanted = f"no file matches {place!r}; a glob stands in quotes"
    else:
        return None
    files = sorted(path for path in found if path.is_file())
    if folder.is_dir():
        odd = {path.name for path in folder.iterdir() if path.suffix.lower() in UNREAD}
        if odd:
            named = ", ".join(sorted(odd)[:5]) + (", ..." if len(odd) > 5 else "")
            print(
                f"{len(odd)} pictures of {place} are left out, of kinds that are not read; convert "
                f"them to JPEG: {named}",
                file=sys.stderr,
            )
    if not files:
        raise MissingDataError(wanted)
    return files


def stems(pictures: Sequence[Path]) -> list[str]:
    """A name for each picture's results: its stem, or where that comes twice, something longer."""
    named = [picture.stem for picture in pictures]
    for longer in (lambda p: p.name, lambda p: "_".join(p.with_suffix("").parts) + p.suffix):
        counts = Counter(named)
        named = [
            longer(picture) if counts[name] > 1 else name
            for name, picture in zip(named, pictures, strict=True)
        ]
    return named

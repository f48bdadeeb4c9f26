"""Put a finished draft in its place, and never over data that are somebody else's."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

NAME = "refshapes"
IMAGES = Path("images", NAME)
GROUPS = Path("grefcoco")
RECORDS = Path(NAME)  # its info.json vouches for the whole: it is moved last


def read_info(folder: Path) -> dict[str, Any] | None:
    """What ``info.json`` of a folder says, or None when it holds none of ours."""
    path = folder / "info.json"
    if not path.is_file():
        return None
    info = json.loads(path.read_text(encoding="utf-8"))
    return info if isinstance(info, dict) and info.get("name") == "RefShapes" else None


def parts_of(extras: bool) -> list[Path]:
    """The folders of a data set, relative to the data root, in the order they are moved."""
    return [IMAGES, *([GROUPS] if extras else []), RECORDS]


def refuse_existing(root: Path, extras: bool, overwrite: bool) -> None:
    """Raise FileExistsError if a folder we would write is taken.

    Even ``overwrite`` does not touch a ``grefcoco`` that this generator did not write: it may be
    the genuine one.
    """
    for part in parts_of(extras):
        folder = root / part
        taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
        foreign = part == GROUPS and read_info(folder) is None
        if not taken or (overwrite and not foreign):
            continue
        found = read_info(folder)
        what = f"RefShapes with {found['options']}" if found else "data of another kind"
        cure = "" if foreign else ", or overwrite it (overwrite=True, --overwrite)"
        raise FileExistsError(f"{folder} holds {what}; choose another folder{cure}")


def move_into_place(draft: Path, root: Path, extras: bool) -> None:
    """Replace what is there by the draft's folders; ``draft`` must lie on the same file system."""
    old = read_info(root / RECORDS)
    (root / RECORDS / "info.json").unlink(missing_ok=True)  # the old data are no longer whole
    aside = draft / "replaced"
    aside.mkdir()
    if old and old["options"]["extras"] and not extras and read_info(root / GROUPS):
        os.replace(root / GROUPS, aside / "stale")  # it speaks of pictures that are gone
    for number, part in enumerate(parts_of(extras)):
        target = root / part
        if target.exists():
            os.replace(target, aside / str(number))
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(draft / part, target)

"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO


@contextmanager
def draft_of(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it becomes `path` when the block ends without an error.

    What was there before stays until then. The draft is removed if the block raises. Folders are
    made. An OSError names `path`: those of a full disk name nothing.
    """
    draft = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        os.replace(draft, path)
    except OSError as error:
        # Of another file, or a library's own: that is for whoever reads it.
        if error.errno is None or error.filename not in (None, str(draft)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


@contextmanager
def written_beside(path: Path) -> Iterator[TextIO]:
    """A text file (UTF-8) to write to, on the disk before it becomes `path` (see `draft_of`)."""
    with draft_of(path) as draft, draft.open("w", encoding="utf-8", newline="\n") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def write_json(path: str | Path, content: Any, default: Callable[[Any], Any] | None = None) -> None:
    """Write JSON beside, then rename: readers see the old file or the whole new one.

    default: what makes of a value that JSON has not one that it has, as of `json.dumps`; without
    it, such a value raises TypeError.
    """
    text = json.dumps(content, indent=1, default=default) + "\n"
    with draft_of(Path(path)) as draft:
        draft.write_text(text, encoding="utf-8")

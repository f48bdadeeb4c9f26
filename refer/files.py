"""Files that are read whole, and files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from refer.errors import DataFileError, MissingDataError

OPEN_ALREADY = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")


def check_file(path: str | os.PathLike[str], missing: str) -> int:
    """Size in bytes of a file that can be opened without waiting: a plain one.

    Raises MissingDataError, saying `missing`, when there is none; DataFileError for a folder, a
    pipe (opening one waits until somebody writes), a device, or a path that cannot be.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise MissingDataError(missing) from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise DataFileError(f"{_shown(path)} cannot be read: {_reason(error)}") from error
    if stat.S_ISFIFO(found.st_mode) and os.fspath(path).startswith(OPEN_ALREADY):
        return 0  # of a shell's <(...), which somebody writes to
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
        raise DataFileError(
            f"{path} cannot be read: it is {kind}, not a file; want the path of one file"
        )
    return found.st_size


def read_file(path: str | os.PathLike[str], missing: str) -> bytes:
    """The bytes of a plain file.

    Raises MissingDataError, saying `missing`, when there is none; DataFileError, naming the file,
    when it cannot be read or is larger than the memory.
    """
    size = check_file(path, missing)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataFileError(f"{path} cannot be read: {_reason(error)}") from error
    except MemoryError as error:
        raise DataFileError(f"{path} has {size} bytes, more than the memory holds") from error


def read_text(path: str | os.PathLike[str], missing: str) -> str:
    """The text (UTF-8) of a plain file. Raises as `read_file`, and DataFileError for other text."""
    try:
        return read_file(path, missing).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataFileError(f"{path}: not UTF-8: {error}") from error


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _shown(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path)
    return repr(text if len(text) <= 200 else f"{text[:197]}...")


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

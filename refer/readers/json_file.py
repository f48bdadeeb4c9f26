"""A JSON file as typed content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from refer.errors import DataFileError
from refer.files import read_file
from refer.readers import paused_gc


def load_json(path: Path, kind: Any, cure: str) -> Any:
    """The content of a JSON file as `kind`, a type that msgspec knows.

    Raises MissingDataError, with the `cure`, when there is no such file; DataFileError, naming file
    and place, when it cannot be read, is no JSON or holds something else.
    """
    content = read_file(path, f"no file {path}; {cure}")
    try:
        with paused_gc():
            return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataFileError(f"{path}: {error}; {cure}") from error

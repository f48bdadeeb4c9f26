"""The JSON object that describes a folder of a model, read with suspicion and without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ris.errors import CheckpointError


def read_object(file: Path, format: str) -> dict[str, Any]:
    """The object in `file`, whose entry `format` is that.

    Raises FileNotFoundError where nothing is, CheckpointError for anything but such a file.
    """
    try:
        if file.exists() and not file.is_file():  # to read from a pipe would be to wait for ever
            raise ValueError("a folder or a pipe is there, and no file")
        described = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(described, dict) or "format" not in described:
            raise ValueError("it holds no object with an entry 'format'")
    except FileNotFoundError:
        raise
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(
            f"{file} is damaged or no card of a model: {error}; copy the folder anew from where it "
            "was written"
        ) from error
    if described["format"] != format:
        raise CheckpointError(f"{file} has format {described['format']!r:.80}, not {format!r}")
    return described

"""config.json of a checkpoint folder: what a model is rebuilt from, read with suspicion."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

from ris.errors import CheckpointError
from vpd import DiffusionBackbone

FORMAT = "vpd-ris 1"
# What config.json must hold, by part.
_CARD = {
    "": ("system", "backbone", "head", "class_weight", "ignore_sentence", "info"),
    "backbone ": ("unet", "vae", "text", "options", "source"),
}


def read_config(path: str | Path) -> dict[str, Any]:
    """config.json of a folder written by `save`. Raises CheckpointError if it is none."""
    file = Path(path) / "config.json"
    try:
        described = json.loads(file.read_text())
        if described["format"] != FORMAT:
            raise CheckpointError(f"{file} has format {described['format']!r}, not {FORMAT!r}")
    except FileNotFoundError:
        if (Path(path) / "model_index.json").is_file():
            raise CheckpointError(
                f"{path} is a text-to-image model and no segmenter; train one on it: ris train "
                f"--weights {path}"
            ) from None
        raise CheckpointError(
            f"{path} is no checkpoint folder: config.json and model.safetensors are needed"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{file} is damaged or no checkpoint's: {error}") from error
    return described


def whole_card(path: str | Path) -> dict[str, Any]:
    """config.json with all that a model is built from. Raises CheckpointError for entries that are
    not there, or options that no backbone has."""
    described, file = read_config(path), Path(path) / "config.json"
    parts = {"": described, "backbone ": described.get("backbone", {})}
    for part, wanted in _CARD.items():
        if lacking := [name for name in wanted if name not in parts[part]]:
            raise CheckpointError(
                f"{file} lacks {part}{', '.join(lacking)}; it was not written whole"
            )
    options = described["backbone"]["options"]
    known = set(inspect.signature(DiffusionBackbone.__init__).parameters) - {"self", "components"}
    if odd := sorted(set(options) - known):
        raise CheckpointError(
            f"{file} has backbone options that this version does not know: {', '.join(odd)}; it "
            f"knows {', '.join(sorted(known))}; update this package"
        )
    return described

"""The options that say which weights are read, and what they come to for the loader."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(parser: argparse.ArgumentParser) -> None:
    """Where the parts lie that a checkpoint does not hold."""
    parser.add_argument("--sd", help="Stable Diffusion weights, where the checkpoint's own source "
                        "is not reachable")  # fmt: skip
    parser.add_argument("--text", help="CLIP text encoder for a released .pth")
    parser.add_argument("--num_heads", type=int, default=8, help="heads of a released .pth")


def options(arguments: argparse.Namespace, weights: str) -> dict[str, Any]:
    """Arguments of `Predictor.from_pretrained` and `checkpoints.load` for these `weights`.

    Raises OptionError for an option that is of the other kind of weights.
    """
    from ris.errors import OptionError
    from ris.hub import is_hub_id

    if Path(weights).is_dir() or is_hub_id(weights):
        if arguments.text:
            raise OptionError("--text is for a released .pth; a checkpoint folder knows its CLIP")
        return {"weights_source": arguments.sd} if arguments.sd else {}
    if arguments.sd:
        raise OptionError("--sd is for a checkpoint folder; a released .pth brings its weights")
    return {"text": arguments.text, "config": {"num_heads": arguments.num_heads}}

"""The options that say which weights are read, and what they come to for the loader."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

HEADS = 8  # of Stable Diffusion 1.x


def add(parser: argparse.ArgumentParser) -> None:
    """Where the parts lie that a checkpoint does not hold."""
    parser.add_argument("--sd", help="Stable Diffusion weights, where the checkpoint's own source "
                        "is not reachable")  # fmt: skip
    add_released(parser)


def add_released(parser: argparse.ArgumentParser) -> None:
    """What a released `.pth` does not say of itself."""
    parser.add_argument("--text", help="CLIP text encoder for a released .pth "
                        "(default: openai/clip-vit-large-patch14)")  # fmt: skip
    parser.add_argument("--num_heads", type=int, help="attention heads of a released .pth "
                        f"(default: {HEADS}, as Stable Diffusion 1.x has)")  # fmt: skip


def add_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--img_size", type=int, help="side in pixels that pictures are squashed to "
                        "(default: as trained; 512 for a released .pth)")  # fmt: skip


def size(arguments: argparse.Namespace) -> dict[str, Any]:
    """The argument of `Predictor.from_pretrained` that `--img_size` comes to, if it was given.

    Raises OptionError for a size that no model takes.
    """
    if arguments.img_size is None:
        return {}
    from ris.sizes import image_size

    return {"image_size": image_size(arguments.img_size)}


def options(arguments: argparse.Namespace, weights: str) -> dict[str, Any]:
    """Arguments of `Predictor.from_pretrained` and `checkpoints.load` for these `weights`.

    Raises OptionError as `chosen` does.
    """
    return chosen(arguments, weights, arguments.sd, "--sd")


def chosen(
    arguments: argparse.Namespace, weights: str | Path, source: str | None, named: str
) -> dict[str, Any]:
    """The same where Stable Diffusion's weights are called otherwise: `source`, by option `named`.

    Raises OptionError for an option that is of the other kind of weights, or out of range.
    """
    from ris.errors import OptionError
    from ris.hub import is_hub_id

    if Path(weights).is_dir() or is_hub_id(weights):
        if arguments.text:
            raise OptionError("--text is for a released .pth; a checkpoint folder knows its CLIP")
        if arguments.num_heads is not None:
            raise OptionError(
                "--num_heads is for a released .pth; a checkpoint folder knows its heads"
            )
        return {"weights_source": source} if source else {}
    if source:
        raise OptionError(f"{named} is for a checkpoint folder; a released .pth brings its weights")
    heads = HEADS if arguments.num_heads is None else arguments.num_heads
    if heads < 1:
        raise OptionError(f"--num_heads is {heads}; want 1 or more")
    return {"text": arguments.text, "config": {"num_heads": heads}}

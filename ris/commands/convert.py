"""Convert a checkpoint: a folder to the released .pth layout, or a released .pth to a folder."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="checkpoint folder, or released .pth")
    parser.add_argument("target", help="NAME.pth for the released layout, else a folder")
    parser.add_argument("--text", help="CLIP text encoder to keep with a released .pth")
    parser.add_argument("--num_heads", type=int, default=8, help="heads of a released .pth")
    parser.add_argument("--sd", help="Stable Diffusion weights, if they have moved")


def run(arguments: argparse.Namespace) -> None:
    from ris import checkpoints
    from ris.errors import OptionError
    from ris.released import save_released

    source, target = Path(arguments.source), Path(arguments.target)
    if target.exists():
        raise OptionError(f"{target} exists; name a new file or folder")
    if source.is_dir():
        model = checkpoints.load(source, weights_source=arguments.sd)
    else:
        model = checkpoints.load(
            source, text=arguments.text, config={"num_heads": arguments.num_heads}
        )
    if target.suffix == ".pth":
        save_released(model, target)
    else:
        # The source file may go away: the folder gets every weight.
        model.backbone.source = f"random (all weights inside; converted from {source.name})"
        card = checkpoints.read_config(source)["info"] if source.is_dir() else {}
        checkpoints.save(model, target, **card)
    print(f"written: {target}")

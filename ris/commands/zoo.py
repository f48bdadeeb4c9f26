"""List the named backbones, where their weights come from, and which are here."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Nothing to choose."""


def run(arguments: argparse.Namespace) -> None:
    from ris.commands.doctor import MARKS
    from ris.doctor import backbone
    from vpd.zoo import ZOO

    print(f"   {'name':6s} {'UNet channels':>24s} {'text':>5s} {'latent':>6s}  weights")
    for row in ZOO.values():
        found = backbone(row)
        channels = ", ".join(str(width) for width in row.unet["block_out_channels"])
        print(
            f"{MARKS[found.ok]} {row.name:6s} {channels:>24s} {row.text['hidden_size']:5d} "
            f"{row.vae['latent_channels']:6d}  {found.seen}"
        )
        if found.cure:
            print(f"   {'':44s} cure: {found.cure}")
    print("ris train --backbone NAME; Python: DiffusionBackbone.from_name(NAME, token_length=40)")

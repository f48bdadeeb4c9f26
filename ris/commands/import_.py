"""Make a data set of your own pictures, masks and sentences: ris import FILE.jsonl refer/data"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="JSON lines: picture, mask or polygons, sentences, split")
    parser.add_argument("root", help="data root, which receives own/")
    parser.add_argument("--pictures", help="folder of pictures and masks (default: the file's)")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")


def run(arguments: argparse.Namespace) -> None:
    from refer.own_data import NAME, import_own

    found = import_own(arguments.source, arguments.root, arguments.pictures, arguments.overwrite)
    for split, counts in found.items():
        print(f"{split}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    lacking = [split for split in ("train", "val") if split not in found]
    if lacking:
        print(f"mind: there is no split {' and no '.join(lacking)}, which training wants")
    pictures = Path(arguments.pictures or Path(arguments.source).parent)
    print(
        f"bash train.sh {NAME} LOGDIR 1 --refer_data_root {shlex.quote(arguments.root)} "
        f"--image_root {shlex.quote(str(pictures))}"
    )

"""Generate RefShapes, the self-contained data set: ris shapes OUT --train 2000"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", help="folder that receives refshapes/ and images/refshapes/")
    for split, number in (("train", 2000), ("val", 200), ("testA", 200), ("testB", 200)):
        parser.add_argument(f"--{split}", type=int, default=number, help="pictures")
    parser.add_argument("--size", type=int, default=256, help="side of the pictures in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, help="processes (default: one a core)")
    parser.add_argument("--extras", action="store_true",
                        help="also plurals, no-targets, phrases, labels")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")


def run(arguments: argparse.Namespace) -> None:
    from refer.shapes import generate
    from ris.errors import OptionError

    if not 64 <= arguments.size <= 4096:
        raise OptionError(f"--size is {arguments.size}; want 64 to 4096 pixels")
    try:
        info = generate(
            arguments.root,
            train=arguments.train,
            val=arguments.val,
            test_a=arguments.testA,
            test_b=arguments.testB,
            size=arguments.size,
            seed=arguments.seed,
            workers=arguments.workers,
            extras=arguments.extras,
            overwrite=arguments.overwrite,
        )
    except (ValueError, FileExistsError) as error:
        raise OptionError(str(error)) from error
    print(f"RefShapes in {arguments.root}: hash {info['sha256']}")

"""``python -m refer.shapes OUT``: write RefShapes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from refer.shapes.sheet import sheet
from refer.shapes.vocabulary import SPLITS
from refer.shapes.writing import generate


def _size(text: str) -> int | tuple[int, int]:
    sides = [int(side) for side in text.lower().split("x")]
    if len(sides) == 1:
        return sides[0]
    if len(sides) == 2:
        return sides[0], sides[1]
    raise ValueError(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and write the data set."""
    parser = argparse.ArgumentParser(
        prog="python -m refer.shapes",
        description="Write RefShapes, a generated referring-segmentation data set in REFER layout.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("out", help="data root; gets refshapes/ and images/refshapes/")
    parser.add_argument("--train", type=int, default=2000, metavar="N", help="training pictures")
    parser.add_argument("--val", type=int, default=200, metavar="N", help="val pictures")
    parser.add_argument("--test-a", type=int, default=200, metavar="N", help="testA: circles only")
    parser.add_argument("--test-b", type=int, default=200, metavar="N", help="testB: unseen pairs")
    parser.add_argument("--size", type=_size, default=256, metavar="S|HxW", help="picture size")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, help="processes; one a core if not given")
    parser.add_argument("--extras", action="store_true", help="files for the other tasks too")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--sheet", metavar="PNG", help="also draw a contact sheet of val")
    args = parser.parse_args(arguments)
    try:
        info = generate(
            args.out,
            train=args.train,
            val=args.val,
            test_a=args.test_a,
            test_b=args.test_b,
            size=args.size,
            seed=args.seed,
            workers=args.workers,
            extras=args.extras,
            overwrite=args.overwrite,
            progress=not args.quiet,
        )
        if args.sheet:
            sheet(args.out, "val", 24, args.sheet)
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    except (ValueError, FileExistsError) as error:
        parser.error(str(error))
    for split in SPLITS:
        count = info["counts"][split]
        print("{}: {pictures} pictures, {refs} refs, {sentences} sentences".format(split, **count))
    print(f"sha256 {info['sha256']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

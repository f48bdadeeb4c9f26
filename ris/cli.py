"""The `ris` command; what it can do is listed in `ris.commands`."""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Sequence

from ris import allocator, plugins
from ris.arguments import Parser
from ris.commands import COMMANDS
from ris.errors import EXIT_RESUMABLE, RISError, Stopped
from ris.version import __version__

# Of the disk or the place that was named, and no fault of the program.
NO_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR,
            errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)  # fmt: skip
LESS_MEMORY = {
    "train": "a smaller batch (-b; the learning rate follows), --precision bf16, a smaller "
    "--img_size, --set model.backbone.checkpointing=True, and with several GPUs --set "
    "survival.shard=True; docs/speed.md says what each costs",
    "test": "--sentence_batch 1, --precision bf16, a smaller --img_size",
}


def parser() -> Parser:
    """The whole command line; every command module adds its own part."""
    main_parser = Parser(
        prog="ris", description="Segment what a sentence refers to, on diffusion features."
    )
    main_parser.add_argument("--version", action="version", version=f"ris {__version__}")
    parts = main_parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        text = (command.__doc__ or "").strip().splitlines()[0]
        part = parts.add_parser(
            name,
            help=text,
            description=command.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(part)
        part.set_defaults(run=command.run)
        main_parser.commands[name] = part
    return main_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Errors of use print one line and give exit code 2; Ctrl-C gives 130; training
    that a signal stopped after saving its state gives 75: run the same command again."""
    arguments = parser().parse_args(argv)
    allocator.huge_pages()  # now: the command will import torch, which looks only once
    try:
        plugins.load()
        arguments.run(arguments)
    except Stopped as stopped:
        print(f"ris {arguments.command}: {stopped}", file=sys.stderr)
        return EXIT_RESUMABLE
    except KeyboardInterrupt:
        print(f"ris {arguments.command}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_PLACE and error.filename:
            print(
                f"ris {arguments.command}: error: {error.filename} cannot be written or read: "
                f"{error.strerror}; make room or take the rights there, or name another place",
                file=sys.stderr,
            )
            return 2
        if type(error).__name__ == "OutOfMemoryError":  # torch's, of a GPU
            less = LESS_MEMORY.get(arguments.command, "a smaller --img_size, --dtype bfloat16")
            print(
                f"ris {arguments.command}: error: {error}\nwhat takes less: {less}",
                file=sys.stderr,
            )
            return 1
        if not _of_use(error):
            raise
        print(f"ris {arguments.command}: error: {error}", file=sys.stderr)
        return 2
    return 0


def _of_use(error: Exception) -> bool:
    """Whether it is one of the errors that say what to do. Their packages are looked up only now:
    `ris doctor` must run where torch, which they import, does not."""
    if isinstance(error, RISError):
        return True
    try:
        from refer.errors import ReferError
        from vpd.errors import VPDError
    except ImportError:
        return False
    return isinstance(error, (ReferError, VPDError))


if __name__ == "__main__":
    raise SystemExit(main())

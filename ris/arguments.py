"""argparse that answers a misspelt option with the one that may have been meant."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """As argparse's, for a command line with commands: what is not known is said by the command
    that was given it, under its own usage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._given: list[str] = []
        self.commands: dict[str, Parser] = {}

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        self._given = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        found, left = self.parse_known_args(args, namespace)
        if left:
            command = self.commands.get(getattr(found, "command", ""), self)
            command.error(f"unrecognized arguments: {' '.join(left)}")
        return found

    def error(self, message: str) -> NoReturn:
        """Exit with code 2, as argparse does; near misses of this parser's options are named."""
        known = list(self._option_string_actions)
        for word in self._given:
            if word == "--":  # what follows are no options
                break
            option = word.partition("=")[0]
            if option.startswith("--") and not any(name.startswith(option) for name in known):
                close = difflib.get_close_matches(option, known, n=1)
                message += f"; {option}: did you mean {close[0]}?" if close else ""
        super().error(message)

"""NAME=VALUE, as --set and --trade take them."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from ris.errors import OptionError


def pairs(items: Sequence[str], option: str) -> dict[str, Any]:
    """{name: value} of `NAME=VALUE` items; a value that is no Python literal is a word.

    Raises OptionError, which names the `option`, for an item without "=".
    """
    found: dict[str, Any] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals:
            raise OptionError(f"{option} wants NAME=VALUE, got {item!r}")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found
